"""Names of the archive's files: what is in one, and which of several count.

    decisions/day=2027-06-30/<server>-<first>-<last>-<revision>.parquet   segments first to last
    touched/day=2027-06-30/…                the same name: who touched what, counted
    ids/day=2027-06-30/…                    the same name: whose decisions an id is in
    touched_by_month/day=2027-06-01/…       who touched what in a month, named after its first day
    events/day=2027-06-30/journal-<first>-<last>-<revision>.parquet       positions first to last

Days are in UTC. A file never changes: what replaces some has a larger range, or the same one and a
higher revision, and counts from the moment that it has its name. So a crash between that and the
removal of what was replaced leaves nothing double. Names are all there is: no list to go astray.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

JOURNAL = "journal"
"""Who wrote the events: all servers have one journal."""

_NAME = re.compile(
    r"(?P<table>decisions|touched|touched_by_month|ids|events)/day=(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})/"
    r"(?P<writer>[A-Za-z0-9_]{1,16})-(?P<first>[0-9]{10,19})-(?P<last>[0-9]{10,19})"
    r"-(?P<revision>[0-9]{1,9})\.parquet",
    re.ASCII,
)


class Table(StrEnum):
    """What lies in a folder of the archive."""

    DECISIONS = "decisions"
    TOUCHED = "touched"
    IDS = "ids"
    MONTHS = "touched_by_month"
    EVENTS = "events"


COMPANIONS = (Table.TOUCHED, Table.IDS)
"""What says something about a file of decisions. It is there before that, and counts with it."""


@dataclass(frozen=True, slots=True, order=True)
class ArchiveFile:
    """A file by what its name says; `writer` is the id of the server whose segments these are."""

    table: Table
    day: date
    writer: str
    first: int
    last: int
    revision: int = 0

    @property
    def name(self) -> str:
        """Where it lies, below the archive's root."""
        return (
            f"{self.table}/day={self.day.isoformat()}/"
            f"{self.writer}-{self.first:010d}-{self.last:010d}-{self.revision}.parquet"
        )

    def beside(self, table: Table) -> ArchiveFile:
        """The file of the same name in another table."""
        return replace(self, table=table)

    def replaces(self, other: ArchiveFile) -> bool:
        """Whether the other one doesn't count where this one is."""
        if (self.table, self.day, self.writer) != (other.table, other.day, other.writer):
            return False
        mine, its = (self.first, self.last), (other.first, other.last)
        if mine == its:
            return self.revision > other.revision
        return self.first <= other.first and other.last <= self.last


def parse_name(name: str) -> ArchiveFile | None:
    """The file with this name; None if the archive has none of such names."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        day = date.fromisoformat(found["day"])
    except ValueError:
        return None
    first, last = int(found["first"]), int(found["last"])
    if first > last:
        return None
    made = ArchiveFile(
        Table(found["table"]), day, found["writer"], first, last, int(found["revision"])
    )
    return made if made.name == name else None


def choose_current(files: Iterable[ArchiveFile]) -> tuple[list[ArchiveFile], list[ArchiveFile]]:
    """The files that count, in their order, and those that others replace."""
    groups = defaultdict(list)
    for file in files:
        groups[file.table, file.day, file.writer].append(file)
    current: list[ArchiveFile] = []
    replaced: list[ArchiveFile] = []
    for group in groups.values():
        # The widest first: so each is held against few others.
        group.sort(key=lambda one: (one.first - one.last, -one.revision))
        kept: list[ArchiveFile] = []
        for one in group:
            (replaced if any(other.replaces(one) for other in kept) else kept).append(one)
        current += kept
    return sorted(current), sorted(replaced)


def find_day(at: datetime) -> date:
    """The day in UTC."""
    return at.astimezone(UTC).date()


def begin_day(day: date) -> datetime:
    """The first moment of a day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def find_month(day: date) -> date:
    """The first day of its month."""
    return day.replace(day=1)


def end_month(month: date) -> date:
    """The last day of a month."""
    return month.replace(day=monthrange(month.year, month.month)[1])


def list_span(since: datetime, until: datetime) -> tuple[date, date]:
    """The first and the last day that a span has a moment of."""
    return find_day(since), find_day(until - timedelta(microseconds=1))
