"""Why a process gets an identity or none: what it proved against what each registration demands.

Source of the question: it is the most frequent one of everybody who runs SPIFFE.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path

import msgspec

from troth.cli.words import describe_time
from troth.core.errors import Invalid, NotFound, TrothError
from troth.core.ids import SpiffeId
from troth.drivers.attestors import BUILT_IN, Peer, WorkloadAttestor
from troth.drivers.attestors.procfs import read_start_time
from troth.identity.readers import ANY_NODE
from troth.identity.selectors import Match, Selector, match_selectors
from troth.wire.api.identities import IdentityView

PROC = Path("/proc")
MAX_STATUS = 64 << 10
DELETED = " (deleted)"
AGENT_DIRECTORY, NODE_FILE = "agent", "node.json"
MAX_NODE_FILE = 1 << 20
NODE_PATH = "/troth/node/"
NOT_LOOKED_AT = (
    "The program could not be looked at, so its path and hash are missing here: run doctor as root "
    "or as the process' user."
)
REMEDIES = {
    "proposed": "troth identity activate {name} --reason TEXT",
    "suspended": "troth identity resume {name} --reason TEXT",
    "quarantined": "troth identity release {name} --reason TEXT (once it is clean)",
    "retired": "register it anew under another name; a retired identity doesn't come back",
}
"""State → what lets the identity work again."""


class _NodeName(msgspec.Struct, frozen=True):
    """What doctor reads of an agent's credential, and nothing else of it."""

    spiffe_id: str


@dataclass(frozen=True, slots=True)
class Attestation:
    """What this machine's attestors prove about a process, and what kept them from proving more.

    `started` is when it started, in seconds since 1970, as far as that can be told.
    """

    pid: int
    uid: int
    selectors: tuple[Selector, ...]
    notes: tuple[str, ...]
    started: float | None = None
    partial: bool = False
    """Whether we may see less of the process than the agent does."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One registration compared with the process; `obstacles` say what else is in the way.

    `remedies` is what to do about missing selectors and obstacles, in the same order.
    """

    name: str
    spiffe_id: str
    state: str
    match: Match
    obstacles: tuple[str, ...]
    remedies: tuple[str, ...]

    @property
    def obtains(self) -> bool:
        """Whether the process gets this identity."""
        return self.match.complete and not self.obstacles


def attest_process(pid: int, proc: Path = PROC) -> Attestation:
    """Attest process `pid` as the agent would; raises `NotFound` if it isn't there."""
    uid, gid = _read_owner(proc, pid)
    selectors: list[Selector] = []
    notes: list[str] = []
    for name, factory in BUILT_IN.items():
        try:
            proved = _open_attestor(factory).attest(Peer(pid, uid, gid))
            selectors += [Selector.parse(text) for text in proved]
        except TrothError as error:
            notes.append(f"The {name} attestor: {error.detail}")
    partial = False
    if not any(selector.key == "unix:path" for selector in selectors):
        note = _explain_program(proc, pid)
        partial = note is None
        notes.append(note or NOT_LOOKED_AT)
    return Attestation(
        pid, uid, tuple(selectors), tuple(notes), _read_start(proc, pid), partial=partial
    )


def find_node(data: Path, default: str) -> str:
    """The name under which the agent of `data` joined; `default` if that can't be read."""
    try:
        with (data / AGENT_DIRECTORY / NODE_FILE).open("rb") as file:
            held = msgspec.json.decode(file.read(MAX_NODE_FILE), type=_NodeName)
        path = SpiffeId.parse(held.spiffe_id).path
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError, Invalid):
        return default
    return path.removeprefix(NODE_PATH) if path.startswith(NODE_PATH) else default


def compare_identities(
    items: Iterable[IdentityView], attestation: Attestation, node: str, now: datetime
) -> list[Candidate]:
    """Every registration against the process, the nearest first."""
    attested = frozenset(attestation.selectors)
    candidates = [_compare(item, attested, node, now) for item in items if item.state != "retired"]
    return sorted(
        candidates,
        key=lambda c: (
            not c.obtains,
            not (c.match.held or c.match.missing),  # nobody is near what demands nothing
            len(c.match.missing),
            -len(c.match.held),
            len(c.obstacles),
            c.name,
        ),
    )


def explain_missing(selector: Selector, attested: Iterable[Selector]) -> str:
    """What was demanded and what was there instead: ``wants unix:uid:1001, it is 0``."""
    values = [other.value for other in attested if other.key == selector.key]
    if not values:
        return f"wants {selector}, which was not proved"
    return f"wants {selector}, it is {' and '.join(values)}"


def _compare(
    item: IdentityView, attested: frozenset[Selector], node: str, now: datetime
) -> Candidate:
    match = match_selectors(_parse_selectors(item.selectors), attested)
    obstacles: list[str] = []
    remedies: list[str] = []
    if not item.selectors:
        obstacles.append("it has no selectors")
        remedies.append("give it selectors in its manifest, such as unix:uid:1001")
    if match.missing:
        remedies.append("correct its selectors, or start the process as they demand")
    if item.state != "active":
        reason = f" ({item.state_reason})" if item.state_reason else ""
        obstacles.append(f"it is {item.state}{reason}")
        if item.state in REMEDIES:
            remedies.append(REMEDIES[item.state].format(name=item.name))
    if item.expires_at <= now:
        obstacles.append(f"it expired {describe_time(item.expires_at, now)}")
        remedies.append("give it a later 'expires' in its manifest")
    if node not in item.nodes and ANY_NODE not in item.nodes:
        obstacles.append(f"it is for {', '.join(item.nodes) or 'no node'}, this node is {node}")
        remedies.append(f"add {node} to its 'nodes', or name this node with --node")
    return Candidate(
        item.name, item.spiffe_id, item.state, match, tuple(obstacles), tuple(remedies)
    )


def _parse_selectors(texts: Iterable[str]) -> list[Selector]:
    """A newer server may know selectors that we don't: they can't be met here, so they stay."""
    selectors = []
    for text in texts:
        try:
            selectors.append(Selector.parse(text))
        except Invalid:
            kind, _, rest = text.partition(":")
            attribute, _, value = rest.partition(":")
            selectors.append(Selector(f"{kind}:{attribute}", value))
    return selectors


def _open_attestor(factory: str) -> WorkloadAttestor:
    module, _, name = factory.partition(":")
    attestor: WorkloadAttestor = getattr(import_module(module), name)()
    return attestor


def _explain_program(proc: Path, pid: int) -> str | None:
    """Why the program proves nothing although it may be looked at; None if it may not."""
    try:
        path = str((proc / str(pid) / "exe").readlink())
    except OSError:
        return None
    program = path.removesuffix(DELETED)
    if program == path:
        return f"{path} can't be a selector's value, or it is no regular file."
    happened = "replaced" if Path(program).exists() else "deleted"
    remedy = "restart it" if happened == "replaced" else "put it back and restart the process"
    return (
        f"{program}: its file was {happened} since it started, so nothing tells what runs there; "
        f"{remedy}."
    )


def _read_start(proc: Path, pid: int) -> float | None:
    """When the process started, in seconds since 1970."""
    try:
        ticks = read_start_time(proc, pid)
        lines = (proc / "stat").read_text("ascii", "replace").splitlines()
    except (OSError, TrothError):
        return None
    boot = next((line.split()[1] for line in lines if line.startswith("btime ")), None)
    return None if boot is None else int(boot) + ticks / os.sysconf("SC_CLK_TCK")


def _read_owner(proc: Path, pid: int) -> tuple[int, int]:
    """Effective uid and gid, which is what the kernel notes when a process connects."""
    try:
        with (proc / str(pid) / "status").open("rb") as file:
            lines = file.read(MAX_STATUS).decode("utf-8", "replace").splitlines()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NotFound(f"There is no process {pid} on this machine; see `ps -e`.") from error
    fields = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
    return int(fields["Uid"][1]), int(fields["Gid"][1])
