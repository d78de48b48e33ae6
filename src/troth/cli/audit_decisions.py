"""Decisions, in segments and in an archive: held against the roots that the log tells of.

The one part of `troth audit` that reads the archive's own formats: they are files like the log's,
and whoever was handed them needs no server to go through them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from troth.audit.bundle import SEGMENT_CLOSED, DecisionEvidence, Outcome, Verdict
from troth.audit.entry import Detail, Leaf, open_detail
from troth.audit.flaw import Fault, Findings
from troth.audit.merkle import Tree, hash_leaf
from troth.audit.proving import read_closed
from troth.core.errors import Invalid, NotFound, TooLarge, TrothError

if TYPE_CHECKING:
    from troth.archive.reading import Damages
    from troth.archive.roots import HeldSegment, RootReader
    from troth.archive.segment import Segment
    from troth.cli.toldevents import ToldEvents


DAY_REMOVED = "archive.removed"


@dataclass(slots=True)
class Closed:
    """The segments that the log tells of, by server and number: root, and number of decisions."""

    roots: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    seen: set[tuple[str, int]] = field(default_factory=set)
    """Segments that were looked at."""
    hidden: int = 0
    """Events of segments whose detail isn't there."""
    removed: set[tuple[str, int]] = field(default_factory=set)
    """Segments of which the archive has a day less: it was old enough."""
    events: ToldEvents | None = None
    """What all events are, if an archive is held against the log."""

    def notice(self, leaf: Leaf, beside: bytes) -> None:
        """Take in an entry of the log that was verified."""
        if self.events is not None:
            self.events.notice(leaf, beside)
        if leaf.type == DAY_REMOVED and beside:
            self.removed |= _read_removed(open_detail(leaf, beside))
        if leaf.type != SEGMENT_CLOSED:
            return
        told = read_closed(open_detail(leaf, beside)) if beside else None
        if told is None:
            self.hidden += 1
        else:
            server, segment, size, root = told
            self.roots[server, segment] = (root, size)


def show_decisions(folder: Path, closed: Closed, verdict: Verdict, findings: Findings) -> None:
    """Hold the segments in a folder against their footers and the log."""
    tally = _Tally(findings.flaw_count)
    for path, segment in _open_all(folder, findings):
        with segment:
            if segment.footer is None:
                findings.remark(f"{path.name} is still open: nothing shows yet what is in it.")
                continue
            place = (segment.header.server, segment.header.number)
            closed.seen.add(place)
            tally.add(_check_segment(path, segment, closed.roots.get(place), closed, findings))
    _conclude("segments", tally, closed, verdict, findings)


def show_archive(folder: Path, closed: Closed, verdict: Verdict, findings: Findings) -> None:
    """Hold what an archive has of segments against the log."""
    from troth.archive.reading import Damages
    from troth.archive.roots import RootReader

    tally, damages = _Tally(findings.flaw_count), Damages()
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is no folder.", param_hint="--archive")
    reader = RootReader(folder)
    try:
        files = reader.list_files(damages)
        for held in reader.list_segments(files):
            closed.seen.add((held.server, held.number))
            tally.add(_check_held(reader, held, closed, findings))
        for one in files:
            _check_files(one.file.name, reader.check_file(one), findings)
        _check_files(str(folder), reader.check_months(files), findings)
        if closed.events is not None:
            _show_events(reader, closed.events, damages, findings)
    finally:
        reader.close()
    for words in damages.tell():
        findings.add(Fault.CUT, str(folder), words)
    _conclude("segments of the archive", tally, closed, verdict, findings)


def note_missing(closed: Closed, findings: Findings) -> None:
    """Tell of the segments in the log that were nowhere."""
    for server, number in sorted(closed.roots.keys() - closed.seen):
        findings.remark(f"Segment {number} of server {server} isn't there: removed, or archived.")


@dataclass(slots=True)
class _Tally:
    """What was shown so far, and how many flaws there were before."""

    before: int
    segments: int = 0
    decisions: int = 0

    def add(self, decisions: int) -> None:
        self.segments += bool(decisions)
        self.decisions += decisions


def _conclude(
    what: str, tally: _Tally, closed: Closed, verdict: Verdict, findings: Findings
) -> None:
    if findings.flaw_count > tally.before:
        words = f"{findings.flaw_count - tally.before} things are wrong with the {what}; "
        verdict.note(Outcome.WRONG, f"{words}{tally.decisions} decisions are what the log says.")
    elif closed.hidden and not closed.roots:
        words = "Whether the decisions are those of the log can't be told: its details aren't here."
        verdict.note(Outcome.OPEN, words)
    else:
        words = f"{tally.decisions} decisions in {tally.segments} {what} lead to the roots that "
        verdict.note(Outcome.SHOWN, f"{words}the log holds.")


def _open_all(folder: Path, findings: Findings) -> Iterator[tuple[Path, Segment]]:
    from troth.archive.segment import DamagedSegment, Segment

    for path in _list_files(folder):
        try:
            segment = Segment(path)
        except DamagedSegment as error:
            findings.add(Fault.CUT, path.name, error.detail)
            continue
        yield path, segment


def _list_files(folder: Path) -> list[Path]:
    """All segments, also those that the archive has besides, in their order. Wrong usage if there
    is no such folder."""
    from troth.archive.segment import list_packed, list_segments

    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is no folder.", param_hint="--decisions")
    return [path for _, path in sorted({*list_segments(folder), *list_packed(folder)})]


def _check_segment(
    path: Path,
    segment: Segment,
    told: tuple[str, int] | None,
    closed: Closed,
    findings: Findings,
) -> int:
    """How many decisions a closed segment holds that lead to its root in the log."""
    from troth.archive.segment import RECORD, Damage

    footer, tree, name = segment.footer, Tree(), path.name
    damaged = False
    for one in segment.walk():
        if isinstance(one, Damage):
            damaged = True
            words = f"{name} is damaged from byte {one.start} to {one.end}."
            findings.add(Fault.CUT, name, words)
        elif one.kind == RECORD:
            tree.add(hash_leaf(one.payload))
    if footer is None or damaged:
        return 0
    if (tree.root, tree.size) != (footer.root, footer.count):
        words = f"The {tree.size} decisions in {name} don't lead to the root in its footer."
        findings.add(Fault.ALTERED, name, words)
        return 0
    return _compare(name, tree.root, tree.size, told, closed, findings)


def _check_held(reader: RootReader, held: HeldSegment, closed: Closed, findings: Findings) -> int:
    """How many decisions the archive has of a segment that lead to its root in the log."""
    from troth.archive.roots import MissingRecords

    name = f"segment {held.number} of server {held.server}"
    try:
        root, count = reader.compute_root(held)
    except MissingRecords as error:
        if (held.server, held.number) in closed.removed:
            findings.remark(f"What is left of {name} can't be shown: a day of it was removed.")
        else:
            _add_error(name, error, findings)
        return 0
    except TrothError as error:
        _add_error(name, error, findings)
        return 0
    told = closed.roots.get((held.server, held.number))
    return _compare(name, root, count, told, closed, findings)


def _show_events(
    reader: RootReader, told: ToldEvents, damages: Damages, findings: Findings
) -> None:
    """Hold the archive's events against the log, and tell what couldn't be."""
    from troth.archive.layout import Table

    files = reader.list_files(damages, Table.EVENTS)
    seen, closely = 0, 0
    for one, next_ in pairwise(held.file for held in files):
        if one.day == next_.day and next_.first <= one.last:
            findings.add(Fault.ALTERED, next_.name, f"It has positions that {one.name} has too.")
    for held in files:
        file = held.file
        wanted = told.list_of(file.day, file.first, file.last)
        try:
            for event in reader.read_events(held):
                closely += told.compare(event)
                seen += 1
                if next(wanted, None) != event.position:
                    raise Invalid(f"Before event {event.position} one is missing, or it is twice.")
            if (missing := next(wanted, None)) is not None:
                raise Invalid(f"Event {missing} is missing.")
        except TrothError as error:
            _add_error(file.name, error, findings)
    if closely < seen:
        findings.remark(
            f"Of {seen - closely} events in the archive it can't be told who did what to whom: "
            "they were redacted, or the log's details weren't looked at."
        )
    left = told.count_missing(range(one.file.first, one.file.last + 1) for one in files)
    if left:
        findings.remark(
            f"{left} events of the log aren't in the archive: removed, or not packed yet."
        )


def _check_files(where: str, told: Iterator[tuple[str, str]], findings: Findings) -> None:
    """Tell what else isn't in order with the archive's files."""

    try:
        for name, words in told:
            findings.add(Fault.ALTERED, name, words)
    except TrothError as error:
        _add_error(where, error, findings)


def _add_error(name: str, error: TrothError, findings: Findings) -> None:
    """Tell why a file, or what else has this name, isn't in order."""
    from troth.archive.engine import DamagedArchive

    if isinstance(error, DamagedArchive):
        for file, words in error.files.items():
            findings.add(Fault.CUT, file, words)
    elif isinstance(error, Invalid):
        findings.add(Fault.ALTERED, name, error.detail)
    elif isinstance(error, TooLarge):
        words = "It takes more memory or time to read than any that a server wrote: its rows "
        findings.add(Fault.CUT, name, f"{words}unpack to too much.")
    else:
        raise error


def _read_removed(detail: Detail | None) -> set[tuple[str, int]]:
    """Server and number of each segment that a removed day had something of."""
    segments = detail.body.get("segments") if detail is not None else None
    if not isinstance(segments, list):
        return set()
    return {
        (one["server"], one["segment"])
        for one in segments
        if isinstance(one, dict)
        and isinstance(one.get("server"), str)
        and isinstance(one.get("segment"), int)
    }


def _compare(
    name: str,
    root: bytes,
    count: int,
    told: tuple[str, int] | None,
    closed: Closed,
    findings: Findings,
) -> int:
    """The number of decisions if they are what the log tells of, and 0 with a flaw otherwise."""
    if told == (root.hex(), count):
        return count
    if told is not None:
        words = f"The decisions of {name} lead to another root than the log holds: rewritten."
        findings.add(Fault.ALTERED, name, words)
    elif closed.hidden:
        findings.remark(f"Whether the log holds the root of {name} can't be told.")
    else:
        words = f"The log doesn't tell of {name}: it was closed after the checkpoint, or isn't its."
        findings.add(Fault.UNPROVED, name, words)
    return 0


def find_decision(folder: Path, decision: str) -> DecisionEvidence:
    """The evidence for a decision in a folder of segments; `NotFound`, or `Refused` while its
    segment is open."""
    from troth.archive.proof import prove_decision
    from troth.archive.segment import Segment

    for path in reversed(_list_files(folder)):
        with Segment(path) as segment:
            end = segment.size if segment.footer is None else None
            found = prove_decision(segment, decision, end)
        if found is not None:
            return DecisionEvidence(
                found.server, found.segment, found.index, found.size, found.entry, found.path
            )
    raise NotFound(f"No decision {decision[:80]!r} is in {folder}.")


def view_decision(entry: bytes) -> dict[str, Any]:
    """What a decision's entry says, by field; "" values are left out."""
    from troth.archive.record import decode_record

    try:
        record = decode_record(entry)
    except Invalid as error:
        return {"unreadable": error.detail}
    fields = asdict(record) | {"at": record.at.isoformat()}
    return {name: value for name, value in fields.items() if value not in ("", None)}
