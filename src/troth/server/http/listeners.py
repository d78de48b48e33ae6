"""Listeners: TCP with TLS and Unix sockets, several in one event loop.

uvicorn parses HTTP; starting, counting and stopping is done here, because uvicorn's own server
takes signals, polls ten times a second and lets no stream know that it should end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import uvicorn

from troth.core.clock import Clock
from troth.core.errors import Conflict, Invalid, Refused, TrothError, Unavailable
from troth.server.http.acceptor import Acceptor, Greet
from troth.server.http.capacity import Capacity, Slot, count_descriptors, fit_caps
from troth.server.http.protocol import ListenerState, PeerProtocol
from troth.server.settings import Limits

log = structlog.get_logger(__name__)

BACKLOG = 4096
_MAX_SOCKET_PATH = 107  # sun_path of unix(7), without the final zero


@dataclass(frozen=True, slots=True)
class TcpBinding:
    """A host and port, with TLS, unless a proxy in front has that. Every address of the host is
    bound, on one port."""

    host: str
    port: int
    tls: ssl.SSLContext | None


@dataclass(frozen=True, slots=True)
class UnixBinding:
    """A path of the file system and its mode."""

    path: Path
    mode: int


class Listener:
    """One place where the server answers. Belongs to one event loop; `start` once, `stop` once.

    `app` is an ASGI application. `name` is for the log.
    """

    def __init__(
        self,
        app: Any,
        *,
        name: str,
        binding: TcpBinding | UnixBinding,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.name = name
        self._binding = binding
        self._limits = limits
        self._state = ListenerState(clock, limits)
        self._config = uvicorn.Config(
            app,
            http=PeerProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=limits.idle_seconds,
        )
        self._acceptors: list[Acceptor] = []
        self._inode: int | None = None
        self.port = 0
        """The bound port once started; 0 for a Unix socket."""

    async def start(self) -> None:
        """Bind and listen.

        Raises `Conflict` when another server is there, `Invalid` for an unusable address and
        `Refused` or `Unavailable` when the system says no.
        """
        self._config.load()
        admin = isinstance(self._binding, UnixBinding)
        capacity = Capacity(fit_caps(self._limits, admin=admin, descriptors=count_descriptors()))
        if isinstance(self._binding, UnixBinding):
            await self._start_unix(self._binding, capacity)
        else:
            await self._start_tcp(self._binding, capacity)
        connections = capacity.caps.total
        log.info("listener.started", listener=self.name, where=self.where, connections=connections)

    @property
    def where(self) -> str:
        """The address, for people."""
        if isinstance(self._binding, UnixBinding):
            return str(self._binding.path)
        host = self._binding.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    def count_connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    def count_requests(self) -> int:
        """How many requests are being answered now, streams among them."""
        return len(self._state.tasks)

    async def stop(self) -> None:
        """Accept nothing more, end streams, let requests finish for `stop_seconds`, close all."""
        state = self._state
        state.stopping.set()
        while self._acceptors:
            await self._acceptors.pop().stop()
        self._remove_socket()
        state.emptied.clear()
        for connection in list(state.connections):
            connection.shutdown()
        if state.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.stop_seconds):
                    await state.emptied.wait()
        late = list(state.tasks)
        for task in late:
            task.cancel()
        for connection in list(state.connections):
            connection.transport.abort()
        if late:
            await asyncio.wait(late, timeout=self._limits.stop_seconds or 1)
        log.info("listener.stopped", listener=self.name, cancelled=len(late))

    async def _start_tcp(self, binding: TcpBinding, capacity: Capacity) -> None:
        sockets = await bind_tcp(binding)
        self.port = sockets[0].getsockname()[1]

        async def greet(connected: socket.socket, slot: Slot) -> None:
            secured: dict[str, Any] = {
                "ssl": binding.tls,
                "ssl_handshake_timeout": self._limits.header_seconds,
                "ssl_shutdown_timeout": 2,
            }
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: PeerProtocol(self._config, self._state, slot),
                connected,
                **(secured if binding.tls is not None else {}),
            )

        for bound in sockets:
            self._accept(bound, capacity, greet)

    def _accept(self, bound: socket.socket, capacity: Capacity, greet: Greet) -> None:
        acceptor = Acceptor(bound, capacity, greet, self._state.clock, self.name)
        acceptor.start()
        self._acceptors.append(acceptor)

    async def _start_unix(self, binding: UnixBinding, capacity: Capacity) -> None:
        path = binding.path
        if len(os.fsencode(path)) + len(_suffix()) > _MAX_SOCKET_PATH:
            raise Invalid(
                f"The socket path {path} is too long for the kernel; choose a shorter data "
                "directory."
            )
        if _is_socket(path):
            await _check_stale(path)
        # Bound under another name first, so that the socket is never there with a wrong mode, and
        # a stale one is replaced in one step.
        fresh = path.with_name(path.name + _suffix())
        try:
            bound = _bind_unix(fresh, binding.mode)
            self._inode = fresh.lstat().st_ino
            fresh.rename(path)
        except OSError as error:
            raise Unavailable(f"The socket {path} can't be made: {error.strerror}.") from error

        async def greet(connected: socket.socket, slot: Slot) -> None:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: PeerProtocol(self._config, self._state, slot), connected
            )

        self._accept(bound, capacity, greet)

    def _remove_socket(self) -> None:
        if not isinstance(self._binding, UnixBinding) or self._inode is None:
            return
        with contextlib.suppress(OSError):
            # Another server may have taken the place since: only our own is ours to remove.
            if self._binding.path.lstat().st_ino == self._inode:
                self._binding.path.unlink()


def _suffix() -> str:
    return f".{os.getpid()}"


def _bind_unix(path: Path, mode: int) -> socket.socket:
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
        path.chmod(mode)  # before anybody can connect: it doesn't listen yet
        bound.setblocking(False)
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _is_socket(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Unavailable(f"The socket {path} can't be looked at: {error.strerror}.") from error
    if not stat.S_ISSOCK(mode):
        raise Refused(f"{path} is there and is no socket; move it away.")
    return True


async def _check_stale(path: Path) -> None:
    """Raise unless nobody listens on the socket at `path` any more."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)
    with probe:
        try:
            await asyncio.get_running_loop().sock_connect(probe, str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            raise Unavailable(f"{path} can't be tried: {error.strerror}.") from error
    raise Conflict(f"Another server listens on {path}; stop it, or choose another data directory.")


async def bind_tcp(binding: TcpBinding) -> list[socket.socket]:
    """Listening sockets for every address of the host, on one port."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(
            binding.host, binding.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:  # the latter for what can't be a name at all
        why = error.strerror if isinstance(error, OSError) else "no host is called so"
        raise Invalid(f"The host {binding.host} to listen on is unknown: {why}.") from error
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        # With port 0, the first address picks and the others follow.
        port = sockets[0].getsockname()[1] if sockets else address[1]
        try:
            sockets.append(_bind_address(family, (address[0], port, *address[2:])))
        except OSError as error:
            failure = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
    else:
        if sockets:
            return sockets  # ::1 without IPv6 in the kernel is no reason to stop
    for bound in sockets:
        bound.close()
    raise _explain_bind(binding, failure)


def _bind_address(family: int, address: Any) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.setblocking(False)
        bound.listen(BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


def _explain_bind(binding: TcpBinding, failure: OSError | None) -> TrothError:
    where = f"{binding.host}:{binding.port}"
    if failure is not None and failure.errno == errno.EADDRINUSE:
        return Conflict(f"Something else listens on {where}; stop it, or choose another port.")
    if failure is not None and failure.errno == errno.EACCES:
        return Refused(f"This user may not listen on {where}; choose a port above 1023.")
    reason = failure.strerror if failure is not None else "it has no address"
    return Unavailable(f"{where} can't be listened on: {reason}.")
