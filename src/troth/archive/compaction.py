"""Compaction: the pieces of a day become one file; and an event is taken out of one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import date
from functools import partial

import msgspec

from troth.archive import decisionrows, eventrows
from troth.archive.engine import Link, locate
from troth.archive.layout import ArchiveFile, Table, end_month
from troth.archive.packing import list_callers
from troth.archive.parquet import (
    CALLERS,
    LAYOUT,
    Label,
    SegmentPart,
    Selection,
    read_label,
    write_parquet,
)
from troth.archive.sums import DamagedFile
from troth.archive.workshop import Workshop
from troth.core.errors import Internal, NotFound

# What is put together here are names of columns: values are bound.
_ALL = "SELECT * FROM read_parquet(?, hive_partitioning = false)"
_MERGE = {
    Table.DECISIONS: f"{_ALL} ORDER BY {decisionrows.ORDER}",
    Table.EVENTS: f"{_ALL} ORDER BY {eventrows.ORDER}",
}
_CALLERS = f"""
    SELECT DISTINCT api.service.uid FROM read_parquet(?, hive_partitioning = false)
    LIMIT {CALLERS + 1}
"""  # noqa: S608 - a number of ours
_FINGERPRINT = """
    SELECT {key} AS key, count(*), sum(hash(one)::HUGEINT)
    FROM read_parquet(?, hive_partitioning = false) AS one
    GROUP BY key ORDER BY key
"""
_FINGERPRINTS = {
    Table.DECISIONS: _FINGERPRINT.format(key="unmapped.segment"),
    Table.EVENTS: _FINGERPRINT.format(key="unmapped.redacted"),
}
"""What the rows are, whatever their order."""


class Compactor:
    """Compacts in a workshop. Belongs to one thread."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    def compact_day(self, table: Table, writer: str, day: date, apart: Collection[int] = ()) -> int:
        """Make one file of the pieces that a writer has of a day; how many of them there were.

        No file reaches over what may still come, for it would count instead of that: segments in
        `apart`, and whatever between two pieces the archive doesn't have on other days.
        """
        current, replaced = self._workshop.list_current(table, writer, day, day)
        merged = 0
        knows = partial(self._knows, table, writer, apart)
        for pieces in split_runs(current, knows):
            if len(pieces) > 1:
                self._merge(pieces)
                merged += len(pieces)
                replaced += pieces
        self._workshop.remove(replaced)
        if table is Table.DECISIONS:
            self._workshop.remove_widowed(writer, day)
        return merged

    def roll_month(self, writer: str, month: date) -> int:
        """Have a file that says who touched what in a month, once each of its days is one file;
        how many days it has, or 0 if there is nothing to do."""
        files, _ = self._workshop.list_current(Table.DECISIONS, writer, month, end_month(month))
        made, _ = self._workshop.list_current(Table.MONTHS, writer, month, month)
        if len({file.day for file in files}) != len(files) or len(files) < 2:
            return 0
        names = tuple(file.name for file in files)
        with self._workshop.engine.connect() as link:
            if len(made) == 1 and read_label(link, made[0]).files == names:
                return 0
            first, last = min(one.first for one in files), max(one.last for one in files)
            revision = max((one.revision for one in made), default=-1) + 1
            file = ArchiveFile(Table.MONTHS, month, writer, first, last, revision)
            touched = locate([one.beside(Table.TOUCHED) for one in files])
            rows = sum(read_label(link, one).rows for one in files)
            local = self._workshop.work / f"month-{month}.parquet"
            selected = Selection(Table.MONTHS, decisionrows.TOUCHED_BY_MONTH, [touched])
            label = Label(LAYOUT, rows, files=names)
            write_parquet(link, selected, local, label)
            self._workshop.deliver(link, local, file, label)
        held = self._workshop.depot.list_files(Table.MONTHS, month, month)
        self._workshop.remove(
            one for one, _ in held if one.writer == writer and one.name != file.name
        )
        return len(files)

    def redact_events(self, positions: Collection[int]) -> int:
        """Write the files that have these events anew, without whom they are about, who did it,
        where from and why; how many of them there are."""
        held = self._workshop.depot.list_files(Table.EVENTS, date.min, date.max)
        found: set[int] = set()
        for file in sorted(file for file, _ in held):
            asked = [one for one in positions if file.first <= one <= file.last]
            if not asked:
                continue
            with self._workshop.engine.connect() as link:
                there = link.run(_HAVE_EVENTS, [locate([file]), asked])
                found.update(position for position, _ in there)
                left = [position for position, redacted in there if not redacted]
                if left:
                    self._redact(link, file, left)
        return len(found)

    def redact_event(self, position: int) -> bool:
        """The same of one; whether it is there."""
        return self.redact_events([position]) > 0

    def _redact(self, link: Link, file: ArchiveFile, positions: Sequence[int]) -> None:
        local = self._workshop.work / f"redacted-{file.day}.parquet"
        label = read_label(link, file)
        rows = Selection(Table.EVENTS, eventrows.REDACTED, [positions, locate([file])])
        write_parquet(link, rows, local, label)
        after = replace(file, revision=file.revision + 1)
        self._workshop.deliver(link, local, after, label)
        self._workshop.remove([file])

    def _knows(self, table: Table, writer: str, apart: Collection[int], gap: range) -> bool:
        """Whether the archive has all that lies between two pieces of a day."""
        if not gap:
            return True
        held, _ = self._workshop.list_current(table, writer, date.min, date.max)
        around = [one for one in held if one.first < gap.stop and gap.start <= one.last]
        if not _covers(around, gap) or any(number in gap for number in apart):
            return False
        return table is Table.EVENTS or self._has_whole(around, gap)

    def _has_whole(self, files: Iterable[ArchiveFile], numbers: range) -> bool:
        """Whether all records of these segments are in the files, by what those say."""
        with self._workshop.engine.connect() as link:
            try:
                parts = _join_parts(read_label(link, file) for file in files)
            except (DamagedFile, NotFound):
                return False
        whole = {part.number for part in parts if part.rows == part.count}
        return whole.issuperset(numbers)

    def _merge(self, pieces: Sequence[ArchiveFile]) -> None:
        names, table = locate(pieces), pieces[0].table
        first, last = min(one.first for one in pieces), max(one.last for one in pieces)
        file = replace(pieces[0], first=first, last=last, revision=0)
        local = self._workshop.work / f"merged-{table}-{file.day}.parquet"
        with self._workshop.engine.connect() as link:
            before = [read_label(link, piece) for piece in pieces]
            rows, callers = sum(label.rows for label in before), None
            if table is Table.DECISIONS:
                callers = list_callers(link, _CALLERS, [names])
            label = Label(LAYOUT, rows, _join_parts(before), callers)
            write_parquet(link, Selection(table, _MERGE[table], [names]), local, label)
            fingerprint = _FINGERPRINTS[table]
            if link.run(fingerprint, [names]) != link.run(fingerprint, [[str(local)]]):
                raise Internal(f"The pieces of {file.name} don't come back as they were.")
            self._workshop.deliver(link, local, file, label)


_HAVE_EVENTS = """
    SELECT metadata."sequence", unmapped.redacted FROM read_parquet(?, hive_partitioning = false)
    WHERE list_contains(?::BIGINT[], metadata."sequence")
"""


def split_runs(
    files: Iterable[ArchiveFile], knows: Callable[[range], bool]
) -> list[list[ArchiveFile]]:
    """The files in their order, in runs between which lies what isn't known."""
    runs: list[list[ArchiveFile]] = []
    for file in sorted(files):
        if not runs or not knows(range(runs[-1][-1].last + 1, file.first)):
            runs.append([])
        runs[-1].append(file)
    return runs


def _covers(files: Iterable[ArchiveFile], gap: range) -> bool:
    """Whether each number of the gap is in the range of a file."""
    place = gap.start
    for first, last in sorted((file.first, file.last) for file in files):
        if first > place:
            return False
        place = max(place, last + 1)
    return place >= gap.stop


def _join_parts(labels: Iterable[Label]) -> tuple[SegmentPart, ...]:
    """What files have of segments, together."""
    found: dict[int, SegmentPart] = {}
    for part in (part for label in labels for part in label.segments):
        known = found.get(part.number)
        rows = part.rows + (known.rows if known else 0)
        found[part.number] = msgspec.structs.replace(part, rows=rows)
    return tuple(found[number] for number in sorted(found))
