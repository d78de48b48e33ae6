"""The agent's Unix socket: one gRPC server for the Workload API and Envoy's SDS.

Every process of the node may connect, so the file's mode is 0777; what a caller gets depends on
what the kernel says about it. Starting takes over a stale socket file, never a living one.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import socket
import stat
from dataclasses import replace
from pathlib import Path

import structlog

from troth.agent.call import Handler, Service
from troth.agent.place import find_fault, suggest_mend
from troth.agent.quota import Limits, Quota
from troth.agent.switchboard import Switchboard
from troth.core.clock import Clock
from troth.core.errors import Conflict, Invalid, Refused

BACKLOG = 4_096
"""A burst of reconnecting clients fits; the default of 100 answers it with EAGAIN."""
MODE = 0o777
MAX_PATH = 107
"""sockaddr_un, unix(7)."""
_DESCRIPTORS_KEPT = 128
"""For everything else that the process opens; each connection takes two (socket and pidfd)."""

_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_BOUND = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_log = structlog.get_logger(__name__)


class AgentSocket:
    """The server on one path, from `start` to `stop`."""

    def __init__(self, clock: Clock, limits: Limits | None = None) -> None:
        self._clock = clock
        self._limits = limits or Limits()
        self._file: _SocketFile | None = None
        self._server: asyncio.Server | None = None
        self._switchboard: Switchboard | None = None

    async def start(self, path: Path, *services: Service) -> None:
        """Serve `services` on `path`.

        Raises `Conflict` if something lives there, `Invalid` if the path can't be a socket's,
        `Refused` if others could replace the socket.
        """
        handlers: dict[str, Handler] = {}
        for service in services:
            handlers.update(service.methods())
        limits = _fit_descriptors(self._limits)
        self._switchboard = Switchboard(handlers, Quota(limits, self._clock))
        self._file = _SocketFile(path)
        listening = self._file.open()
        try:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(
                self._switchboard.connect, sock=listening, backlog=BACKLOG
            )
        except BaseException:
            await self.stop()
            raise
        _log.info("socket.opened", path=str(path))

    async def stop(self, grace: float = 2.0) -> None:
        """End every call with UNAVAILABLE, then close; after `grace` seconds without asking."""
        if self._server is not None:
            self._server.close()
        if self._switchboard is not None:
            await self._hang_up_all(self._switchboard, grace)
        self._server = None
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _hang_up_all(self, switchboard: Switchboard, grace: float) -> None:
        switchboard.stopping = True
        connections = set(switchboard.connections)
        tasks = {task for connection in connections for task in connection.calls.tasks}
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()  # it waits for a caller that doesn't read
        for connection in connections:
            connection.say_goodbye()
        # A transport closes once its peer has read what is left: not everybody does.
        try:
            async with asyncio.timeout(grace):
                await switchboard.empty.wait()
        except TimeoutError:
            for connection in set(switchboard.connections):
                connection.abort()
            await switchboard.empty.wait()


class _SocketFile:
    """The socket's place in the file system: claimed, bound, removed if it is still ours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self._identity: tuple[int, int] | None = None

    def open(self) -> socket.socket:
        """Claim the path and bind a socket there, in place of a stale one."""
        place = _open_place(self._path)
        try:
            return self._bind(place)
        finally:
            os.close(place)

    def _bind(self, place: int) -> socket.socket:
        self._claim()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)
            listening.setblocking(False)
            listening.bind(str(self._path))
            self._identity = _let_everybody_connect(self._path, place)
        except BaseException:
            listening.close()
            self.close()
            raise
        return listening

    def close(self) -> None:
        """Remove the file, if it is still the one we made, and give up the claim."""
        try:
            found = self._path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self._path.unlink()
        except FileNotFoundError:
            pass  # somebody else has tidied up
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _claim(self) -> None:
        """Take the lock beside the path, so that two agents can't both find it stale."""
        lock = self._path.with_name(f".{self._path.name}.lock")
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._lock = os.open(lock, flags, 0o600)
        except OSError as error:
            raise Refused(f"The lock {lock} can't be taken: {error.strerror}.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_stale(self._path)
        except BlockingIOError:
            self.close()
            raise _occupied(self._path) from None
        except BaseException:
            self.close()
            raise


def _open_place(path: Path) -> int:
    """The directory of `path`, after checking that nobody else could replace the socket there."""
    longest = MAX_PATH - len("..new")
    if len(os.fsencode(path)) > longest:
        raise Invalid(
            f"The socket's path {path} is too long; at most {longest} bytes are possible."
        )
    try:
        place = os.open(path.parent, _PLACE)
    except OSError as error:
        raise Invalid(f"The directory {path.parent} can't be used: {error.strerror}.") from error
    found = os.fstat(place)
    if fault := find_fault(found):
        os.close(place)
        raise Refused(
            f"The directory {path.parent} {fault}, so others could replace the socket in it; "
            f"run: {suggest_mend(found, path.parent)}"
        )
    return place


def _let_everybody_connect(path: Path, place: int) -> tuple[int, int]:
    """Open up the socket just bound at `path`, in the directory `place`; returns dev and inode.

    By descriptor and not by path: what stands at a path may be a symlink a moment later.
    """
    problem = Refused(f"Something else took the place of the socket {path}; look who did that.")
    try:
        bound = os.open(path.name, _BOUND, dir_fd=place)
    except FileNotFoundError as error:
        raise problem from error
    try:
        found = os.fstat(bound)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
            raise problem
        os.chmod(f"/proc/self/fd/{bound}", MODE)
        there = path.lstat()
        if (there.st_dev, there.st_ino) != (found.st_dev, found.st_ino):
            raise problem
        return found.st_dev, found.st_ino
    finally:
        os.close(bound)


def _check_stale(path: Path) -> None:
    """Raise `Conflict` unless `path` is free or a socket that nobody answers on."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"{path} exists and is not a socket; move it away or choose another path.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
        except BlockingIOError:
            pass  # its backlog is full: it lives
    raise _occupied(path)


def _occupied(path: Path) -> Conflict:
    return Conflict(f"Another agent serves {path}; stop it or choose another path.")


def _fit_descriptors(limits: Limits) -> Limits:
    """Lower the limits to what the process may open, and let no uid take more than half of it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return limits
    total = min(limits.connections_total, max(2, (soft - _DESCRIPTORS_KEPT) // 2))
    return replace(limits, connections_total=total, connections=min(limits.connections, total // 2))
