"""The chapter of the log: what led to a decision, its proof offline, and a copy tampered with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from troth.audit.checkpoint import parse_checkpoint
from troth.audit.note import parse_note
from troth.audit.tile import WIDTH, name_entries
from troth.cli.demonstration.narration import Step
from troth.cli.demonstration.policies import QUESTION
from troth.cli.demonstration.scene import Scene
from troth.core.errors import Unavailable
from troth.wire.api import decisions

KEY = "log.vkey"
EVIDENCE = "decision.json"
COPY = "copy-of-the-log"


def trace(scene: Scene, step: Step) -> None:
    """One denied call at the gate, with everything that belongs to it."""
    tell = scene.narrator
    decision = _find_denied(scene)
    scene.notes["decision"] = decision.id
    tell.say(f"Some minutes later somebody asks what {decision.id} was.")
    tell.type(f"troth audit trace {decision.id}")
    done = scene.run_troth("audit", "trace", decision.id)
    tell.quote(done.stdout)
    tell.check("the request and its decision are one story", decision.id in done.stdout)
    who = QUESTION[0]
    tell.check(f"it says who wanted to: {who}", who in done.stdout)
    step.facts.update(decision=decision.id, request=decision.request_id)
    first, later = _find_chain(scene)
    tell.say("And what became of the token that the reporter once got:")
    tell.type(f"troth audit trace {first}")
    chain = scene.run_troth("audit", "trace", first)
    tell.quote(chain.stdout)
    tell.check(
        "from the token to what it was exchanged for, each step says what ties it",
        chain.returncode == 0 and later in chain.stdout,
        f"{len(chain.stdout.splitlines()) - 1} steps",
    )


def prove(scene: Scene, step: Step) -> None:
    """Evidence in one file, checked without a server and with nothing but the log's public key."""
    tell = scene.narrator
    folder = scene.stage.folder
    key = _keep_key(scene)
    evidence = folder / EVIDENCE
    name = str(scene.notes["decision"])
    tell.type(f"troth audit prove {name} -o {EVIDENCE}")
    done = scene.run_troth("audit", "prove", name, "-o", evidence)
    tell.quote(done.stderr)
    tell.type(f"troth audit verify {EVIDENCE} --key @{KEY}")
    shown = scene.run_offline("audit", "verify", evidence, "--key", f"@{key}")
    tell.quote(shown.stdout)
    tell.check(
        "the file proves the decision, without a server and without trust in one",
        done.returncode == 0 and shown.returncode == 0,
        f"exit {shown.returncode}",
    )
    forged = folder / f"forged-{EVIDENCE}"
    forged.write_text(_turn_around(evidence.read_text()))
    tell.say("The same file, with the decision turned into its opposite:")
    tell.type(f"troth audit verify forged-{EVIDENCE} --key @{KEY}")
    refused = scene.run_offline("audit", "verify", forged, "--key", f"@{key}")
    tell.quote(refused.stdout)
    tell.check("a forged one is refused", refused.returncode == 1, f"exit {refused.returncode}")


def tamper(scene: Scene, step: Step) -> None:
    """An auditor's copy of all files: whole at first, and caught with one byte changed."""
    tell = scene.narrator
    copy, key = scene.stage.folder / COPY, scene.stage.folder / KEY
    size = _copy_log(scene.data / "log", copy)
    command = ("audit", "verify", copy, "--key", f"@{key}", "--json")
    tell.type(f"troth audit verify {COPY} --key @{KEY}")
    whole = scene.run_offline(*command)
    tell.check("the whole log verifies from its files", whole.returncode == 0, _count(whole.stdout))
    # Not what was written after the checkpoint: that may be copied too, and nothing vouches for it.
    victim = copy / name_entries(0, min(size, WIDTH))
    data = bytearray(victim.read_bytes())
    at = data.index(b'"outcome":"') + len(b'"outcome":"')
    data[at] ^= 1
    victim.write_bytes(bytes(data))
    tell.say(f"One bit of {victim.relative_to(copy)} is flipped, byte {at}.")
    tell.type(f"troth audit verify {COPY} --key @{KEY}")
    caught = scene.run_offline(*command[:-1])
    tell.quote(caught.stdout)
    name = str(victim.relative_to(copy))
    tell.check(
        "it is caught, and named",
        caught.returncode == 1 and name in caught.stdout + caught.stderr,
        f"exit {caught.returncode}",
    )


def _copy_log(log: Path, copy: Path) -> int:
    """Copy a log that grows, its checkpoint first; how many entries that is of."""
    checkpoint = (log / "checkpoint").read_bytes()
    shutil.copytree(log, copy)
    (copy / "checkpoint").write_bytes(checkpoint)
    return parse_checkpoint(parse_note(checkpoint).text).size


def _find_denied(scene: Scene) -> decisions.DecisionView:
    page = scene.api.call(
        "decision.ls",
        decisions.ListDecisions(subject=QUESTION[0], resource="ledger", allowed=False, limit=50),
    )
    for one in page.items:
        if one.point == "envoy":
            return one  # type: ignore[no-any-return]  # of the API's own type
    raise Unavailable("No call was denied at the gate: there is nothing to look at.")


def _find_chain(scene: Scene) -> tuple[str, str]:
    """The request in which a token was given out, and the position where it was exchanged."""
    given: dict[str, str] = {}
    for entry in scene.read_journal(0):
        if entry.type == "token.issued":
            given[str(entry.body["jti"])] = entry.request_id
        elif entry.type == "token.exchanged" and entry.body.get("from_jti") in given:
            return given[entry.body["from_jti"]], str(entry.position)
    raise Unavailable("No token was passed on: there is no chain to look at.")


def _keep_key(scene: Scene) -> Path:
    """The log's public keys, as an auditor got them long before: here, from the server."""
    answer = scene.get("/log/vkey")
    if answer is None or answer.status_code != 200:
        raise Unavailable("The server doesn't show the log's keys.")
    path = scene.stage.folder / KEY
    path.write_bytes(answer.content)
    return path


def _turn_around(text: str) -> str:
    """The evidence with its decision allowed: in MessagePack, false is C2 and true is C3."""
    document = json.loads(text)
    entry = bytes.fromhex(document["decision"]["entry"])
    document["decision"]["entry"] = entry.replace(b"\xc2", b"\xc3", 1).hex()
    return json.dumps(document)


def _count(report: str) -> str:
    try:
        return f"{json.loads(report)['entries']} entries"
    except (ValueError, KeyError, TypeError):
        return report[:80]
