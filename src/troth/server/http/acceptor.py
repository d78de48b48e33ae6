"""Accepting connections: counted before the TLS handshake, which has a time of its own.

The event loop's own servers tell nobody about a connection until its handshake is done, so silent
clients would hold file descriptors that nothing counts.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import structlog

from troth.core.clock import Clock
from troth.server.http.capacity import Capacity, Slot, name_source

log = structlog.get_logger(__name__)

BATCH = 64
"""Connections accepted in one go, before others in the event loop have their turn."""
PAUSE_SECONDS = 0.2
"""How long nothing is accepted after the system couldn't give another descriptor."""
WARN_SECONDS = 60.0

Greet = Callable[[socket.socket, Slot], Awaitable[object]]
"""Takes an accepted connection over, or raises; from then on its protocol owns the slot."""


class Acceptor:
    """Accepts on one listening socket, which it owns, while `capacity` has room.

    What there is no room for is closed at once. `start` once, `stop` once.
    """

    def __init__(
        self, bound: socket.socket, capacity: Capacity, greet: Greet, clock: Clock, name: str
    ) -> None:
        self.bound = bound
        self._capacity = capacity
        self._greet = greet
        self._clock = clock
        self._name = name
        self._greetings: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._resume: asyncio.TimerHandle | None = None
        self._warned: float | None = None

    def start(self) -> None:
        """Begin to accept; the socket listens already."""
        self._resume = None
        self._loop.add_reader(self.bound, self._accept)

    async def stop(self) -> None:
        """Accept nothing more and drop the connections that are still in their handshake."""
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self.bound)
        self.bound.close()
        for greeting in self._greetings:
            greeting.cancel()
        await asyncio.gather(*self._greetings, return_exceptions=True)

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                connected, _ = self.bound.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue  # gone again while it waited
            except OSError as error:
                # No descriptor or memory left (accept(2)): the backlog waits until there is one.
                log.warning("listener.paused", listener=self._name, reason=error.strerror)
                self._loop.remove_reader(self.bound)
                self._resume = self._loop.call_later(PAUSE_SECONDS, self.start)
                return
            self._admit(connected)

    def _admit(self, connected: socket.socket) -> None:
        try:
            source = name_source(connected)
            connected.setblocking(False)
            if connected.family != socket.AF_UNIX:
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # gone already
            connected.close()
            return
        slot = self._capacity.claim(source)
        if slot is None:
            connected.close()
            self._warn(source)
            return
        greeting = self._loop.create_task(self._run(connected, slot))
        self._greetings.add(greeting)
        greeting.add_done_callback(self._greetings.discard)

    async def _run(self, connected: socket.socket, slot: Slot) -> None:
        try:
            await self._greet(connected, slot)
        except OSError as error:  # SSLError and a handshake out of time among them
            slot.release()
            log.debug(
                "handshake.failed", listener=self._name, source=slot.source, reason=str(error)
            )
        except BaseException:
            slot.release()
            raise

    def _warn(self, source: str) -> None:
        """Say that clients are turned away, once in a while: a flood may not fill the log too."""
        now = self._clock.monotonic()
        if self._warned is None or now - self._warned >= WARN_SECONDS:
            self._warned = now
            log.warning(
                "listener.full",
                listener=self._name,
                source=source,
                connections=self._capacity.taken,
                limit=self._capacity.caps.total,
                limit_per_address=self._capacity.caps.each,
            )
