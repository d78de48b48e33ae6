"""`troth audit verify`: a log, a part of it, or evidence in a file, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from troth.audit.bundle import LARGEST_BUNDLE, Bundle, Outcome, Verdict, parse_bundle, verify_bundle
from troth.audit.flaw import Findings
from troth.audit.proof import HEADER, parse_log_proof
from troth.audit.proving import prove_entry
from troth.audit.redaction import NEEDED
from troth.audit.verification import Scope
from troth.cli.audit_app import app
from troth.cli.audit_log import LogCheck, check_log, read_note, show_growth, show_progress
from troth.cli.audit_report import Report, make_report, show_report
from troth.cli.command import command
from troth.cli.logsource import KEYS, LogSource, is_url, open_source
from troth.cli.terminal import Terminal
from troth.cli.vkeys import (
    list_keys,
    load_pin,
    make_trust,
    parse_vkeys,
    read_vkeys,
    save_pin,
)
from troth.core.errors import Invalid

if TYPE_CHECKING:
    from troth.audit.note import VerifierKey
    from troth.audit.pin import Pin
    from troth.audit.proof import Trust

TargetArgument = Annotated[
    str | None,
    typer.Argument(
        help="A log's folder or URL (https://…/log), a bundle or a .tlog-proof file; default: "
        "DATA/log.",
        metavar="[PATH|URL]",
        show_default=False,
    ),
]
KeyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key", help="The log's vkey, or @FILE with one a line; again for each.", metavar="VKEY"
    ),
]
WitnessOption = Annotated[
    list[str] | None,
    typer.Option("--witness", help="A witness's vkey, or @FILE; again for each.", metavar="VKEY"),
]
QuorumOption = Annotated[
    int | None,
    typer.Option(help="So many witnesses must have cosigned; default: all.", min=0, metavar="N"),
]
ForeignOption = Annotated[
    bool, typer.Option("--foreign", help="The entries aren't troth's: take them as they are.")
]

StartOption = Annotated[
    int | None, typer.Option("--from", help="From this event on.", min=1, metavar="POSITION")
]
EndOption = Annotated[
    int | None, typer.Option("--to", help="Up to this event.", min=1, metavar="POSITION")
]
EntryOption = Annotated[
    int | None, typer.Option(help="This event alone.", min=1, metavar="POSITION")
]
DetailsOption = Annotated[
    bool | None,
    typer.Option(
        "--details/--no-details",
        help="Look at what lies beside the entries; default: if it is there.",
    ),
]
DecisionsOption = Annotated[
    Path | None,
    typer.Option(
        help="A folder of decision segments, to be held against the log.",
        metavar="DIR",
    ),
]
ArchiveOption = Annotated[
    Path | None,
    typer.Option(help="A folder that is an archive, for the same.", metavar="DIR"),
]
PinOption = Annotated[
    Path | None,
    typer.Option(
        help="Remember the log here, and see next time that it only grew.", metavar="FILE"
    ),
]
FirstUseOption = Annotated[
    bool,
    typer.Option("--trust-on-first-use", help="Without a key, believe the one that the log names."),
]


@command(
    app,
    "verify",
    local=True,
    example="troth audit verify --key @example.org.vkey\n"
    "troth audit verify https://troth.example.org:8443/log --key @example.org.vkey --pin log.pin\n"
    "troth audit verify evidence.json --key @example.org.vkey\n"
    "troth audit verify copy/log --key @example.org.vkey --decisions copy/decisions --json",
)
def verify(
    terminal: Terminal,
    target: TargetArgument = None,
    key: KeyOption = None,
    witness: WitnessOption = None,
    quorum: QuorumOption = None,
    start: StartOption = None,
    end: EndOption = None,
    entry: EntryOption = None,
    details: DetailsOption = None,
    decisions: DecisionsOption = None,
    archive: ArchiveOption = None,
    pin: PinOption = None,
    trust_on_first_use: FirstUseOption = False,
    foreign: ForeignOption = False,
) -> None:
    """Verify a log from its files alone: every tile, every entry, and what lies beside it.

    Whoever serves the files isn't believed; the log's key is, which its operator hands out. Damaged
    places are named one by one. An event's POSITION is the one that all commands show, from 1 on;
    its entry in the log is the one before, since those count from 0.
    """
    where = target or str(terminal.options.data / "log")
    if not is_url(where) and Path(where).is_file():
        _refuse(start=start, end=end, entry=entry, pin=pin)
        _refuse(decisions=decisions, archive=archive)
        trust = make_trust(read_vkeys(key or [], "--key"), _read_witnesses(witness), quorum)
        if trust is None:
            terminal.say(KEYLESS[0])
        show_report(terminal, verify_file(Path(where), trust, foreign))
        return
    folders = (decisions, archive)
    if entry is not None or any(folders):
        _refuse(start=start, end=end)
    if entry is not None:
        _refuse(decisions=decisions, archive=archive)
    with open_source(where, terminal.options.ca_file) as source:
        seen = load_pin(pin) if pin is not None else None
        folder = None if is_url(where) else Path(where)
        keys = read_vkeys(key or [], "--key", apart_from=folder) or list_keys(seen)
        if not keys and trust_on_first_use:
            keys = parse_vkeys(source.read(KEYS))
            terminal.say(f"The key is the one that {source.where} names itself: on trust.")
        trust = make_trust(keys, _read_witnesses(witness), quorum)
        if trust is None:
            terminal.say(*KEYLESS)
        deep = source.has_details if details is None else details
        if entry is not None:
            check, report = _verify_one(source, trust, seen, entry, foreign)
        else:
            scope = Scope((start or 1) - 1, end, leaves=not foreign, details=deep)
            check, report = _verify_log(terminal, source, trust, seen, scope, folders)
    if pin is not None and trust is not None and report.holds:
        save_pin(pin, trust.keys, check.note)
        terminal.say(f"Remembered in {pin}.")
    show_report(terminal, report)


KEYLESS = (
    "Without the log's key nothing shows whose log this is. Its operator hands the key out (it is "
    "the file `vkey` of the log) by another way than the files themselves: give it with --key.",
    "With --trust-on-first-use the key is taken from the log; whoever rewrote that has rewritten "
    "the key as well. With --pin it is remembered then.",
)


def _verify_log(
    terminal: Terminal,
    source: LogSource,
    trust: Trust | None,
    seen: Pin | None,
    scope: Scope,
    folders: tuple[Path | None, Path | None],
) -> tuple[LogCheck, Report]:
    from troth.cli.audit_decisions import Closed, note_missing, show_archive, show_decisions
    from troth.cli.toldevents import ToldEvents

    decisions, archive = folders
    closed = Closed(events=ToldEvents() if archive else None) if decisions or archive else None
    watch = None if closed is None else closed.notice
    with show_progress(terminal) as progress:
        check = check_log(source, read_note(source), trust, seen, scope, progress, watch)
    if closed is not None and check.verdict.checkpoint is not None:
        if decisions is not None:
            show_decisions(decisions, closed, check.verdict, check.findings)
        if archive is not None:
            show_archive(archive, closed, check.verdict, check.findings)
        note_missing(closed, check.findings)
    return check, make_report("log", source.where, check.verdict, check.findings)


def _verify_one(
    source: LogSource, trust: Trust | None, seen: Pin | None, position: int, foreign: bool
) -> tuple[LogCheck, Report]:
    """Verify one event from a log's files."""
    note = read_note(source)
    bundle = prove_entry(source.read, note, position)
    check = LogCheck(verify_bundle(bundle, trust, foreign=foreign), Findings(), note)
    if source.has_details:
        _judge_gone(check.verdict)
    checkpoint = check.verdict.checkpoint
    if seen is not None and checkpoint is not None:
        show_growth(source, seen, checkpoint, check)
    return check, make_report("entry", source.where, check.verdict)


def _judge_gone(verdict: Verdict) -> None:
    """Where details are, one that is gone needs an event that says so: it stands elsewhere."""
    leaf = verdict.leaf
    if leaf is None or verdict.detail is not None or _is_wrong(verdict):
        return
    if leaf.type.startswith(NEEDED):
        words = f"Its detail was emptied: an event {leaf.type!r} is never redacted."
        verdict.note(Outcome.WRONG, words)
        return
    words = "Whether the detail was redacted is told by a later event: verify up to the end of the "
    verdict.note(Outcome.OPEN, f"{words}log.")


def verify_file(path: Path, trust: Trust | None, foreign: bool = False) -> Report:
    """Verify a bundle, or a proof that has its entry with it; `Invalid` if it is neither."""
    with path.open("rb") as file:
        data = file.read(LARGEST_BUNDLE + 1)
    if not data.startswith(HEADER.encode()):
        bundle = parse_bundle(data)
        decision = None
        verdict = verify_bundle(bundle, trust)
        if bundle.decision is not None and not _is_wrong(verdict):
            from troth.cli.audit_decisions import view_decision

            decision = view_decision(bundle.decision.entry)
        return make_report("bundle", str(path), verdict, decision=decision)
    proof = parse_log_proof(data)
    if proof.extra is None:
        raise Invalid(
            "The proof has no entry with it, so there is nothing that it could prove here: `troth "
            "audit prove --format tlog-proof` writes the entry as its extra data."
        )
    verdict = verify_bundle(Bundle(proof.extra, b"", proof), trust, foreign=foreign)
    return make_report("proof", str(path), verdict)


def _read_witnesses(given: list[str] | None) -> tuple[VerifierKey, ...]:
    return read_vkeys(given or [], "--witness")


def _is_wrong(verdict: Verdict) -> bool:
    return any(step.outcome is Outcome.WRONG for step in verdict.steps)


def _refuse(**given: object) -> None:
    """Wrong usage is an option that means nothing for this target."""
    names = {"start": "--from", "end": "--to"}
    for name, value in given.items():
        if value is not None:
            raise typer.BadParameter(
                f"{names.get(name, f'--{name}')} doesn't go with what is to be verified here; "
                "leave it out."
            )
