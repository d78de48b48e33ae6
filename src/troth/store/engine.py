"""The store as the rest of the house sees it: `transact`, `read`, and word of new events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import structlog

from troth.core.clock import Clock
from troth.store.readers import Readers
from troth.store.schema import prepare_schema
from troth.store.sqlite import SqliteFile, explain_error, parse_url
from troth.store.transaction import Transaction
from troth.store.writer import Writer

__all__ = ["Store", "Transaction", "open_store"]

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Store:
    """All control state, in one database."""

    def __init__(self, file: SqliteFile, clock: Clock) -> None:
        self.clock = clock
        self._file = file
        self._listeners: list[Callable[[], None]] = []
        self._readers = Readers(file)
        self._writer = Writer(file, self._announce)

    async def transact(self, function: Callable[[Transaction], T]) -> T:
        """Run `function` in a transaction; returns only once it is durable.

        What `function` raises takes back what it did, and nothing else, and is raised here.
        `Unavailable` means that the database couldn't commit; nothing is recorded, unless power
        fails at that very moment, so look before you repeat. A caller that is cancelled before
        its turn leaves no trace; later, the work is done all the same.

        `function` runs in the writer's thread while all other writers wait: no I/O, no waiting.
        """
        result: T = await self._writer.submit(function)
        return result

    async def read(self, function: Callable[[Transaction], T]) -> T:
        """Run `function` on one consistent snapshot; it waits for no writer and can't change
        anything. `Unavailable` when the database is away."""
        result: T = await self._readers.submit(function)
        return result

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after every commit that holds new journal rows.

        It is called in the event loop of the transactions' callers, once a group, after they got
        their results. It says "look", not what: a lost call costs a period, never a result.
        """
        self._listeners.append(callback)

    def close(self) -> None:
        """Write and read what is queued, then close; blocks until done. Again is no error."""
        self._writer.close()
        self._readers.close()
        self._file.dispose()

    def _announce(self) -> None:
        loop = asyncio.get_running_loop()
        for callback in self._listeners:
            loop.call_soon(callback)  # each by itself: one that fails spoils nothing else


def open_store(url: str, *, clock: Clock) -> Store:
    """Open the database at `url` (``sqlite:///path/troth.db``), create and migrate it if needed.

    Blocks: call it before the event loop runs, or in a thread. Raises `Invalid` for a URL or
    file that isn't ours, `Refused` for a newer troth's, `Unavailable` if it can't be opened.
    """
    file = SqliteFile(parse_url(url))
    file.create()
    try:
        prepare_schema(file)
    except Exception as error:
        known = explain_error(error)
        if known is None:
            raise
        raise known from error
    return Store(file, clock)
