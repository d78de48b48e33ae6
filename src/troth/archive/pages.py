"""Searching some of the archive's files, newest first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.archive import decisionrows, eventrows
from troth.archive.engine import Row
from troth.archive.found import name_place, present_decision
from troth.archive.layout import ArchiveFile, Table, begin_day, find_day
from troth.archive.question import (
    Condition,
    ask_caller,
    ask_decisions,
    ask_events,
    ask_subject,
    ask_subjects,
    fits_named,
    follow_decision,
    follow_event,
    join_conditions,
    leave_out,
    limit_time,
)
from troth.archive.reading import Labels, Reader
from troth.archive.record import place_microseconds
from troth.audit.found import present_event
from troth.audit.query import Found, Kind, Query, Spot, find_spot, fits

MOST_SUBJECTS = 200
"""Subjects that a hint may name; with more of them all rows are looked at."""
TICK = timedelta(microseconds=1)
SPARE = 500
"""Rows that are read beyond those that are wanted where SQL lets more through than fits."""
MOST_ROWS = 20_000
"""Rows that are read at once, unless more are wanted."""

Part = tuple[list[Found], Spot | None]
"""What was found, in no order, and the spot up to which was looked if it took too long to go on."""

# What is put together here are names of columns: values are bound.
_DECISIONS = f"""
    SELECT {decisionrows.KEPT} FROM read_parquet(?, hive_partitioning = false) WHERE %s
    ORDER BY time_dt DESC, metadata.uid DESC, unmapped.server DESC, unmapped.segment DESC,
        unmapped."index" DESC
    LIMIT %d
"""  # noqa: S608 - names of columns
_EVENTS = f"""
    SELECT {eventrows.KEPT} FROM read_parquet(?, hive_partitioning = false) WHERE %s
    ORDER BY time_dt DESC, metadata."sequence" DESC
    LIMIT %d
"""  # noqa: S608 - names of columns
_SINCE = """
    SELECT epoch_us(min(time_dt)) FROM (
        SELECT time_dt FROM read_parquet(?, hive_partitioning = false) WHERE %s
        ORDER BY time_dt DESC LIMIT %d
    )
"""
_BY_ID = """
    SELECT DISTINCT filename, subject
    FROM read_parquet(?, filename = true, hive_partitioning = false)
    WHERE key = md5_number_lower(?) >> 40
"""
_BY_RESOURCE = """
    SELECT DISTINCT filename, subject
    FROM read_parquet(?, filename = true, hive_partitioning = false) WHERE resource = ?
"""


@dataclass(frozen=True, slots=True)
class Pending:
    """Segments of this server that count as not packed: they are read where they lie."""

    server: str
    numbers: frozenset[int]

    def drop(self, files: Sequence[ArchiveFile]) -> list[ArchiveFile]:
        """The files but for those of one such segment."""
        return [file for file in files if file.first != file.last or not self.list_in(file)]

    def leave_out(self, files: Sequence[ArchiveFile]) -> list[Condition]:
        """What keeps such segments out of larger files; nothing where none has them."""
        inside = sorted({number for file in files for number in self.list_in(file)})
        return [leave_out(self.server, inside)] if inside else []

    def list_in(self, file: ArchiveFile) -> list[int]:
        """Those that a file may have."""
        if file.writer != self.server:
            return []
        return [number for number in self.numbers if file.first <= number <= file.last]


@dataclass(frozen=True, slots=True)
class Search:
    """A question, and what must be known to ask it. `names` as for `Archive.search`."""

    query: Query
    limit: int
    after: Spot | None
    names: tuple[str, ...]
    events_before: int | None
    pending: Pending
    labels: Labels
    is_late: Callable[[], bool]
    """Whether the page has taken long enough."""

    @property
    def until(self) -> datetime:
        """Before which moment everything is that may still be told."""
        if self.after is None or self.after.at >= self.query.until:
            return self.query.until
        # Behind the lowest spot of a moment is nothing of it: there a page ended for lack of time.
        lowest = self.after == Spot(self.after.at, Kind.DECISION, "", "")
        return self.after.at if lowest else self.after.at + TICK

    @property
    def tables(self) -> list[Table]:
        """Where the answer may be, and what may tell more of that."""
        found = []
        if self.query.kind is not Kind.EVENT:
            found += [Table.DECISIONS, *([] if self._hint is None else [self._hint[0]])]
        if self.query.kind is not Kind.DECISION:
            found.append(Table.EVENTS)
        return found

    @property
    def _hint(self) -> tuple[Table, str, str] | None:
        """The table that tells more of where the answer is, the statement and its value."""
        query = self.query
        if query.request_id or query.task:
            return Table.IDS, _BY_ID, query.request_id or query.task
        if query.resource and not query.identity:
            return Table.TOUCHED, _BY_RESOURCE, query.resource
        return None

    def find_decisions(
        self, reader: Reader, files: Sequence[ArchiveFile], beside: Collection[ArchiveFile]
    ) -> Part:
        """The newest decisions that fit; `beside` is what stands beside the files."""
        asked = ask_decisions(self.query)
        files = self.pending.drop(files)
        if asked is None or not files or self.query.kind is Kind.EVENT:
            return [], None
        files, subjects = self._follow_hints(reader, files, beside)
        conditions = [*self._limit_time(files), asked]
        if subjects:
            conditions.append(ask_subjects(subjects))
        conditions += self.pending.leave_out(files)
        parts = [
            self._collect_decisions(reader, some, [*whose, *conditions])
            for whose, some in self._tell_whose(reader, files)
            if some
        ]
        return join_parts(parts)

    def find_events(self, reader: Reader, files: Sequence[ArchiveFile]) -> Part:
        """The newest events that fit."""
        asked = ask_events(self.query, self.events_before)
        if asked is None or not files or self.query.kind is Kind.DECISION:
            return [], None
        first = [*self._limit_time(files), asked]

        def read(size: int, after: Spot | None) -> list[tuple[Spot, Found | None]]:
            behind = [] if after is None else [follow_event(after)]
            rows = _read_newest(reader, files, _EVENTS, [*first, *behind], size)
            told = (present_event(eventrows.read_row(row)) for row in rows)
            return [(find_spot(one), one) for one in told]

        return self._collect(read, lambda one: fits(self.query, one))

    def _limit_time(self, files: Sequence[ArchiveFile]) -> list[Condition]:
        """The span that is asked for; nothing where that is whole days."""
        since, until = self.query.since, self.until
        if all(since <= begin_day(file.day) and file.day < find_day(until) for file in files):
            return []
        return [limit_time(since, until)]

    # Decisions

    def _collect_decisions(
        self, reader: Reader, files: Sequence[ArchiveFile], first: Sequence[Condition]
    ) -> Part:
        few = bool(self.query.identity or self.query.request_id or self.query.task)

        def read(size: int, after: Spot | None) -> list[tuple[Spot, Found | None]]:
            behind = [] if after is None else [follow_decision(after)]
            rows = _read_newest(reader, files, _DECISIONS, [*first, *behind], size, few)
            return [present_row(row) for row in rows]

        return self._collect(read, lambda one: fits_named(self.query, self.names, one))

    def _collect(
        self,
        read: Callable[[int, Spot | None], list[tuple[Spot, Found | None]]],
        fitting: Callable[[Found], bool],
    ) -> Part:
        """Read on until there are enough that fit, or no more, or it is late."""
        found: list[Found] = []
        after = self.after
        size = self.limit + 1 + (SPARE if self.query.text or self.query.task else 0)
        while True:
            rows = read(size, after)
            found += [one for _, one in rows if one is not None and fitting(one)]
            if len(rows) < size or len(found) > self.limit:
                return found, None
            after = rows[-1][0]
            if self.is_late():
                return found, after
            size = max(size, min(max(size, SPARE) * 2, MOST_ROWS))

    def _tell_whose(
        self, reader: Reader, files: Sequence[ArchiveFile]
    ) -> list[tuple[list[Condition], Sequence[ArchiveFile]]]:
        """What to ask of which files so that the decisions are the identity's: rows lie by subject,
        and few callers are in a file at all."""
        identity = self.query.identity
        if not identity:
            return [([], files)]
        labels = self.labels.read(reader, files)
        asking = [
            file
            for file, label in labels.items()
            if label.callers is None or identity in label.callers
        ]
        return [
            ([ask_subject(identity, self.names)], files),
            ([ask_caller(identity, self.names)], asking),
        ]

    def _follow_hints(
        self, reader: Reader, files: Sequence[ArchiveFile], beside: Collection[ArchiveFile]
    ) -> tuple[list[ArchiveFile], list[str]]:
        """The files that may have what is asked for, and about whom it may be, if that is known."""
        if self._hint is None:
            return list(files), []
        table, sql, value = self._hint
        return follow_hints(reader, files, beside, table, sql, value)


def join_parts(parts: Iterable[Part]) -> Part:
    """All of them, up to where all have been looked at."""
    found: list[Found] = []
    edges: list[Spot] = []
    for some, edge in parts:
        found += some
        edges += [] if edge is None else [edge]
    if not edges:
        return found, None
    edge = max(edges)
    return [one for one in found if find_spot(one) >= edge], edge


def _read_newest(
    reader: Reader,
    files: Sequence[ArchiveFile],
    sql: str,
    conditions: Sequence[Condition],
    size: int,
    few: bool = False,
) -> list[Row]:
    """The newest rows that fit, with all columns. From when on they lie is looked up first, unless
    `few` fit anyway: sorting whole rows, most of which aren't wanted, takes far longer."""
    condition = join_conditions(conditions)
    if few:
        return reader.read(files, sql % (condition.sql, size), condition.values)
    (found,) = reader.read(files, _SINCE % (condition.sql, size), condition.values) or [(None,)]
    if found[0] is None:
        return []
    since = Condition("time_dt >= make_timestamptz(?::BIGINT)", found)
    condition = join_conditions([since, *conditions])
    return reader.read(files, sql % (condition.sql, size), condition.values)


def follow_hints(
    reader: Reader,
    files: Sequence[ArchiveFile],
    beside: Collection[ArchiveFile],
    table: Table,
    sql: str,
    value: str,
) -> tuple[list[ArchiveFile], list[str]]:
    """What the files beside these ones know. Where one of them can't be read, nothing does."""
    hints = {file.beside(table): file for file in files if file.beside(table) in beside}
    told: dict[ArchiveFile, set[str]] = defaultdict(set)
    by_name = {f"archive://{hint.name}": file for hint, file in hints.items()}
    for name, subject in reader.read(list(hints), sql, [value]):
        told[by_name[name]].add(subject)
    known = {file for hint, file in hints.items() if hint not in reader.without}
    left = [file for file in files if file not in known or file in told]
    subjects = set[str]().union(*told.values())
    if len(known) < len(files) or len(subjects) > MOST_SUBJECTS:
        return left, []
    return left, sorted(subjects)


def find_by_resource(
    reader: Reader, files: Sequence[ArchiveFile], beside: Collection[ArchiveFile], resource: str
) -> tuple[list[ArchiveFile], list[str]]:
    """The files with decisions about a resource, and about whom they are, if that is known."""
    return follow_hints(reader, files, beside, Table.TOUCHED, _BY_RESOURCE, resource)


def find_by_id(
    reader: Reader,
    files: Sequence[ArchiveFile],
    beside: Collection[ArchiveFile],
    decision: str,
) -> list[Row]:
    """The rows of the decision with this id."""
    files, subjects = follow_hints(reader, files, beside, Table.IDS, _BY_ID, decision)
    conditions = [Condition("metadata.uid = ?", (decision,))]
    if subjects:
        conditions.append(ask_subjects(subjects))
    condition = join_conditions(conditions)
    return reader.read(files, _DECISIONS % (condition.sql, 1), condition.values)


def present_row(row: Row) -> tuple[Spot, Found | None]:
    """A decision, or None if this version of troth can't read it; and its spot."""
    place = name_place(row[0], row[1], row[2])
    record = decisionrows.read_record(row)
    if record is None:
        return Spot(place_microseconds(row[4]), Kind.DECISION, row[3], place), None
    found = present_decision(record, place)
    return find_spot(found), found
