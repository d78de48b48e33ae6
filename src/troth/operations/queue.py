"""Wishes that come one by one and are worked off together: whoever comes while a batch is under way
goes into the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any, Generic, Protocol, TypeVar


class Queued(Protocol):
    """What waits, with the context of who waits for it."""

    @property
    def context(self) -> Context:
        """Its trace, and the request that it shows in."""
        ...


T = TypeVar("T", bound=Queued)


class BatchQueue(Generic[T]):
    """Hands what waits to `work`, at most `most` at once, one batch after another. `work` settles
    each of a batch, and raises nothing but what ends the process. Belongs to one event loop."""

    def __init__(
        self, work: Callable[[Sequence[T]], Coroutine[Any, Any, None]], most: int, name: str
    ) -> None:
        self._work = work
        self._most = most
        self._name = name
        self._waiting: deque[T] = deque()
        self._task: asyncio.Task[None] | None = None

    def put(self, one: T) -> None:
        """Have it worked off."""
        self._waiting.append(one)
        if self._task is None:
            self._task = asyncio.create_task(self._work_off(), name=self._name)

    async def _work_off(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), self._most)
                batch = [self._waiting.popleft() for _ in range(count)]
                # In the first one's context: that is the trace and the request that it shows in.
                await asyncio.create_task(self._work(batch), context=batch[0].context)
        finally:
            self._task = None


def settle_failure(answer: asyncio.Future[Any], error: BaseException) -> None:
    """Tell who waits, if somebody still does, what went wrong."""
    if answer.done():
        return
    if isinstance(error, Exception):
        answer.set_exception(error)
    else:
        answer.cancel()
