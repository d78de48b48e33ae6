"""The readers: a few threads, each with its own connection, that never wait for the writer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from troth.core.errors import Unavailable
from troth.store.session import Session
from troth.store.sqlite import Link, SqliteFile
from troth.store.writer import Function, call_function, translate_error

THREADS = 3
QUEUE = 8192


class Readers:
    """Runs functions on consistent snapshots. Nothing can be changed through these connections."""

    def __init__(self, file: SqliteFile, *, threads: int = THREADS, queue: int = QUEUE) -> None:
        self._file = file
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
        link: Link | None = None
        try:
            link = self._take_link()
            link.begin_read()
            value = call_function(function, Session(link.connection, writable=False))
            link.rollback()
        except BaseException as error:  # the caller's, whatever it is: it gets it
            known = translate_error(error, reading=True)
            if link is not None:
                self._give_back(link, healthy=not isinstance(known, Unavailable))
            if known is error:
                raise
            raise known from error
        self._give_back(link, healthy=True)
        return value

    def _take_link(self) -> Link:
        with self._guard:
            if self._free:
                return self._free.pop()
        return self._file.open_link(read_only=True)

    def _give_back(self, link: Link, *, healthy: bool) -> None:
        """Keep the connection for the next read, unless it may be the reason for an outage."""
        try:
            link.rollback()
        except sqlite3.Error:
            healthy = False
        if healthy:
            with self._guard:
                self._free.append(link)
        else:
            link.close()
