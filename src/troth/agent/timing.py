"""Waiting: patience that grows, news that nobody misses, and a list of what is due when.

Sleeping is handed in everywhere, so that tests and simulation decide how time passes.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from troth.core.clock import Clock
from troth.core.entropy import Entropy, fraction
from troth.core.errors import Passing

Sleep = Callable[[float], Awaitable[None]]
"""Waits for that many seconds."""

LEAST = 0.05
"""The part of a delay that isn't left to chance."""

LONGEST_NAP = 30.0
"""Seconds after which a wait looks at the wall clock again, since that may be set."""


class Backoff:
    """Delays of random length, below a bound that doubles up to a cap ("full jitter").

    A thousand agents that lost the server at the same moment so come back at a thousand different
    ones. Source: Brooker, "Exponential Backoff And Jitter", 2015.
    """

    def __init__(self, entropy: Entropy, first: float = 0.2, cap: float = 30.0) -> None:
        self._entropy = entropy
        self._first = first
        self._cap = cap
        self._next = first

    def take(self, error: Exception | None = None) -> float:
        """Seconds to wait before the next try, after `error` if that says when to come back."""
        bound = self._next
        self._next = min(bound * 2, self._cap)
        # Never none at all: whatever answers at once isn't asked again at once.
        delay = bound * (LEAST + (1 - LEAST) * fraction(self._entropy))
        wanted = error.retry_after if isinstance(error, Passing) else None
        return delay if wanted is None else wanted + delay

    def widen(self, first: float, cap: float) -> None:
        """Other bounds from now on."""
        self._first, self._cap = first, cap
        self._next = max(self._next, first)

    def reset(self) -> None:
        """It worked: start small again."""
        self._next = self._first


class Broadcast:
    """A counter of changes to wait on.

    Who waits names the version that they have seen, so a change in between is never missed.
    """

    def __init__(self) -> None:
        self.version = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def announce(self) -> None:
        """Count a change and wake everybody."""
        self.version += 1
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait_beyond(self, version: int) -> int:
        """The present version, as soon as it is past `version`."""
        while self.version <= version:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await future
            finally:
                self._waiting.discard(future)
        return self.version


async def wait_first(*waits: Awaitable[object]) -> None:
    """Return when one of `waits` has ended, with the others cancelled; raises what it raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def sleep_until(moment: datetime, clock: Clock, sleep: Sleep) -> None:
    """Wait for the wall clock to reach `moment`, however it is set meanwhile."""
    while (rest := (moment - clock.now()).total_seconds()) > 0:
        await sleep(min(rest, LONGEST_NAP))


def place_renewal(start: datetime, end: datetime, entropy: Entropy) -> datetime:
    """When to renew what lives from `start` to `end`: at half its life, give or take 10 %."""
    half = (end - start).total_seconds() / 2
    return start + timedelta(seconds=half * (0.9 + 0.2 * fraction(entropy)))


class Agenda:
    """What is due when, on the wall clock. Handling something twice must do no harm."""

    def __init__(self, clock: Clock, sleep: Sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._due: list[tuple[datetime, str]] = []
        self._earlier = Broadcast()
        self._planned: dict[str, datetime] = {}

    def plan(self, key: str, moment: datetime | None) -> None:
        """See to `key` at `moment`; this replaces what was planned for it before."""
        if moment is None:
            self._planned.pop(key, None)
            return
        if self._planned.get(key) == moment:
            return
        self._planned[key] = moment
        heapq.heappush(self._due, (moment, key))
        if self._due[0] == (moment, key):
            self._earlier.announce()

    async def run(self, handle: Callable[[str], None]) -> None:
        """Call `handle` with each key when it is due, for ever."""
        while True:
            version = self._earlier.version
            for key in self._take_due():
                handle(key)
            if not self._due:
                await self._earlier.wait_beyond(version)
                continue
            rest = (self._due[0][0] - self._clock.now()).total_seconds()
            nap = self._sleep(min(max(rest, 0.0), LONGEST_NAP))
            await wait_first(self._earlier.wait_beyond(version), nap)

    def _take_due(self) -> list[str]:
        now = self._clock.now()
        keys = []
        while self._due and self._due[0][0] <= now:
            moment, key = heapq.heappop(self._due)
            if self._planned.get(key) == moment:
                del self._planned[key]
                keys.append(key)
        return keys
