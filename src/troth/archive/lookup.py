"""Single decisions of the archive, their proofs, and all of them in the order of time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from troth.archive.decisionrows import KEPT, Entry, read_record, read_row
from troth.archive.layout import ArchiveFile
from troth.archive.pages import Pending, find_by_id
from troth.archive.parquet import Label, SegmentPart
from troth.archive.proof import DecisionProof
from troth.archive.question import (
    Condition,
    ask_subjects,
    count_ticks,
    join_conditions,
    limit_time,
)
from troth.archive.reading import AT_ONCE, Labels, Reader, split_evenly
from troth.archive.record import DecisionRecord, place_microseconds
from troth.archive.sums import DamagedFile
from troth.audit.merkle import compute_root, hash_leaf, make_path

Span = tuple[datetime, datetime]
"""From one moment to before another."""
WINDOW = 100_000
"""Decisions that are held at once where all of a day are read."""

# What is put together here are names of columns: values are bound.
_SEGMENT = f"""
    SELECT {KEPT} FROM read_parquet(?, hive_partitioning = false)
    WHERE unmapped.server = ? AND unmapped.segment = ? ORDER BY unmapped."index"
"""  # noqa: S608 - names of columns
_IN_ORDER = f"""
    SELECT {KEPT} FROM read_parquet(?, hive_partitioning = false) WHERE %s
    ORDER BY time_dt, unmapped.server, unmapped.segment, unmapped."index"
"""  # noqa: S608 - names of columns
_COUNTS = """
    SELECT epoch_us(time_dt) // %d AS number, count(*)
    FROM read_parquet(?, hive_partitioning = false) WHERE %s
    GROUP BY number ORDER BY number
"""
_WIDTHS = (60_000_000, 1_000_000, 1_000, 1)
"""Microseconds by which decisions are counted to see where to cut: less where they are too many."""


def find_entry(
    reader: Reader,
    files: Sequence[ArchiveFile],
    beside: Collection[ArchiveFile],
    decision: str,
) -> Entry | None:
    """The decision with this id, the newest files first."""
    newest = sorted(files, key=lambda file: (file.day, file.last), reverse=True)
    for some in split_evenly(newest, AT_ONCE):
        for row in find_by_id(reader, some, beside, decision):
            return read_row(row)
    return None


def find_part(
    reader: Reader, labels: Labels, files: Sequence[ArchiveFile], server: str, number: int
) -> SegmentPart | None:
    """What files say about a segment that they have something of."""
    holding = [one for one in files if one.writer == server and one.first <= number <= one.last]
    known: dict[ArchiveFile, Label] = labels.read(reader, holding)
    for label in known.values():
        for part in label.segments:
            if part.number == number:
                return part
    return None


def prove_entry(
    reader: Reader, files: Sequence[ArchiveFile], entry: Entry, part: SegmentPart
) -> DecisionProof:
    """That an entry is in its segment; `files` are those of all days that the segment has.

    `DamagedFile` if what the archive has of the segment doesn't lead to its root. Holds 32 bytes
    for each record of it.
    """
    holding = [
        one
        for one in files
        if one.writer == entry.server and one.first <= entry.segment <= one.last
    ]
    rows = reader.stream(holding, _SEGMENT, [entry.server, entry.segment])
    leaves = [hash_leaf(read_row(row).data) for row in rows]
    index, size = entry.index, len(leaves)
    if index < size:
        path = make_path(leaves, index)
        found = compute_root(hash_leaf(entry.data), index, size, path)
        if found.hex() == part.root:
            return DecisionProof(entry.server, entry.segment, index, size, entry.data, path)
    name = f"segment {entry.segment} of server {entry.server}"
    if size < part.count:
        raise DamagedFile(
            f"The archive has {size} of the {part.count} records of {name}, so none can be proved. "
            "Files of its days were removed since they were old enough (`archive.removed`), or "
            "they are lost: then restore them from a backup."
        )
    raise DamagedFile(
        f"The archive's records of {name} don't lead to its root: they were altered. Restore the "
        "files of its days from a backup."
    )


@dataclass(frozen=True, slots=True)
class DayScan:
    """Decisions of one day's files: of one subject, or about one resource, if given."""

    files: Sequence[ArchiveFile]
    pending: Pending
    subject: str = ""
    resource: str = ""

    def split(self, reader: Reader, since: datetime, until: datetime) -> list[Span]:
        """Spans that hold `WINDOW` decisions each at most, but for those of one microsecond."""
        spans = self._cut(reader, count_ticks(since), count_ticks(until), _WIDTHS)
        return [(place_microseconds(first), place_microseconds(end)) for first, end in spans]

    def _cut(
        self, reader: Reader, since: int, until: int, widths: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        """Spans in microseconds since 1970 whose ends lie as finely as they must for what is in
        them."""
        width, start, held = widths[0], since, 0
        condition = self._ask(place_microseconds(since), place_microseconds(until))
        sql = _COUNTS % (width, condition.sql)
        for number, count in reader.read(self.files, sql, condition.values):
            begin, end = max(number * width, since), min((number + 1) * width, until)
            if held and held + count > WINDOW:
                yield start, begin
                start, held = begin, 0
            if count > WINDOW and widths[1:]:
                yield from self._cut(reader, start, end, widths[1:])
                start = end
            else:
                held += count
        if held:
            yield start, until

    def read(self, reader: Reader, span: Span) -> list[DecisionRecord]:
        """Those of a span, in the order of time."""
        condition = self._ask(*span)
        rows = reader.read(self.files, _IN_ORDER % condition.sql, condition.values)
        return [one for one in map(read_record, rows) if one is not None]

    def _ask(self, since: datetime, until: datetime) -> Condition:
        conditions = [limit_time(since, until), *self.pending.leave_out(self.files)]
        if self.subject:
            conditions.append(ask_subjects([self.subject]))
        if self.resource:
            conditions.append(Condition('resources[1]."name" = ?', (self.resource,)))
        return join_conditions(conditions)
