"""Callers' HTTP/2 connections: who called, bounds, and a task for each call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

import structlog
from cryptography import x509
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.protocol import AbstractHandler, Connection, EventsProcessor, H2Protocol, Stream
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    RequestReceived,
    StreamReset,
    UnknownFrameReceived,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from troth.core.bucket import Bucket
from troth.core.clock import Clock
from troth.core.x509 import UNREADABLE
from troth.server.grpc.call import Handler, Peer, finish, serve
from troth.server.http.capacity import Slot

WINDOW = 1 << 20
"""Bytes in flight for a stream and a connection: many requests with their headers at once."""
STREAMS = 1_000
IDLE_SECONDS = 300.0
MAX_HEADER_FRAMES = 4
"""A request's headers come in at most so many frames, of 16 KiB each."""
FRAMES_BURST = 4_000
FRAMES_PER_SECOND = 1_000
"""What costs us more than the sender, a connection: rapid reset (CVE-2023-44487), its relatives."""

log = structlog.get_logger(__name__)

_COSTLY = (
    PingReceived,
    PriorityUpdated,
    RemoteSettingsChanged,
    StreamReset,
    UnknownFrameReceived,
)


@dataclass(slots=True)
class Shared:
    """What all connections of one listener share."""

    handlers: Mapping[str, Handler]
    clock: Clock
    stopping: bool = False
    connections: set[GrpcConnection] = field(default_factory=set)
    empty: asyncio.Event = field(default_factory=asyncio.Event)


class GrpcConnection(H2Protocol):
    """The protocol of one connection, which gives its `slot` back at its end."""

    def __init__(self, shared: Shared, slot: Slot) -> None:
        # Envoy sends a cluster's name as authority. None of it is used, so none of it is judged.
        config = H2Configuration(
            client_side=False,
            header_encoding="latin-1",
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        windows = Configuration(
            http2_connection_window_size=WINDOW, http2_stream_window_size=WINDOW
        )
        self.calls = _Calls(shared)
        super().__init__(self.calls, windows.__for_server__(), config)
        self._shared = shared
        self._slot = slot
        self._bucket = Bucket(FRAMES_BURST, FRAMES_PER_SECOND, shared.clock.monotonic())
        self._not_after: datetime | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected, and the TLS handshake is done."""
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        der = tls.getpeercert(True) if tls is not None else None
        if der is None or tls.selected_alpn_protocol() != "h2" or self._shared.stopping:
            self._transport.abort()
            return
        try:
            self._not_after = x509.load_der_x509_certificate(der).not_valid_after_utc
        except UNREADABLE:
            self._transport.abort()
            return
        host, port = (transport.get_extra_info("peername") or ("unknown", 0))[:2]
        source = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._h2 = self._greet()
        self.connection = Connection(self._h2, self._transport, config=self.config)
        self.processor = _Processor(self.calls, self.connection)
        self.calls.open(Peer(der, source), self)
        self._shared.connections.add(self)
        self._shared.empty.clear()
        self._open = True
        self.connection.flush()
        self.connection.initialize()
        self.note_calls(0)

    def data_received(self, data: bytes) -> None:
        """Feed HTTP/2 with bytes from the caller."""
        if not self._open or self.connection.is_closing():
            return
        try:
            events = self.connection.feed(data)
        except ProtocolError as error:
            log.debug("connection.broken", error=repr(error))
            self._flush()  # h2 has written the GOAWAY
            self.processor.close("protocol error")
            return
        except Exception as error:  # noqa: BLE001 - malformed frames that h2 failed to foresee
            log.warning("connection.broken", error=repr(error))
            self._transport.abort()
            return
        for event in events:
            if isinstance(event, RequestReceived) and self._is_over():
                # TLS looks at a certificate's end once; the connection outlives it.
                self.hang_up("the client certificate has expired", ErrorCodes.NO_ERROR)
                return
            self._charge(event)
            self.processor.process(event)
        if self._hoards():
            self.hang_up("frame too large", ErrorCodes.FRAME_SIZE_ERROR)
        self._flush()

    def pause_writing(self) -> None:
        """The caller doesn't read: don't read what would make us write even more."""
        super().pause_writing()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The caller reads again."""
        super().resume_writing()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End all calls and give back what was counted."""
        self._slot.release()
        if not self._open:
            return
        self._open = False
        self._forget_idle()
        self.connection.write_ready.set()  # or whoever waits to write would wait for ever
        super().connection_lost(exc)
        self._shared.connections.discard(self)
        if not self._shared.connections:
            self._shared.empty.set()

    def note_calls(self, count: int) -> None:
        """So many calls are open now: without any the connection closes after a while."""
        self._forget_idle()
        if not count and self._open and not self.connection.is_closing():
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(IDLE_SECONDS, self.hang_up, "idle", ErrorCodes.NO_ERROR)

    def hang_up(self, why: str, code: ErrorCodes = ErrorCodes.ENHANCE_YOUR_CALM) -> None:
        """Send GOAWAY and close, which ends all calls."""
        if self.connection.is_closing():
            return
        self._h2.close_connection(code, additional_data=why.encode())
        self.connection.flush()
        self.processor.close(why)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _is_over(self) -> bool:
        return self._not_after is None or self._shared.clock.now() >= self._not_after

    def _greet(self) -> H2Connection:
        connection = H2Connection(config=self.h2_config)
        connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: connection.DEFAULT_MAX_HEADER_LIST_SIZE,
            },
        )
        connection.initiate_connection()
        return connection

    def _hoards(self) -> bool:
        """Whether h2 waits for the rest of a frame or header block that it will refuse anyway.

        It looks at a frame's length only when all of it is there: up to 16 MiB a connection.
        """
        waiting = self._h2.incoming_buffer
        if len(waiting._headers_buffer) > MAX_HEADER_FRAMES:
            return True
        announced = int.from_bytes(waiting._data[:3], "big") if len(waiting._data) >= 3 else 0
        return announced > self._h2.max_inbound_frame_size

    def _charge(self, event: Event) -> None:
        empty = isinstance(event, DataReceived) and not event.data and not event.stream_ended
        if not (empty or isinstance(event, _COSTLY)):
            return
        if not self._bucket.take(1, self._shared.clock.monotonic()):
            log.warning("connection.flooded")
            self.hang_up("too many control frames")

    def _forget_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _flush(self) -> None:
        if not self.connection.is_closing():
            self.connection.flush()


class _Processor(EventsProcessor):
    """grpclib's dispatch, tolerant of what it doesn't know."""

    def process(self, event: Event) -> None:
        if isinstance(event, DataReceived) and not event.flow_controlled_length:
            return  # an empty frame is legal; grpclib's buffer would take it for the end
        if type(event) in getattr(self, "processors", ()):
            super().process(event)


class _Calls(AbstractHandler):
    """The calls of one connection, each in a task."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._tasks: dict[Stream, asyncio.Task[None]] = {}
        self._peer: Peer | None = None
        self._connection: GrpcConnection | None = None

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The calls that have not ended."""
        return set(self._tasks.values())

    def open(self, peer: Peer, connection: GrpcConnection) -> None:
        """Calls come from this peer, over this connection."""
        self._peer, self._connection = peer, connection

    def accept(
        self,
        stream: Stream,
        headers: list[tuple[str, str]],
        release_stream: Callable[[], None],
    ) -> None:
        """Start answering a call."""
        peer, connection = self._peer, self._connection
        if peer is None or connection is None:
            raise RuntimeError("a call came before its connection")
        work = serve(stream, dict(headers), peer, self._shared.handlers)
        if self._shared.stopping:
            work.close()
            work = _turn_away(stream)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[stream] = task
        connection.note_calls(len(self._tasks))

        def forget(_: asyncio.Task[None]) -> None:
            # Not in the task itself: one that is cancelled before its first step never runs.
            self._tasks.pop(stream, None)
            release_stream()
            connection.note_calls(len(self._tasks))

        task.add_done_callback(forget)

    def cancel(self, stream: Stream) -> None:
        """The caller has reset the stream."""
        task = self._tasks.get(stream)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """The connection is gone."""
        for task in self.tasks:
            task.cancel()


async def _turn_away(stream: Stream) -> None:
    try:
        await finish(stream, Status.UNAVAILABLE, "The server stops; come back soon.")
    except StreamClosedError:
        pass  # the caller was faster
