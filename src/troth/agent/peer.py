"""Who is at the other end of a Unix socket, as the kernel noted when it connected."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from troth.agent.lanes import Lanes
from troth.drivers.attestors import Peer

_UCRED = struct.Struct("iII")
_FD = struct.Struct("i")
_SO_PEERPIDFD = 77
"""From asm-generic/socket.h, since Linux 6.5; Python has no name for it yet."""

T = TypeVar("T")


class CredentialSocket(Protocol):
    """The part of a socket that tells the peer's credentials; uvloop's stand-in has it too."""

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        """As ``socket.getsockopt`` with a buffer size."""
        ...


def read_peer(sock: CredentialSocket) -> Peer:
    """The credentials of whoever connected; opens a pidfd where the kernel has one.

    Raises OSError if the process is gone already: then its pid may be somebody else's.
    """
    pid, uid, gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, _FD.size)
    except OSError as error:
        if error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):
            raise
        return Peer(pid, uid, gid)
    return Peer(pid, uid, gid, _FD.unpack(raw)[0])


class PeerHandle:
    """Keeps a peer's pidfd open until the connection and every attestation have let it go.

    A descriptor that is closed too early can come back as another process's.
    """

    def __init__(self, peer: Peer, lanes: Lanes) -> None:
        self.peer = peer
        self._lanes = lanes
        self._users = 1
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Callable[[Peer], Awaitable[T]]) -> T:
        """`work` with the peer, when it is the uid's turn; raises `Limited` if too many wait.

        A caller that is cancelled while waiting is forgotten. Work that has begun runs to its
        end and keeps its turn, so that resetting streams brings nobody more turns.
        """
        await self._lanes.enter(self.peer.uid)
        if not self._users:
            self._lanes.leave(self.peer.uid)
            raise RuntimeError("the peer was released")
        self._users += 1

        async def run_work() -> T:
            return await work(self.peer)

        task = asyncio.get_running_loop().create_task(run_work())
        self._tasks.add(task)
        task.add_done_callback(self._finish)
        return await asyncio.shield(task)

    def release(self) -> None:
        """The connection needs the peer no more."""
        self._users -= 1
        if not self._users and self.peer.pidfd >= 0:
            os.close(self.peer.pidfd)

    def _finish(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._lanes.leave(self.peer.uid)
        if not task.cancelled():
            task.exception()  # looked at, in case the one who waited for it is gone
        self.release()
