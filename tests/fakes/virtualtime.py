"""Time that passes when a test says so, for code that is handed a clock and a sleep."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import datetime, timedelta

from troth.core.clock import VirtualClock


class VirtualTime:
    """A clock and a `sleep` that belong together."""

    def __init__(self, start: datetime) -> None:
        self.clock = VirtualClock(start)
        self._count = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        """Wait until `advance` has moved the clock that far."""
        future = asyncio.get_running_loop().create_future()
        due = self.clock.monotonic() + seconds
        heapq.heappush(self._sleepers, (due, next(self._count), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass; everybody who sleeps wakes at their own moment, in order."""
        end = self.clock.monotonic() + seconds
        await self.settle()
        while self._sleepers and self._sleepers[0][0] <= end + 1e-9:
            due, _, future = heapq.heappop(self._sleepers)
            if future.done():
                continue
            self._move_to(due)
            future.set_result(None)
            await self.settle()
        self._move_to(end)
        await self.settle()

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        for _ in range(60):
            await asyncio.sleep(0)

    def _move_to(self, moment: float) -> None:
        rest = moment - self.clock.monotonic()
        if rest > 0:
            self.clock.advance(timedelta(seconds=rest))
