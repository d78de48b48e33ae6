"""Word between servers on one PostgreSQL database: "sealed" and "something waits for the sealer".

No writer's transaction notifies: NOTIFY makes commits of a whole database wait for each other. The
sealer's does, since there is one; and a server that has committed and may not seal says so
afterwards, by a statement of its own on the connection that it listens on. A lost word costs a
look, every tenth of a second.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import structlog

from troth.core.errors import TrothError
from troth.store.journal import CHANNEL, SEALED, WAITING
from troth.store.postgres import PostgresServer

LOOK_SECONDS = 0.1
PAUSE_SECONDS = 0.5
SHOW_SECONDS = 5.0
"""How long a start waits until others see that this server lives."""

_LOOK = "SELECT EXISTS (SELECT FROM journal WHERE position IS NULL)"
_SHOW = "SELECT pg_try_advisory_lock(%s)"

log = structlog.get_logger(__name__)


class Courier:
    """A thread with a connection of its own, that listens, asks, and shows that we are alive.

    `ring` is called in that thread when another server sealed, or something waits to be sealed.
    While the connection lives it holds an advisory lock on `presence`: when a server dies the lock
    goes with it, and others needn't wait for its leases to end.
    """

    def __init__(
        self, server: PostgresServer, holder: str, presence: int, ring: Callable[[], None]
    ) -> None:
        self._server = server
        self._holder = holder
        self._presence = presence
        self._ring = ring
        self._asked: str | None = None
        self._closed = threading.Event()
        self._shown = threading.Event()
        self._read_end, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="troth-courier", daemon=True)
        self._thread.start()

    def ask(self, holder: str) -> None:
        """Tell `holder` that something waits to be sealed. Never blocks, may be called often."""
        self._asked = holder
        self._nudge()

    def wait_shown(self) -> bool:
        """Wait until others can see that this server lives, or for `SHOW_SECONDS`: a lease that it
        takes before is anybody's."""
        return self._shown.wait(SHOW_SECONDS)

    def close(self) -> None:
        """End the thread and its connection. Again is no error."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._nudge()
        self._thread.join()
        os.close(self._read_end)
        os.close(self._write_end)

    def _nudge(self) -> None:
        try:
            os.write(self._write_end, b".")
        except BlockingIOError:
            pass  # it is full of nudges already

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with self._server.connect() as connection:
                    self._serve(connection)
            except (psycopg.Error, TrothError) as error:
                log.warning("store.courier_cut", error=type(error).__name__)
                self._closed.wait(PAUSE_SECONDS)

    def _serve(self, connection: psycopg.Connection[Any]) -> None:
        connection.add_notify_handler(self._take)
        present = self._show(connection)
        connection.execute(f"LISTEN {CHANNEL}")
        self._ring()  # for whatever was said while nobody listened
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._read_end, select.POLLIN)
        while not self._closed.is_set():
            ready = {number for number, _ in poll.poll(LOOK_SECONDS * 1000)}
            if self._read_end in ready:
                os.read(self._read_end, 4096)
            present = present or self._show(connection)
            asked, self._asked = self._asked, None
            if asked is not None:
                connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, f"{WAITING} {asked}"))
            # Takes in what has been notified as well.
            elif connection.execute(_LOOK).fetchone() == (True,):
                self._ring()

    def _show(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether this connection shows by now that we live. It tries and doesn't wait, and tries
        again with each look: a cut connection of ours may still hold the lock, and end later; or
        somebody asks for it at this moment."""
        if connection.execute(_SHOW, (self._presence,)).fetchone() != (True,):
            return False
        self._shown.set()
        return True

    def _take(self, notice: psycopg.Notify) -> None:
        word, _, holder = notice.payload.partition(" ")
        if (word == SEALED) is not (holder == self._holder):
            self._ring()
