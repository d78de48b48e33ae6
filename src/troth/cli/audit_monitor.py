"""`troth audit monitor`: follow somebody else's log, and raise the alarm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from troth.audit.bundle import Outcome
from troth.audit.checkpoint import parse_checkpoint
from troth.audit.continuity import Forked, RolledBack
from troth.audit.note import parse_note
from troth.audit.verification import Scope
from troth.cli.audit_app import app
from troth.cli.audit_log import LogCheck, check_log, read_note
from troth.cli.audit_report import Report, make_report
from troth.cli.audit_verify import ForeignOption, QuorumOption, WitnessOption
from troth.cli.command import command
from troth.cli.following import pause
from troth.cli.logsource import LogSource, is_url, open_source
from troth.cli.secrets import replace_file
from troth.cli.terminal import WANTING, Terminal, make_text
from troth.cli.vkeys import load_pin, make_trust, read_vkeys, save_pin
from troth.core.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from rich.text import Text

    from troth.audit.pin import Pin
    from troth.audit.proof import Trust

PERIOD = 60.0
SHORTEST = 1.0


class Sighting(msgspec.Struct, frozen=True):
    """One look at a log. `alarm` is "", or ``fork``, ``rollback`` or ``damage``; `evidence` the
    file that keeps both checkpoints."""

    at: str
    alarm: str
    report: Report
    evidence: str = ""


class Evidence(msgspec.Struct, frozen=True):
    """Two checkpoints of one log that can't both be true, as they were signed."""

    alarm: str
    words: list[str]
    seen: str
    found: str


@command(
    app,
    "monitor",
    local=True,
    streaming=True,
    example="troth audit monitor https://troth.example.org:8443/log --key @example.org.vkey \\\n"
    "      --state example.org.json\n"
    "troth audit monitor https://log.example.net --key @example.net.vkey --foreign \\\n"
    "      --state example.net.json --once --json",
)
def monitor(
    terminal: Terminal,
    target: Annotated[
        str, typer.Argument(help="A log's URL (https://…/log) or folder.", metavar="URL|PATH")
    ],
    state: Annotated[
        Path,
        typer.Option(help="Where to remember how far it was verified.", metavar="FILE"),
    ],
    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            help="The log's vkey, or @FILE with one a line; again for each.",
            metavar="VKEY",
        ),
    ],
    witness: WitnessOption = None,
    quorum: QuorumOption = None,
    every: Annotated[
        float, typer.Option(help="Look again after so long.", min=SHORTEST, metavar="SECONDS")
    ] = PERIOD,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    foreign: ForeignOption = False,
) -> None:
    """Follow a log: each new checkpoint must continue the one before, and every new entry be in it.

    It ends with exit code 1 as soon as the log was forked, rolled back or damaged, and keeps the
    contradicting checkpoints beside the state file. A log that can't be reached is waited for. It
    goes on where it ended. With --json each look is one line.
    """
    folder = None if is_url(target) else Path(target)
    keys = read_vkeys(key, "--key", apart_from=folder)
    trust = make_trust(keys, read_vkeys(witness or [], "--witness"), quorum)
    if trust is None:
        raise typer.BadParameter("--key: without the log's key there is nothing to follow.")
    with open_source(target, terminal.options.ca_file) as source:
        try:
            for _ in _beat(every, once=once):
                try:
                    sighting = look(terminal, source, trust, state, foreign=foreign)
                except Unavailable as error:
                    if once:
                        raise
                    terminal.say(f"{error.detail} Looking again in {every:g} s.")
                    continue
                _tell(terminal, sighting)
        except KeyboardInterrupt:
            return


def _beat(every: float, *, once: bool) -> Iterator[None]:
    yield
    while not once:
        pause(every)
        yield


def look(
    terminal: Terminal, source: LogSource, trust: Trust, state: Path, *, foreign: bool
) -> Sighting:
    """Verify what is new since the last time, and remember it if it is right."""
    seen = load_pin(state)
    note = read_note(source)
    start, size = seen.size if seen is not None else 0, _find_size(note)
    scope = Scope(min(start, size), size, leaves=not foreign, details=False)
    check = check_log(source, note, trust, seen, scope)
    alarm = _find_alarm(check)
    kept = ""
    if alarm and seen is not None and check.refusals:
        kept = _keep_evidence(state, alarm, seen, check)
    if not alarm and check.verdict.holds:
        save_pin(state, trust.keys, check.note)
    report = make_report("log", source.where, check.verdict, check.findings)
    return Sighting(terminal.now().isoformat(), alarm, report, kept)


def _find_size(note: bytes) -> int:
    """The size in a checkpoint, 0 where it can't be read: then its own step says so."""
    try:
        return parse_checkpoint(parse_note(note).text).size
    except Invalid:
        return 0


def _find_alarm(check: LogCheck) -> str:
    for error in check.refusals:
        if isinstance(error, Forked):
            return "fork"
        if isinstance(error, RolledBack):
            return "rollback"
    return "damage" if any(one.outcome is Outcome.WRONG for one in check.verdict.steps) else ""


def _keep_evidence(state: Path, alarm: str, seen: Pin, check: LogCheck) -> str:
    """Both checkpoints, in a file of their own; where it is."""
    words = [error.detail for error in check.refusals]
    found = check.note.decode("utf-8", "replace")
    evidence = Evidence(alarm, words, seen.note, found)
    path = state.with_name(f"{state.name}.{alarm}")
    replace_file(path, msgspec.json.format(msgspec.json.encode(evidence), indent=2) + b"\n", 0o644)
    return str(path)


def _tell(terminal: Terminal, sighting: Sighting) -> None:
    terminal.show_line(sighting, lambda: _paint(sighting))
    if not sighting.alarm:
        return
    wrong = [one.words for one in sighting.report.steps if one.outcome == Outcome.WRONG]
    terminal.say(*wrong, *(one.detail for one in sighting.report.flaws), style="red")
    if sighting.evidence:
        terminal.say(f"Both checkpoints are in {sighting.evidence}: keep it.")
    raise typer.Exit(WANTING)


def _paint(sighting: Sighting) -> Text:
    report = sighting.report
    if sighting.alarm:
        return make_text(
            (f"{sighting.at} ", "dim"), (sighting.alarm.upper(), "bold red"), f" {report.origin}"
        )
    words = f" {report.origin}: {report.size} entries, {report.entries} verified now"
    return make_text((f"{sighting.at} ", "dim"), ("ok", "green"), words)
