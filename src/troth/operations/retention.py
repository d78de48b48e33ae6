"""Retention: days of the archive that are older than they need be are removed, unless held."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

from troth.archive.depot import Depot
from troth.archive.jobsheet import DescribeDay, Done
from troth.archive.layout import COMPANIONS, ArchiveFile, Table, find_day, find_month
from troth.core.clock import Clock
from troth.operations.packing import Hands, do_all
from troth.operations.recording import BACKGROUND, record_event
from troth.store.engine import Store
from troth.store.transaction import Transaction

LEASE = timedelta(hours=1)
DAY = timedelta(days=1)
MOST = 40
"""Days of a table that one run removes: what is left follows with the next."""


@dataclass(frozen=True, slots=True)
class RemoveDays:
    """Background: remove whole days that ended longer ago than `kept`. Idempotent.

    The event comes first: a crash in between leaves files that the next run removes, which then
    tells of them again. `scope` as `PackArchive` has it.
    """

    store: Store
    clock: Clock
    depot: Depot
    hands: Hands
    scope: str
    kept: timedelta

    async def __call__(self) -> None:
        """Remove the oldest first."""
        if not self.scope and not await self.store.transact(self._take_lease):
            return
        last = find_day(self.clock.now() - self.kept) - DAY
        for table in (Table.DECISIONS, Table.EVENTS):
            found = await asyncio.to_thread(self._list_days, table, last)
            held = await self.store.read(lambda tx: tx.holds.list())
            free = [day for day in sorted(found) if not any(one.covers_day(day) for one in held)]
            for day in free[:MOST]:
                await self._remove(table, day, found[day])

    def _take_lease(self, tx: Transaction) -> bool:
        return tx.leases.take("archive.remove", self.store.holder, self.clock.now(), LEASE)

    def _list_days(self, table: Table, last: date) -> dict[date, dict[ArchiveFile, int]]:
        days: dict[date, dict[ArchiveFile, int]] = {}
        tables = (table, *COMPANIONS) if table is Table.DECISIONS else (table,)
        for one in tables:
            for file, size in self.depot.list_files(one, date.min, last):
                days.setdefault(file.day, {})[file] = size
        return days

    async def _remove(self, table: Table, day: date, files: dict[ArchiveFile, int]) -> None:
        (told,) = await do_all(self.hands, [DescribeDay(table, day)])
        size = sum(files.values())
        # Asked again where it counts: a hold may have been placed meanwhile.
        if await self.store.transact(partial(self._record, table, day, size, told)):
            await asyncio.to_thread(self._delete, table, day, files)

    def _record(self, table: Table, day: date, size: int, told: Done, tx: Transaction) -> bool:
        if any(hold.covers_day(day) for hold in tx.holds.list()):
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
