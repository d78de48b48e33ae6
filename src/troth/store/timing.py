"""How long reads and transactions wait, run and take to be durable: for metrics and traces.

Nothing of it reaches into the threads that do the work: a function is handed on with a stopwatch
around it, and what it showed is told afterwards, in the caller's own task. So each caller's spans
hang in its own trace, however many functions shared a thread or a COMMIT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from troth.core.clock import Clock
from troth.core.errors import TrothError
from troth.core.tracing import NO_TRACER, Tracer
from troth.store.transaction import Transaction

T = TypeVar("T")

Function = Callable[[Transaction], T]


class StoreMeter(Protocol):
    """Counts what the store did. `kind` is ``read``, ``transact`` or ``seal``."""

    def observe_store(
        self, kind: str, outcome: str, seconds: float, waited: float, retries: int
    ) -> None:
        """One finished read or transaction: from asking to answer, `waited` before it began, and
        begun again `retries` times because the database asked."""
        ...


class _NoMeter:
    """Counts nothing."""

    def observe_store(
        self, kind: str, outcome: str, seconds: float, waited: float, retries: int
    ) -> None:
        """Nothing."""


class Stopwatch:
    """Runs functions and tells how long they took. Belongs to one event loop."""

    def __init__(
        self, clock: Clock, tracer: Tracer = NO_TRACER, meter: StoreMeter | None = None
    ) -> None:
        self._monotonic = clock.monotonic
        self._tracer = tracer
        self._meter = meter or _NoMeter()
        self.under_way = {"read": 0, "transact": 0, "seal": 0}
        """Those that wait or run now, by kind."""

    async def run(
        self, kind: str, function: Function[T], submit: Callable[[Function[T]], asyncio.Future[T]]
    ) -> T:
        """The result of `function`, handed to `submit`."""
        run = _Run(function, self._monotonic)
        outcome = "internal"
        self.under_way[kind] += 1
        with self._tracer.within(f"store.{kind}") as span:
            try:
                result = await submit(run)
                outcome = "ok"
                return result
            except TrothError as error:
                outcome = error.code
                raise
            except asyncio.CancelledError:
                outcome = "cancelled"
                raise
            finally:
                self.under_way[kind] -= 1
                ended = self._monotonic()
                waited = (run.began if run.attempts else ended) - run.asked
                retries = max(0, run.attempts - 1)
                self._meter.observe_store(kind, outcome, ended - run.asked, waited, retries)
                if self._tracer.enabled:
                    span.note(store_retries=retries, store_outcome=outcome)
                    run.tell(self._tracer, ended, durable=kind != "read" and outcome == "ok")


class _Run:
    """One function with its moments, in monotonic seconds; called in another thread."""

    __slots__ = ("_function", "_monotonic", "asked", "attempts", "began", "ended")

    def __init__(self, function: Function[Any], monotonic: Callable[[], float]) -> None:
        self._function = function
        self._monotonic = monotonic
        self.attempts = 0
        self.asked = self.began = self.ended = monotonic()

    def __call__(self, tx: Transaction) -> Any:
        if not self.attempts:
            self.began = self._monotonic()
        self.attempts += 1
        try:
            return self._function(tx)
        finally:
            self.ended = self._monotonic()

    def tell(self, tracer: Tracer, ended: float, *, durable: bool) -> None:
        """The parts as spans: in the queue, at work (all attempts), until it was durable."""
        if not self.attempts:
            return  # it never had its turn
        tracer.record("store.wait", self.asked, self.began)
        tracer.record("store.work", self.began, self.ended)
        if durable:
            tracer.record("store.commit", self.ended, ended)
