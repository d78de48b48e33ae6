"""What waits for the log's thread, and how the results find their way back to the event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from troth.archive.writing import Entry
from troth.core.errors import TrothError


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Entries that wait to be durable, or none: then the segment is to be closed.

    `size` is that of the entries in bytes, `asked_at` on the monotonic clock.
    """

    entries: list[Entry]
    size: int
    asked_at: float
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


def deliver(group: Iterable[Job], value: Any, error: TrothError | None) -> None:
    """Let the callers have their results: one wake-up a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[Any]]] = {}
    for job in group:
        by_loop.setdefault(job.loop, []).append(job.future)
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(partial(_settle, futures, value, error))
        except RuntimeError:
            pass  # the loop is closed: nobody waits there any more


def _settle(futures: Iterable[asyncio.Future[Any]], value: Any, error: TrothError | None) -> None:
    for future in futures:
        if future.done():
            continue  # cancelled while it was being written
        if error is None:
            future.set_result(value)
        else:
            own = type(error)(error.detail)  # one each: raising changes an exception
            own.__cause__ = error.__cause__
            future.set_exception(own)
