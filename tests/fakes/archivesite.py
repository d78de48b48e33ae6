"""A house with an archive, and the background work about it, done in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.fakes.decisions import make_record
from tests.fakes.house import FakeHouse, open_house
from troth.archive.depot import FolderDepot
from troth.archive.engine import Bounds, Engine
from troth.archive.jobsheet import AnyStep, Done, Sheet
from troth.archive.layout import Table
from troth.archive.parquetarchive import ParquetArchive
from troth.archive.worker import Worker
from troth.core.clock import VirtualClock
from troth.core.errors import Unavailable
from troth.operations.decisionlog import CloseSegments, RemoveSegments
from troth.operations.packing import PackArchive
from troth.operations.retention import RemoveDays

NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEPT = 30 * DAY
EVER_DAYS = (date.min, date.max)


class OwnHands:
    """Does the worker's steps in this process. `fail_at` is a step before which it ends."""

    def __init__(self, where: Path) -> None:
        self._where = where
        self.done: list[AnyStep] = []
        self.fail_at: int | None = None

    async def do(self, steps: Sequence[AnyStep]) -> AsyncGenerator[Done, None]:
        work = self._where / ".work"
        sheet = Sheet(str(self._where), str(work), 256 << 20, list(steps))
        worker = await asyncio.to_thread(Worker, sheet)
        try:
            for number in range(len(steps)):
                if self.fail_at is not None and len(self.done) >= self.fail_at:
                    raise Unavailable("The packing process ended.")
                self.done.append(steps[number])
                yield await asyncio.to_thread(worker.do, number)
        finally:
            worker.close()


class Site:
    """A house with an archive, and the background work about it."""

    def __init__(self, house: FakeHouse, folder: Path, scope: str = "") -> None:
        self.house, self.clock = house, house.clock
        self.log = house.parts.decisions
        self.depot = FolderDepot(folder)
        self.hands = OwnHands(folder)
        engine = Engine(self.depot, Bounds())
        self.archive = ParquetArchive(
            self.depot, engine, house.clock, self.log, lambda position: False
        )
        store = house.parts.store
        self.pack = PackArchive(
            store, house.clock, self.log, self.depot, self.hands, self.archive, scope
        )
        self.close = CloseSegments(store, house.clock, self.log)
        self.remove = RemoveSegments(store, house.clock, self.log, KEPT)
        self.remove_days = RemoveDays(store, house.clock, self.depot, self.hands, scope, KEPT)

    async def record(self, count: int, start: int = 0) -> list[Any]:
        """Decisions of now, in a closed and journaled segment."""
        now = self.clock.now()
        records = [make_record(start + n, at=now + timedelta(seconds=n)) for n in range(count)]
        await self.log.append(records)
        await self.log.close_segment()
        await self.close()
        await self.house.settle()
        return records

    def list_ranges(self, table: Table = Table.DECISIONS) -> list[tuple[int, int]]:
        return [(file.first, file.last) for file, _ in sorted(self._list(table))]

    def list_days(self, table: Table = Table.DECISIONS) -> list[date]:
        return sorted({file.day for file, _ in self._list(table)})

    def _list(self, table: Table) -> list[Any]:
        return self.depot.list_files(table, *EVER_DAYS)

    async def events(self, kind: str) -> list[dict[str, Any]]:
        return [dict(event.body) for event in await self.house.events(kind)]


def run(tmp_path: Path, url: str, test: Callable[[Site], Any]) -> None:
    async def main() -> None:
        async with open_house(tmp_path, url=url, clock=VirtualClock(NOON)) as house:
            await test(Site(house, tmp_path / "archive"))

    asyncio.run(main())


async def fill_days(site: Site, days: int) -> None:
    """A packed segment a day, and its events."""
    for day in range(days):
        await site.record(2, day * 10)
        await site.pack()
        site.clock.advance(DAY)
    await site.house.settle()
    await site.pack()
