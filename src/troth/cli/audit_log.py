"""A log is gone through: its signature, whether it continues what was seen, and all its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from troth.audit.bundle import Outcome, Verdict, show_checkpoint
from troth.audit.checkpoint import Checkpoint, parse_checkpoint
from troth.audit.continuity import verify_growth
from troth.audit.flaw import Findings
from troth.audit.note import parse_note
from troth.audit.verification import Scope, verify_log
from troth.cli.logsource import CHECKPOINT, LogSource
from troth.cli.readahead import read_ahead
from troth.core.errors import Invalid, NotFound, Refused

if TYPE_CHECKING:
    from troth.audit.contents import Watch
    from troth.audit.pin import Pin
    from troth.audit.proof import Trust
    from troth.cli.terminal import Terminal

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class LogCheck:
    """What was found of a log: the steps, the flaws, and its signed checkpoint."""

    verdict: Verdict
    findings: Findings
    note: bytes
    refusals: list[Refused | Invalid | NotFound] = field(default_factory=list)
    """Why it doesn't continue what was seen, if it doesn't."""


def read_note(source: LogSource) -> bytes:
    """The log's checkpoint as it is signed; `NotFound` says what to do if there is none."""
    try:
        return source.read(CHECKPOINT)
    except NotFound as error:
        raise NotFound(f"{error.detail} A log has one: is this where its files are?") from error


def check_log(
    source: LogSource,
    note: bytes,
    trust: Trust | None,
    seen: Pin | None,
    scope: Scope,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> LogCheck:
    """Go through a log: who signed the checkpoint in `note`, whether it continues what was `seen`,
    and the files within `scope`. A step that is wrong doesn't keep the others from being taken, but
    for one: a checkpoint that the keys don't vouch for says how much there is to look at."""
    check = LogCheck(Verdict(), Findings(), note)
    show_checkpoint(note, trust, check.verdict)
    checkpoint = check.verdict.checkpoint or _read_unsigned(note)
    if checkpoint is None:
        return check
    if seen is not None:
        show_growth(source, seen, checkpoint, check)
    if check.verdict.checkpoint is None:
        words = "The files weren't looked at: nobody vouches for what they would be held against. "
        check.verdict.note(Outcome.OPEN, f"{words}Without a key that is done all the same.")
        return check
    show_files(source, checkpoint, scope, check, progress, watch)
    return check


def show_growth(source: LogSource, seen: Pin, found: Checkpoint, check: LogCheck) -> None:
    """Whether the log still is the one that was seen."""
    try:
        known = parse_checkpoint(parse_note(seen.note.encode()).text)
        verify_growth(source.read, known, found)
    except (Refused, Invalid, NotFound) as error:
        check.refusals.append(error)
        check.verdict.note(Outcome.WRONG, error.detail)
        return
    words = f"It continues the checkpoint of {known.size} entries that was seen before."
    if known.size == found.size:
        words = "It is the checkpoint that was seen before."
    check.verdict.note(Outcome.SHOWN, words)


def show_files(
    source: LogSource,
    checkpoint: Checkpoint,
    scope: Scope,
    check: LogCheck,
    progress: Progress | None,
    watch: Watch | None,
) -> None:
    """Whether the log's files are those of the checkpoint."""
    size, root = checkpoint.size, checkpoint.root
    end = size if scope.end is None else scope.end
    with read_ahead(source.read, end) if source.is_far else nullcontext(source.read) as read:
        found = verify_log(read, size, root, scope, progress, watch)
    check.findings = found
    asked = f"all {size} entries"
    if scope.start or scope.end not in (None, size):
        asked = f"entries {scope.start} to {end - 1}"
    if not found.intact:
        words = f"Of the files for {asked}, {found.flaw_count} places are damaged; "
        words += f"{found.entries} entries are those of the checkpoint."
        check.verdict.note(Outcome.WRONG, words)
        return
    words = f"The files for {asked} are those of that checkpoint: {found.tiles} tiles"
    words += f", {found.entries} entries"
    if scope.leaves and scope.details:
        words += f" and {found.details} details; {found.redacted} were redacted"
    check.verdict.note(Outcome.SHOWN, words + ".")
    if scope.leaves and not scope.details:
        words = "What lies beside the entries isn't here, or wasn't looked at."
        check.verdict.note(Outcome.ABSENT, words)
    if found.untold:
        words = f"{found.untold} more are gone, and none of these entries says that they were "
        words += "redacted. A later one may: verify up to the end of the log."
        check.verdict.note(Outcome.OPEN, words)


def _read_unsigned(note: bytes) -> Checkpoint | None:
    """What a checkpoint says that isn't signed as it must be; None if it says nothing. Whether it
    continues what was seen is worth knowing all the same."""
    text = note.decode("utf-8", "replace").partition("\n\n")[0]
    try:
        return parse_checkpoint(f"{text}\n")
    except Invalid:
        return None


@contextmanager
def show_progress(terminal: Terminal) -> Iterator[Progress | None]:
    """A bar on a terminal; nothing where nobody looks."""
    console = terminal.open_console(stderr=True)
    if terminal.json or not console.is_terminal:
        yield None
        return
    from rich.progress import Progress as Bars

    with Bars(console=console, transient=True) as bars:
        task = bars.add_task("verifying", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
