"""Background work: one table of name, period, operation. Idempotent, on a period and when woken.

A lost wake-up costs a period, never a result; a failure is logged and tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from troth.core.errors import TrothError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """One line of the table.

    `period` in seconds; `wakes` are prefixes of event types after which it runs at once. What
    `run` returns are types of events that it saw sealed, so that others are woken. What is
    `irreversible` waits until the clock has been steady for a while.
    """

    name: str
    period: float
    run: Callable[[], Awaitable[Iterable[str] | None]]
    wakes: tuple[str, ...] = ()
    irreversible: bool = False


class Background:
    """Runs the table. Belongs to one event loop."""

    def __init__(
        self,
        tasks: Sequence[Task],
        count_failure: Callable[[str], None],
        is_steady: Callable[[], bool],
    ) -> None:
        self._count_failure = count_failure
        self._is_steady = is_steady
        self._tasks = {task.name: task for task in tasks}
        self._bells = {task.name: asyncio.Event() for task in tasks}
        self._running: list[asyncio.Task[None]] = []

    def wake(self, name: str) -> None:
        """Let the task run as soon as it can; calls while it runs merge into one more run."""
        self._bells[name].set()

    def wake_for(self, types: Iterable[str]) -> None:
        """Wake every task that an event of one of these types concerns."""
        for task in self._tasks.values():
            if any(kind.startswith(task.wakes) for kind in types):
                self.wake(task.name)

    def start(self) -> None:
        """Start every task; each runs once right away."""
        self._running = [
            asyncio.create_task(self._repeat(task), name=task.name) for task in self._tasks.values()
        ]

    async def stop(self) -> None:
        """Stop every task where it waits or works; what is half done is done again next time."""
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running = []

    async def _repeat(self, task: Task) -> None:
        bell = self._bells[task.name]
        while True:
            bell.clear()
            await self._run_once(task)
            try:
                async with asyncio.timeout(task.period):
                    await bell.wait()
            except TimeoutError:
                pass

    async def _run_once(self, task: Task) -> None:
        try:
            # Asked every time, so that it sees every jump.
            steady = self._is_steady()
            if steady or not task.irreversible:
                self.wake_for(await task.run() or ())
        except TrothError as error:
            self._count_failure(task.name)
            log.warning("background.failed", task=task.name, code=error.code, detail=error.detail)
        except Exception:
            self._count_failure(task.name)
            # Whatever goes wrong in one run must not end the task: the next run starts afresh.
            log.exception("background.broke", task=task.name)
