"""How many connections a listener takes, in all and from one source, so that no flood takes all.

Every connection is a file descriptor, and the process has only so many: the database, the agent
and the admin socket must still get theirs when strangers open all the connections they can.
"""

from __future__ import annotations

import ipaddress
import resource
import socket
from dataclasses import dataclass

from troth.server.http.exchange import read_peer
from troth.server.settings import Limits

DESCRIPTORS_KEPT = 128
"""File descriptors that no listener takes: database, log, keystore, agent, listening sockets."""
ADMIN_KEPT = 64
"""Connections that the admin socket gets however few descriptors there are."""
_ADMIN_SHARE = 8
_TCP_LISTENERS = 2  # public and mutual TLS


@dataclass(frozen=True, slots=True)
class Caps:
    """Connections at once: of the whole listener, and of one source."""

    total: int
    each: int


def fit_caps(limits: Limits, *, admin: bool, descriptors: int | None) -> Caps:
    """The configured limits, lowered to a listener's share of the process's `descriptors`.

    None means that there is no bound. Whatever is configured, one source leaves a quarter of the
    listener to others.
    """
    total = limits.connections
    if descriptors is not None:
        free = max(0, descriptors - DESCRIPTORS_KEPT)
        kept = max(ADMIN_KEPT, free // _ADMIN_SHARE)
        total = min(total, kept if admin else max(1, (free - kept) // _TCP_LISTENERS))
    return Caps(total, min(limits.connections_per_address, total - total // 4))


def count_descriptors() -> int | None:
    """How many file descriptors this process may have (``RLIMIT_NOFILE``); None: any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def name_source(connected: socket.socket) -> str:
    """Whom a connection counts for: an IPv4 address, an IPv6 /64, or a uid on a Unix socket.

    A whole /64 is one source, since it is the least that one subscriber gets (RFC 6177, section 2).
    Raises `OSError` when the peer has gone.
    """
    peer = read_peer(connected)
    if peer is not None:
        return f"uid:{peer.uid}"
    address = ipaddress.ip_address(connected.getpeername()[0])
    if isinstance(address, ipaddress.IPv6Address):
        return f"{ipaddress.IPv6Address(address.packed[:8] + bytes(8))}/64"
    return str(address)


class Capacity:
    """Counts the connections of one listener, from the moment they are accepted."""

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self.taken = 0
        self._by_source: dict[str, int] = {}

    def claim(self, source: str) -> Slot | None:
        """A place for one more connection from `source`; None when there is none left."""
        mine = self._by_source.get(source, 0)
        if self.taken >= self.caps.total or mine >= self.caps.each:
            return None
        self.taken += 1
        self._by_source[source] = mine + 1
        return Slot(self, source)

    def give_back(self, source: str) -> None:
        """Called by a slot, once."""
        self.taken -= 1
        left = self._by_source[source] - 1
        if left:
            self._by_source[source] = left
        else:
            del self._by_source[source]


@dataclass(slots=True)
class Slot:
    """One connection's place."""

    capacity: Capacity
    source: str
    released: bool = False

    def release(self) -> None:
        """Give the place back; again does nothing."""
        if not self.released:
            self.released = True
            self.capacity.give_back(self.source)
