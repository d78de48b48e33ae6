"""uvicorn's HTTP/1.1 protocol with what an identity server needs beside it.

It tells the app who connected (client certificate, or uid on a Unix socket), bounds the size and
the time of headers, and answers malformed requests with a problem document. WebSockets are off.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from email.utils import format_datetime
from typing import Any, cast

import structlog
from cryptography import x509
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from troth.core.clock import Clock
from troth.server.http.capacity import Slot
from troth.server.http.exchange import Connection, attach_connection, mark_arrived, read_peer
from troth.server.http.problems import render_problem
from troth.server.settings import Limits
from troth.wire.api.problems import MEDIA_TYPE

log = structlog.get_logger(__name__)

MAX_HEADERS = 100
DRAIN_SECONDS = 5.0
"""How long a client may go on sending a body that was answered without being read."""
MAX_PIPELINE = 16
_FRAMING_SLACK = 512 * 1024
_FRAMING_SHARE = 16
_HEAD_TOO_LARGE = ("too_large", "The request line and headers are too large.", 431)


class _Refusal(Exception):
    """What a parser callback refuses: code, detail and status of the answer."""


@dataclass(slots=True)
class ListenerState:
    """What all connections of one listener share; stands in for uvicorn's `ServerState`."""

    clock: Clock
    limits: Limits
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    emptied: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[Any] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    total_requests: int = 0
    _date: tuple[int, list[tuple[bytes, bytes]]] = (-1, [])

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The Date header (RFC 9110, section 6.6.1), made once a second."""
        now = self.clock.now()
        second = int(now.timestamp())
        if second != self._date[0]:
            self._date = (second, [(b"date", format_datetime(now, usegmt=True).encode())])
        return self._date[1]


class _Log:
    """What uvicorn logs to. Whoever connects can cause its warnings, so they are no news."""

    level = logging.WARNING

    def warning(self, message: str, *args: object) -> None:
        log.debug("http.refused", reason=message % args if args else message)

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        log.error(
            "http.broken", reason=(message % args if args else message).strip(), exc_info=exc_info
        )


class Outlet:
    """The way out for answers: the head of one waits for the first of its body, so that both are
    one TLS record and one packet; no longer than until the event loop has had a turn."""

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any) -> None:
        self._loop = loop
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        """Pass on, but keep the head of an answer for a moment."""
        if self._head is not None:
            data, self._head = self._head + data, None
            self._transport.write(data)
        elif data.startswith(b"HTTP/"):
            self._head = data
            self._loop.call_soon(self._flush)  # a stream may have nothing to say for long
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close once all is written."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether nothing more goes out."""
        closing: bool = self._transport.is_closing()
        return closing

    def _flush(self) -> None:
        head, self._head = self._head, None
        if head is not None and not self._transport.is_closing():
            self._transport.write(head)


class PeerProtocol(HttpToolsProtocol):
    """One connection, which gives its `slot` back at its end."""

    def __init__(self, config: Config, state: ListenerState, slot: Slot) -> None:
        super().__init__(config, cast(ServerState, state), {})
        self.logger = cast(logging.Logger, _Log())
        self.state = state
        self._slot = slot
        self.peer_connection: Connection | None = None
        self._in_head = True
        self._head_size = 0
        self._framing = 0
        self._refusal = ("invalid_request", "This is not a well-formed HTTP/1.1 request.", 400)
        self._head_timer: asyncio.TimerHandle | None = None
        self._drain_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected, and the TLS handshake is done."""
        super().connection_made(transport)
        self._outlet = Outlet(self.loop, transport)
        if self.state.stopping.is_set():
            transport.abort()
            return
        try:
            self.peer_connection = _describe_connection(transport, self.client, self.state)
        except (OSError, ValueError, x509.InvalidVersion):
            # Gone before we could ask who it was, or a certificate that only OpenSSL can read.
            transport.abort()
            return
        self._arm_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        self._slot.release()
        self._stop_timers()
        if not self.state.connections:
            self.state.emptied.set()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or of several."""
        if self._in_head:
            self._head_size += len(data)
            self._arm_head_timer()
        else:
            self._framing += len(data)
        super().data_received(data)
        if self._in_head and self._head_size > self.state.limits.header_bytes:
            self._refuse(*_HEAD_TOO_LARGE)
        elif self._framing > _FRAMING_SLACK:
            # Chunk extensions or trailers without end: the app sees no byte of them.
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Called by the parser at the first byte of a request."""
        super().on_message_begin()
        if self.peer_connection is not None:
            attach_connection(self.scope, self.peer_connection)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser for each header, and for trailers, which nobody here reads."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser; starts the app."""
        self._in_head = False
        self._head_size = self._framing = 0
        self._stop_head_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.state.limits.header_bytes or len(self.headers) > MAX_HEADERS:
            self._refusal = _HEAD_TOO_LARGE
            raise _Refusal
        if len(self.pipeline) >= MAX_PIPELINE:
            raise _Refusal
        super().on_headers_complete()
        if self.scope["method"] != "HEAD":  # whose answers have no body to wait for
            self.cycle.transport = cast(asyncio.Transport, self._outlet)
        if self.parser.should_upgrade():
            # We offer no other protocol (RFC 9110, section 7.8), and the parser stops here.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Called by the parser for each piece of a body."""
        self._framing -= len(body) * (1 + _FRAMING_SHARE)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser at the end of a body."""
        super().on_message_complete()
        mark_arrived(self.scope)
        self._in_head = True
        self._stop_drain_timer()

    def on_response_complete(self) -> None:
        """The app has answered; what it left of the body is dropped, for a short time."""
        super().on_response_complete()
        unread = self.cycle.response_complete and not self._in_head
        if unread and self._drain_timer is None and not self.transport.is_closing():
            self._drain_timer = self.loop.call_later(DRAIN_SECONDS, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what isn't HTTP, as a problem document."""
        self._refuse(*self._refusal)

    def _refuse(self, code: str, detail: str, status: int) -> None:
        if self.transport.is_closing():
            return
        if self._is_answering():
            if self._in_head or self.pipeline or self.cycle.response_started:
                # An answer to another request is due: bytes of this one must not get into it.
                self.transport.close()
                return
            # The body of the request that waits for its answer is malformed: this is the answer.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        _, body = render_problem(code, detail, "", status)
        lines = [
            STATUS_LINE[status],
            b"".join(b"%s: %s\r\n" % header for header in self.state.default_headers),
            b"content-type: %s\r\n" % MEDIA_TYPE.encode(),
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body),
        ]
        self.transport.write(b"".join(lines) + body)
        self.transport.close()

    def _arm_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(
                self.state.limits.header_seconds, self._close_silent
            )

    def _close_silent(self) -> None:
        self._head_timer = None
        if not self._is_answering():
            self.transport.abort()

    def _is_answering(self) -> bool:
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's type says
        return cycle is not None and not cycle.response_complete

    def _stop_timers(self) -> None:
        self._stop_head_timer()
        self._stop_drain_timer()
        self._unset_keepalive_if_required()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_drain_timer(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None


def _describe_connection(
    transport: asyncio.Transport, client: tuple[str, int] | None, state: ListenerState
) -> Connection:
    tls = transport.get_extra_info("ssl_object")
    certificate: bytes | None = tls.getpeercert(True) if tls is not None else None
    not_after = None
    if certificate is not None:
        not_after = x509.load_der_x509_certificate(certificate).not_valid_after_utc
    peer = read_peer(transport.get_extra_info("socket"))
    if peer is not None:
        source = f"uid:{peer.uid}/pid:{peer.pid}"
    else:
        host, port = client or ("unknown", 0)
        source = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Connection(
        source=source,
        peer=peer,
        certificate=certificate,
        not_after=not_after,
        stopping=state.stopping,
        abort=transport.abort,
    )
