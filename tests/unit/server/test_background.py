"""Background work: on a period, when woken, and whatever happens in one run."""

from __future__ import annotations

import asyncio

from troth.core.clock import VirtualClock
from troth.core.errors import Unavailable
from troth.server.background import Background, Task


class Meter:
    """Remembers what was counted."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.runs: list[tuple[str, str]] = []

    def count_failure(self, task: str) -> None:
        self.failures.append(task)

    def observe_task(self, task: str, outcome: str, seconds: float, ended: float) -> None:
        self.runs.append((task, outcome))


class Counter:
    """An operation that counts its runs, tells types, and fails when told to."""

    def __init__(self, *types: str) -> None:
        self.types = types
        self.runs = 0
        self.error: Exception | None = None
        self.ran = asyncio.Event()

    async def __call__(self) -> set[str]:
        self.runs += 1
        self.ran.set()
        if self.error is not None:
            raise self.error
        return set(self.types)

    async def wait(self) -> None:
        async with asyncio.timeout(5):
            await self.ran.wait()
        self.ran.clear()


def test_each_runs_once_at_the_start_and_again_when_woken() -> None:
    async def main() -> None:
        one = Counter()
        background = Background([Task("one", 3600, one)], Meter(), lambda: True, VirtualClock())
        background.start()
        await one.wait()
        background.wake("one")
        await one.wait()
        assert one.runs == 2
        await background.stop()

    asyncio.run(main())


def test_sealed_types_wake_whom_they_concern() -> None:
    async def main() -> None:
        feed, lists, other = Counter("certificate.revoked"), Counter(), Counter()
        tasks = [
            Task("feed", 3600, feed),
            Task("lists", 3600, lists, wakes=("certificate.revoked",)),
            Task("other", 3600, other, wakes=("identity.",)),
        ]
        background = Background(tasks, Meter(), lambda: True, VirtualClock())
        background.start()
        for counter in (feed, lists, other):
            await counter.wait()
        background.wake("feed")
        await lists.wait()
        await asyncio.sleep(0)
        assert other.runs == 1
        await background.stop()

    asyncio.run(main())


def test_a_period_makes_up_for_a_lost_wake_up() -> None:
    async def main() -> None:
        one = Counter()
        background = Background([Task("one", 0.001, one)], Meter(), lambda: True, VirtualClock())
        background.start()
        await one.wait()
        await one.wait()
        await background.stop()
        runs = one.runs
        await asyncio.sleep(0)
        assert one.runs == runs

    asyncio.run(main())


def test_a_failure_is_counted_and_the_next_run_comes() -> None:
    async def main() -> None:
        meter = Meter()
        one = Counter()
        one.error = Unavailable("The database is away.")
        background = Background([Task("one", 3600, one)], meter, lambda: True, VirtualClock())
        background.start()
        await one.wait()
        one.error = ZeroDivisionError("a mistake of our own")
        background.wake("one")
        await one.wait()
        one.error = None
        background.wake("one")
        await one.wait()
        assert meter.failures == ["one", "one"]
        assert meter.runs == [("one", "unavailable"), ("one", "internal"), ("one", "ok")]
        await background.stop()

    asyncio.run(main())


def test_what_cannot_be_undone_waits_for_a_steady_clock() -> None:
    async def main() -> None:
        steady = False
        careful, other = Counter(), Counter()
        tasks = [Task("careful", 3600, careful, irreversible=True), Task("other", 3600, other)]
        background = Background(tasks, Meter(), lambda: steady, VirtualClock())
        background.start()
        await other.wait()
        assert careful.runs == 0
        steady = True
        background.wake("careful")
        await careful.wait()
        await background.stop()

    asyncio.run(main())
