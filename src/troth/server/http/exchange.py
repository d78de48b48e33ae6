"""What one HTTP exchange knows beside its ASGI scope: who connected, and when to stop.

Listeners put a `Connection` into each scope and the edge of the app a request id; everything else
reads them here, so no other module knows where they are kept.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from troth.core.errors import Unauthenticated
from troth.core.tracing import NO_SPAN, Span

_CONNECTION = "troth.connection"
_ARRIVED = "troth.arrived"
_REQUEST_ID = "troth.request_id"
_SPAN = "troth.span"
_UCRED = struct.Struct("iII")  # pid, uid, gid: struct ucred of unix(7)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a Unix socket, as the kernel says (``SO_PEERCRED``)."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Connection:
    """What is known about a connection, the same for all requests on it.

    `certificate` is the client's certificate in DER, which TLS led to an anchor of the listener,
    perhaps to itself (so that it proves no identity yet), and `not_after` its end. `stopping` is
    set when the listener stops; `abort` closes at once, without waiting for what the peer doesn't
    read.
    """

    source: str
    peer: Peer | None
    certificate: bytes | None
    not_after: datetime | None
    stopping: asyncio.Event
    abort: Callable[[], None]


def read_peer(connected: Any) -> Peer | None:
    """Who connected to a Unix socket; None for another kind. `OSError` when the peer has gone."""
    if connected is None or connected.family != socket.AF_UNIX:
        return None
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(raw))


def attach_connection(scope: Any, connection: Connection) -> None:
    """Make `connection` known to the app."""
    extensions = scope.setdefault("extensions", {})
    extensions[_CONNECTION] = connection
    if connection.certificate is not None:
        extensions["tls"] = {"client_certificate": connection.certificate}
    if connection.peer is not None:
        extensions["peer"] = connection.peer


def mark_arrived(scope: Any) -> None:
    """Note that all of the request's body is there."""
    scope.setdefault("extensions", {})[_ARRIVED] = True


def has_arrived(scope: Any) -> bool:
    """Whether all of the request's body is there: to read it waits for nothing."""
    return _ARRIVED in scope.get("extensions", {})


def connection_of(scope: Any) -> Connection | None:
    """The connection of a scope; None when a test calls the app without a listener."""
    found: Connection | None = scope.get("extensions", {}).get(_CONNECTION)
    return found


def attach_request_id(scope: Any, request_id: str) -> None:
    """Give the exchange its id."""
    scope.setdefault("state", {})[_REQUEST_ID] = request_id


def request_id_of(scope: Any) -> str:
    """The id of the exchange, or "" before it has one."""
    return str(scope.get("state", {}).get(_REQUEST_ID, ""))


def attach_span(scope: Any, span: Span) -> None:
    """Give the exchange the span that it is."""
    scope.setdefault("state", {})[_SPAN] = span


def span_of(scope: Any) -> Span:
    """The span of the exchange; one that records nothing where there is none."""
    found: Span = scope.get("state", {}).get(_SPAN, NO_SPAN)
    return found


def check_certificate(scope: Any, now: datetime) -> None:
    """Raise `Unauthenticated` once the client's certificate has expired.

    TLS looks at a certificate's end once; a kept-alive connection outlives it.
    """
    connection = connection_of(scope)
    if connection is None or connection.not_after is None:
        return
    if now >= connection.not_after:
        raise Unauthenticated(
            "The client certificate of this connection has expired: connect again with a new one."
        )
