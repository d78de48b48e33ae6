"""What can be wrong with an installation on this machine: one check a function, findings out."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from pathlib import Path

from troth.cli.options import ADMIN_SOCKET, AGENT_SOCKET, CA_FILE
from troth.cli.words import describe_moment, describe_time
from troth.core.errors import Invalid, TrothError
from troth.identity.selectors import Selector, find_weakness
from troth.sdk.workload import AgentUnreachable, NoIdentity, WorkloadApi, find_socket
from troth.wire.api.client_secrets import ClientSecretView
from troth.wire.api.identities import IdentityView
from troth.wire.api.status import StatusView

PUBLIC_FILES = (CA_FILE, "troth.toml")
PRIVATE_DIRECTORIES = {"keys", "agent"}
MAX_LOOKED_AT = 10_000
SLACK = timedelta(seconds=5)
EARLIEST = 2026
"""The clock of a machine without a battery starts long before this program was written."""


class Level(StrEnum):
    """How bad a finding is; only `WRONG` makes doctor fail."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what it is like, and how to mend it."""

    level: Level
    subject: str
    words: str
    remedy: str = ""


def check_data(data: Path) -> Iterator[Finding]:
    """The data directory and what must be private in it."""
    try:
        found = data.lstat()
        list(data.iterdir())
    except FileNotFoundError:
        words = f"{data} does not exist."
        remedy = "Start a server (`troth up`), or name its directory with --data or TROTH_DATA."
        yield Finding(Level.WRONG, "data", words, remedy)
        return
    except PermissionError:
        words = f"{data} may only be looked at by its owner."
        yield Finding(Level.WARNING, "data", words, "Run doctor as the server's user or as root.")
        return
    loose = list(islice(_find_loose(data), 20))
    if found.st_mode & 0o022:
        loose.insert(0, (data, found.st_mode, 0o711))
    for path, mode, wanted in loose:
        yield Finding(
            Level.WRONG,
            "data",
            f"{path} has mode {stat.S_IMODE(mode):04o}: others may read or change it.",
            f"chmod {wanted:04o} {path}; if others have access to this machine, rotate the keys.",
        )
    if not loose:
        yield Finding(Level.OK, "data", f"{data}: private files are private.")


def check_sockets(data: Path) -> Iterator[Finding]:
    """The two sockets in the data directory: there, and alive."""
    for name, purpose, start in (
        (ADMIN_SOCKET, "the server's admin socket", "troth up"),
        (AGENT_SOCKET, "the agent's socket", "troth up` or `troth agent"),
    ):
        path = data / name
        if not path.exists():
            continue
        if not stat.S_ISSOCK(path.lstat().st_mode):
            words = f"{path} should be {purpose}, but it is no socket."
            yield Finding(Level.WRONG, "sockets", words, f"Remove it and start `{start}`.")
        elif (problem := _try_socket(path)) is not None:
            words = f"{path}: nothing listens on {purpose} ({problem})."
            yield Finding(Level.WRONG, "sockets", words, f"Start `{start}` again.")
        else:
            yield Finding(Level.OK, "sockets", f"{path}: alive.")


def check_agent(address: str) -> Iterator[Finding]:
    """The Workload API: whether it answers, and what it says to this process."""
    try:
        update = WorkloadApi(address).fetch_x509()
    except NoIdentity:
        yield Finding(Level.OK, "agent", f"{address} answers; this process itself has no identity.")
    except AgentUnreachable as error:
        remedy = "Start `troth up` or `troth agent`; without an agent no workload gets anything."
        words = (
            f"no agent answers at {address}: {error.detail.partition(' (')[2].partition(')')[0]}."
        )
        yield Finding(Level.WRONG, "agent", words, remedy)
        return
    except Invalid as error:
        yield Finding(Level.WRONG, "agent", error.detail, "Correct SPIFFE_ENDPOINT_SOCKET.")
        return
    except TrothError as error:
        remedy = "See the agent's log; it may have lost the server or still be starting."
        yield Finding(Level.WRONG, "agent", error.detail, remedy)
        return
    else:
        names = ", ".join(svid.spiffe_id for svid in update.svids)
        yield Finding(Level.OK, "agent", f"{address} answers; this process is {names}.")
    yield from check_reach(Path(find_socket(address)))


def check_reach(path: Path) -> Iterator[Finding]:
    """Whether processes of every user can get as far as the agent's socket."""
    try:
        closed = [folder for folder in path.parents if not folder.stat().st_mode & stat.S_IXOTH]
        writable = path.stat().st_mode & stat.S_IWOTH
    except OSError:
        return
    if closed or not writable:
        place = closed[-1] if closed else path
        yield Finding(
            Level.WARNING,
            "agent",
            f"{place} keeps processes of other users away from the agent's socket.",
            f"chmod o+{'x' if closed else 'rw'} {place}, or give the agent another --socket.",
        )


def check_secrets(items: Iterable[ClientSecretView], now: datetime) -> Iterator[Finding]:
    """Client secrets that live: each can be copied, and most clients can do better."""
    for item in items:
        ends = describe_time(item.expires_at, now)
        words = (
            f"'{item.identity}' of {item.owner} asks for tokens with a secret ({item.id}), which "
            f"can be copied and ends {ends}."
        )
        remedy = (
            f"Let it use {item.instead}, then `troth client-secret revoke {item.id} --reason TEXT`."
        )
        yield Finding(Level.WARNING, "client secret", words, remedy)


def check_status(view: StatusView, now: datetime) -> Iterator[Finding]:
    """What the server says about itself, and what its dates say about this clock."""
    if view.ready:
        words = f"{view.trust_domain} is ready, started {describe_time(view.started_at, now)}."
        yield Finding(Level.OK, "server", words)
    else:
        remedy = "Mend what is listed below it; the server's log tells more."
        yield Finding(Level.WRONG, "server", "The server runs and is not ready.", remedy)
    for finding in view.findings:
        yield Finding(Level.WARNING, "server", finding, "See the server's log if this stays.")
    yield from _check_crl(view, now)
    yield from _check_clock(view, now)
    for authority in view.authorities:
        if authority.state == "active" and authority.not_after <= now:
            words = f"The {authority.use} authority {authority.id} has expired."
            yield Finding(Level.WRONG, "server", words, "Restart the server: it makes a new one.")


def check_selectors(items: list[IdentityView]) -> Iterator[Finding]:
    """Identities that a same-uid neighbour could pass for, and such as nobody can obtain."""
    weak = 0
    for item in items:
        if item.state == "retired" or not item.selectors:
            continue
        weakness = find_weakness(_parse_known(item.selectors))
        if weakness is not None:
            weak += 1
            words, _, remedy = weakness.partition(". ")
            yield Finding(Level.WARNING, "selectors", f"{item.name} {words}.", remedy)
    if not weak:
        words = "no identity rests on the executable alone." if items else "no identities yet."
        remedy = "" if items else "Describe one in a file and `troth apply FILE`."
        yield Finding(Level.OK, "selectors", words, remedy)


def _check_crl(view: StatusView, now: datetime) -> Iterator[Finding]:
    if view.crl_next_update is None:
        remedy = "Wait a moment; if it stays, see the server's log for crl.publish."
        yield Finding(Level.WARNING, "revocation", "There is no revocation list yet.", remedy)
    elif view.crl_next_update <= now:
        ended = describe_moment(view.crl_next_update, now)
        words = f"The revocation list has ended: {ended}."
        remedy = "Verifiers refuse everybody until it is renewed: restart the server, see its log."
        yield Finding(Level.WRONG, "revocation", words, remedy)
    else:
        left = describe_time(view.crl_next_update, now)
        yield Finding(Level.OK, "revocation", f"The revocation list holds; it ends {left}.")


def _check_clock(view: StatusView, now: datetime) -> Iterator[Finding]:
    remedy = "Set the clock (`timedatectl set-ntp true`); certificates depend on it."
    early = [a for a in view.authorities if a.state == "active" and a.not_before > now + SLACK]
    if now.year < EARLIEST:
        words = f"This machine believes that it is {now:%Y-%m-%d}."
        yield Finding(Level.WRONG, "clock", words, remedy)
    elif view.started_at > now + SLACK or early:
        behind = describe_time(max([view.started_at, *(a.not_before for a in early)]), now)
        words = f"This machine's clock is behind the server's: things start {behind} that have."
        yield Finding(Level.WRONG, "clock", words, remedy)
    else:
        yield Finding(Level.OK, "clock", f"{now:%Y-%m-%d %H:%M:%S} UTC is plausible.")


def _find_loose(data: Path) -> Iterator[tuple[Path, int, int]]:
    """Files and directories that others could read or change: path, mode, the right mode."""
    for path in islice(_walk(data), MAX_LOOKED_AT):
        try:
            mode = path.lstat().st_mode
        except OSError:
            continue  # gone meanwhile: temporary files come and go
        private = not PRIVATE_DIRECTORIES.isdisjoint(path.relative_to(data).parts)
        if stat.S_ISDIR(mode) and mode & (0o077 if private else 0o022):
            yield path, mode, 0o700
        elif stat.S_ISREG(mode):
            allowed = 0o022 if path.name in PUBLIC_FILES and not private else 0o077
            if mode & allowed:
                yield path, mode, 0o644 if allowed == 0o022 else 0o600


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        yield from (Path(root, name) for name in (*sorted(folders), *sorted(files)))


def _try_socket(path: Path) -> str | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2.0)
        try:
            probe.connect(str(path))
        except PermissionError:
            return None  # somebody listens there, only not for us
        except OSError as error:
            return error.strerror or str(error)
    return None


def _parse_known(texts: list[str]) -> list[Selector]:
    selectors = []
    for text in texts:
        try:
            selectors.append(Selector.parse(text))
        except Invalid:
            continue
    return selectors
