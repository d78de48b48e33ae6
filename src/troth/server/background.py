"""Background work: one table of name, period, operation. Idempotent, on a period and when woken.

A lost wake-up costs a period, never a result; a failure is logged and tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from troth.core.clock import Clock
from troth.core.errors import TrothError
from troth.core.tracing import NO_SPAN, NO_TRACER, Tracer

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
    quiet: bool = False
    """Runs so often, or to so little, that traces would show nothing else."""


class TaskMeter(Protocol):
    """Counts runs of background work."""

    def count_failure(self, task: str) -> None:
        """One run failed."""
        ...

    def observe_task(self, task: str, outcome: str, seconds: float, ended: float) -> None:
        """One run ended, at `ended` in Unix time; `outcome` is ``ok`` or an error's code."""
        ...


class Background:
    """Runs the table. Belongs to one event loop."""

    def __init__(
        self,
        tasks: Sequence[Task],
        meter: TaskMeter,
        is_steady: Callable[[], bool],
        clock: Clock,
        tracer: Tracer = NO_TRACER,
    ) -> None:
        self._meter = meter
        self._is_steady = is_steady
        self._clock = clock
        self._tracer = tracer
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
        # Asked every time, so that it sees every jump.
        steady = self._is_steady()
        if task.irreversible and not steady:
            return
        began = self._clock.monotonic()
        outcome = "internal"
        try:
            with NO_SPAN if task.quiet else self._tracer.span(f"background.{task.name}"):
                self.wake_for(await task.run() or ())
            outcome = "ok"
        except TrothError as error:
            outcome = error.code
            self._meter.count_failure(task.name)
            log.warning("background.failed", task=task.name, code=error.code, detail=error.detail)
        except Exception:
            self._meter.count_failure(task.name)
            # Whatever goes wrong in one run must not end the task: the next run starts afresh.
            log.exception("background.broke", task=task.name)
        seconds = self._clock.monotonic() - began
        ended = self._clock.now().timestamp()
        self._meter.observe_task(task.name, outcome, seconds, ended)
        if not task.quiet:
            log.debug(
                "background.finished", task=task.name, outcome=outcome, seconds=round(seconds, 6)
            )
