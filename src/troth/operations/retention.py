"""Retention: days of the archive that are older than they need be are removed, unless held."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial

from troth.archive.depot import Depot
from troth.archive.jobsheet import DescribeDay, Done
from troth.archive.layout import COMPANIONS, ArchiveFile, Table, begin_day, find_day, find_month
from troth.core.clock import Clock
from troth.operations.packing import Hands, do_all
from troth.operations.recording import BACKGROUND, record_event
from troth.store.engine import Store
from troth.store.holds import Hold
from troth.store.transaction import Transaction

LEASE = timedelta(hours=1)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
MOST = 40
"""Days of a table that one run removes: what is left follows with the next."""


@dataclass(frozen=True, slots=True)
class RemoveDays:
    """Background: remove whole days that ended longer ago than `kept`, and that nothing which is
    kept needs. Idempotent.

    The event comes first: a crash in between leaves files that the next run removes, which then
    tells of them again. `scope` as `PackArchive` has it.
    """

    store: Store
    clock: Clock
    depot: Depot
    hands: Hands
    scope: str
    kept: timedelta
    _told: dict[date, tuple[frozenset[ArchiveFile], Done]] = field(default_factory=dict)
    """What is known of days that stay for others' sake, and of which files it was told."""

    async def __call__(self) -> None:
        """Remove the oldest first."""
        if not self.scope and not await self.store.transact(self._take_lease):
            return
        before = self.clock.now() - self.kept
        last = find_day(before) - DAY
        for table in (Table.DECISIONS, Table.EVENTS):
            found = await asyncio.to_thread(self._list_days, table, last)
            held = await self.store.read(lambda tx: tx.holds.list())
            left = MOST
            for day in sorted(found):
                if any(one.covers_day(day) for one in held):
                    continue
                if not left:
                    break
                told = await self._describe(table, day, found[day])
                if not is_needed(day, told, before, held):
                    left -= await self._remove(table, day, found[day], told, before)

    def _take_lease(self, tx: Transaction) -> bool:
        return tx.leases.take("archive.remove", self.store.holder, self.clock.now(), LEASE)

    def _list_days(self, table: Table, last: date) -> dict[date, dict[ArchiveFile, int]]:
        days: dict[date, dict[ArchiveFile, int]] = {}
        tables = (table, *COMPANIONS) if table is Table.DECISIONS else (table,)
        for one in tables:
            for file, size in self.depot.list_files(one, date.min, last):
                days.setdefault(file.day, {})[file] = size
        if table is Table.EVENTS and days:
            today = find_day(self.clock.now())
            newer = self.depot.list_files(table, last + DAY, today)
            lowest = min((file.first for file, _ in newer), default=None)
            if lowest is not None:  # behind what is young: its day is one of a clock that was wrong
                days = {day: some for day, some in days.items() if max(some).first <= lowest}
        return days

    async def _describe(self, table: Table, day: date, files: dict[ArchiveFile, int]) -> Done:
        known = self._told.get(day)
        if table is Table.DECISIONS and known is not None and known[0] == files.keys():
            return known[1]
        (told,) = await do_all(self.hands, [DescribeDay(table, day)])
        if table is Table.DECISIONS:
            self._told[day] = (frozenset(files), told)
        return told

    async def _remove(
        self, table: Table, day: date, files: dict[ArchiveFile, int], told: Done, before: datetime
    ) -> bool:
        size = sum(files.values())
        # Asked again where it counts: a hold may have been placed meanwhile.
        if not await self.store.transact(partial(self._record, table, day, size, told, before)):
            return False
        await asyncio.to_thread(self._delete, table, day, files)
        if table is Table.DECISIONS:
            self._told.pop(day, None)
        return True

    def _record(
        self, table: Table, day: date, size: int, told: Done, before: datetime, tx: Transaction
    ) -> bool:
        if is_needed(day, told, before, tx.holds.list()):
            return False
        record_event(
            tx,
            BACKGROUND,
            "archive.removed",
            f"{table}/{day}",
            self.clock.now(),
            table=table.value,
            day=day.isoformat(),
            archive=self.scope,
            rows=told.count,
            bytes=size,
            segments=[
                {"server": one.server, "segment": one.number, "root": one.root}
                for one in told.segments
            ],
        )
        return True

    def _delete(self, table: Table, day: date, files: dict[ArchiveFile, int]) -> None:
        if table is Table.DECISIONS:  # what is said of the month would tell of this day
            month = find_month(day)
            for file, _ in self.depot.list_files(Table.MONTHS, month, month):
                self.depot.remove(file)
        # Decisions before what stands beside them, which counts for nothing without.
        for file in sorted(files, key=lambda one: one.table in COMPANIONS):
            self.depot.remove(file)


def is_needed(day: date, told: Done, before: datetime, held: Sequence[Hold]) -> bool:
    """Whether a day stays: for a hold, or since what is kept can't be proved without it.

    A decision is proved by all records of its segment. So days go once no segment of theirs reaches
    into a day that is held, or that isn't older than `before`; nor was closed after that: then the
    clock was wrong, and so is the day.
    """
    if any(hold.covers_day(day) for hold in held):
        return True
    edge = begin_day(find_day(before))
    for one in told.segments:
        first, last = begin_day(find_day(one.first)), begin_day(find_day(one.last)) + DAY - TICK
        if last >= edge or one.closed_at >= before:
            return True
        if any(hold.covers_span(first, last) for hold in held):
            return True
    return False
