"""The gRPC listener: TCP with mutual TLS, counted before the handshake."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping

import structlog

from troth.core.clock import Clock
from troth.server.grpc.call import Handler
from troth.server.grpc.connection import GrpcConnection, Shared
from troth.server.http.acceptor import Acceptor
from troth.server.http.capacity import Capacity, Slot, count_descriptors, fit_caps
from troth.server.http.listeners import TcpBinding, bind_tcp
from troth.server.settings import Limits

log = structlog.get_logger(__name__)


class GrpcListener:
    """Serves unary methods by path. Belongs to one event loop; `start` once, `stop` once."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        name: str,
        binding: TcpBinding,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.name = name
        self._binding = binding
        self._limits = limits
        self._clock = clock
        self._shared = Shared(handlers, clock)
        self._acceptors: list[Acceptor] = []
        self.port = 0
        """The bound port once started."""

    async def start(self) -> None:
        """Bind and listen; raises `Conflict`, `Invalid`, `Refused` or `Unavailable`."""
        caps = fit_caps(self._limits, admin=False, descriptors=count_descriptors())
        capacity = Capacity(caps)
        sockets = await bind_tcp(self._binding)
        self.port = sockets[0].getsockname()[1]
        for bound in sockets:
            acceptor = Acceptor(bound, capacity, self._greet, self._clock, self.name)
            acceptor.start()
            self._acceptors.append(acceptor)
        where = f"{self._binding.host}:{self.port}"
        log.info("listener.started", listener=self.name, where=where, connections=caps.total)

    def count_connections(self) -> int:
        """How many connections are open."""
        return len(self._shared.connections)

    def count_requests(self) -> int:
        """How many calls are being answered now."""
        return sum(len(one.calls.tasks) for one in self._shared.connections)

    async def stop(self) -> None:
        """Accept nothing more, let calls finish for `stop_seconds`, close all."""
        shared = self._shared
        shared.stopping = True
        while self._acceptors:
            await self._acceptors.pop().stop()
        tasks = {task for one in shared.connections for task in one.calls.tasks}
        if tasks:
            await asyncio.wait(tasks, timeout=self._limits.stop_seconds)
        for connection in set(shared.connections):
            connection.hang_up("the server stops")
        if shared.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await shared.empty.wait()
        for connection in set(shared.connections):
            connection.abort()
        log.info("listener.stopped", listener=self.name)

    async def _greet(self, connected: socket.socket, slot: Slot) -> None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: GrpcConnection(self._shared, slot),
            connected,
            ssl=self._binding.tls,
            ssl_handshake_timeout=self._limits.header_seconds,
            ssl_shutdown_timeout=2,
        )
