"""The readers: a few threads, each with its own connection, that never wait for the writer."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from troth.core.errors import Unavailable
from troth.store.database import Database, Link
from troth.store.session import Session
from troth.store.writer import Function, call_function, translate_error

THREADS = 3
ATTEMPTS = 2
"""A connection that was cut while it was idle is replaced by a new one, once."""
QUEUE = 8192


class Readers:
    """Runs functions on consistent snapshots. Nothing can be changed through these connections."""

    def __init__(self, database: Database, *, threads: int = THREADS, queue: int = QUEUE) -> None:
        self._database = database
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="troth-reader")
        self._free: list[Link] = []
        self._waiting = 0
        self._limit = queue
        self._guard = threading.Lock()
        self._closed = False

    def submit(self, function: Function) -> asyncio.Future[Any]:
        """Queue `function`; the future of its result, in the running loop."""
        with self._guard:
            if self._closed:
                raise Unavailable("The store is closed; the server is stopping.")
            if self._waiting >= self._limit:
                raise Unavailable("Too many reads wait for the database. Try again in a moment.")
            self._waiting += 1
            future = self._pool.submit(self._read, function)
        future.add_done_callback(self._leave)
        return asyncio.wrap_future(future)

    def close(self) -> None:
        """Take nothing new, finish what was begun, and close the connections."""
        with self._guard:
            self._closed = True
        self._pool.shutdown(wait=True)
        while self._free:
            self._free.pop().close()

    def _leave(self, _: object) -> None:
        with self._guard:
            self._waiting -= 1

    def _read(self, function: Function) -> Any:
        for attempt in range(ATTEMPTS):
            link: Link | None = None
            try:
                link = self._take_link()
                link.begin_read()
                value = call_function(function, Session(link.connection, writable=False))
                link.rollback()
            except BaseException as error:  # the caller's, whatever it is: it gets it
                passing = self._database.is_passing(error)
                known = translate_error(error, self._database, reading=True)
                if link is not None:
                    self._give_back(link, healthy=not isinstance(known, Unavailable))
                if passing and link is not None:
                    self._drop_links()  # the others were cut at the same time
                    if attempt + 1 < ATTEMPTS:
                        continue
                if known is error:
                    raise
                raise known from error
            self._give_back(link, healthy=True)
            return value
        raise AssertionError("the last attempt returns or raises")

    def _take_link(self) -> Link:
        with self._guard:
            if self._free:
                return self._free.pop()
        return self._database.open_link(read_only=True)

    def _give_back(self, link: Link, *, healthy: bool) -> None:
        """Keep the connection for the next read, unless it may be the reason for an outage."""
        if link.reset() and healthy:
            with self._guard:
                self._free.append(link)
        else:
            link.close()

    def _drop_links(self) -> None:
        with self._guard:
            stale, self._free = self._free, []
        for link in stale:
            link.close()
