"""Callers' HTTP/2 connections: credentials, bounds, and a task for each call.

HTTP/2 is grpclib's and h2's. What is added: the kernel's word on who connected, counting by uid,
patience with what real clients send (frames we don't know, header bytes beyond ASCII), and none
with floods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

import structlog
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
    StreamReset,
    UnknownFrameReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from troth.agent.call import Call, Handler, answer
from troth.agent.lanes import Lanes
from troth.agent.peer import PeerHandle, read_peer
from troth.agent.quota import Quota

WINDOW = 65_535
"""Bytes in flight for a stream and a connection: the protocol's default, and enough here."""
MAX_HEADER_FRAMES = 4
"""A request's headers come in at most so many frames, of 16 KiB each."""

_log = structlog.get_logger(__name__)

_COSTS: dict[type[Event], float] = {
    PingReceived: 1,
    PriorityUpdated: 1,
    RemoteSettingsChanged: 1,
    StreamReset: 1,
    UnknownFrameReceived: 1,
    # Honest callers send many of these, one for each message.
    DataReceived: 0.1,
    WindowUpdated: 0.1,
}
"""What a frame takes from the caller's allowance of control frames."""


class Switchboard:
    """What all connections of one socket share."""

    def __init__(self, handlers: Mapping[str, Handler], quota: Quota) -> None:
        self.handlers = handlers
        self.quota = quota
        self.lanes = Lanes(quota.limits.attestations, quota.limits.attestations_waiting)
        self.connections: set[CallerConnection] = set()
        self.empty = asyncio.Event()
        self.empty.set()
        self.stopping = False

    def connect(self) -> CallerConnection:
        """The protocol of a new connection, for the event loop."""
        return CallerConnection(self)

    def add(self, connection: CallerConnection) -> None:
        """A connection is there."""
        self.connections.add(connection)
        self.empty.clear()

    def remove(self, connection: CallerConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self.empty.set()


class CallerConnection(H2Protocol):
    """The protocol of one connection."""

    def __init__(self, switchboard: Switchboard) -> None:
        # Envoy sends header bytes beyond ASCII and a cluster name as authority; grpcio
        # percent-encodes the socket's path. None of it is used, so none of it is judged.
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
        self.calls = _Calls(switchboard)
        super().__init__(self.calls, windows.__for_server__(), config)
        self._switchboard = switchboard
        self._handle: PeerHandle | None = None
        self._counted = False
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn who connected and greet them, or send them away."""
        self._transport = cast(asyncio.Transport, transport)
        try:
            peer = read_peer(transport.get_extra_info("socket"))
        except OSError:
            self._transport.abort()
            return
        self._handle = PeerHandle(peer, self._switchboard.lanes)
        quota = self._switchboard.quota
        self._h2 = self._greet(quota.limits.streams)
        self.connection = Connection(self._h2, self._transport, config=self.config)
        self.processor = _Processor(self.calls, self.connection)
        self.calls.open(self._handle, self)
        self._switchboard.add(self)
        self._counted = not self._switchboard.stopping and quota.open_connection(self._uid)
        if not self._counted:
            _log.warning("connection.refused", uid=self._uid, reason="too many")
            self._hang_up("too many connections of this uid")
            return
        self.connection.flush()
        self.connection.initialize()
        self.note_calls(0)

    def data_received(self, data: bytes) -> None:
        """Feed HTTP/2 with bytes from the caller."""
        if not self._counted or self.connection.is_closing():
            return
        try:
            events = self.connection.feed(data)
        except ProtocolError as error:
            _log.debug("connection.broken", uid=self._uid, error=repr(error))
            self._flush()  # h2 has written the GOAWAY
            self.processor.close("protocol error")
            return
        except Exception as error:  # noqa: BLE001  # malformed frames that h2 failed to foresee
            _log.warning("connection.broken", uid=self._uid, error=repr(error))
            self.abort()
            return
        for event in events:
            self._charge(event)
            self.processor.process(event)
        if self._hoards():
            self._hang_up("frame too large", ErrorCodes.FRAME_SIZE_ERROR)
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
        if self._handle is None:
            return
        self._forget_idle()
        self.connection.write_ready.set()  # or whoever waits to write would wait for ever
        super().connection_lost(exc)
        self._switchboard.remove(self)
        if self._counted:
            self._switchboard.quota.close_connection(self._uid)
        self._handle.release()

    def note_calls(self, count: int) -> None:
        """So many calls are open now: without any the connection closes after a while."""
        self._forget_idle()
        if not count and self._counted and not self.connection.is_closing():
            seconds = self._switchboard.quota.limits.idle_seconds
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(seconds, self._hang_up, "idle", ErrorCodes.NO_ERROR)

    def disown(self) -> None:
        """The process isn't the one that connected: what comes now must connect by itself."""
        self._hang_up("the process has changed since it connected", ErrorCodes.NO_ERROR)

    def say_goodbye(self) -> None:
        """Tell the caller that the agent stops, and close once all is sent."""
        self._hang_up("the agent stops", ErrorCodes.NO_ERROR)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    @property
    def _uid(self) -> int:
        return self._handle.peer.uid if self._handle else -1

    def _greet(self, streams: int) -> H2Connection:
        connection = H2Connection(config=self.h2_config)
        connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: streams,
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
        cost = _COSTS.get(type(event), 0.0)
        if isinstance(event, DataReceived) and not event.data and not event.stream_ended:
            cost = 1.0
        if cost:
            self.punish(cost)

    def punish(self, cost: float) -> None:
        """Take `cost` from the caller's allowance; hang up if it has none left."""
        if self.connection.is_closing() or self._switchboard.quota.take_frame(self._uid, cost):
            return
        _log.warning("connection.flooded", uid=self._uid)
        self._hang_up("too many control frames")

    def _forget_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _flush(self) -> None:
        if not self.connection.is_closing():
            self.connection.flush()

    def _hang_up(self, why: str, code: ErrorCodes = ErrorCodes.ENHANCE_YOUR_CALM) -> None:
        """Send GOAWAY and close, which ends all calls."""
        if self.connection.is_closing():
            return
        self._h2.close_connection(code, additional_data=why.encode())
        self.connection.flush()
        self.processor.close(why)


class _Processor(EventsProcessor):
    """grpclib's dispatch, tolerant of what it doesn't know."""

    def process(self, event: Event) -> None:
        if isinstance(event, DataReceived) and not event.flow_controlled_length:
            return  # an empty frame is legal; grpclib's buffer would take it for the end
        if type(event) in getattr(self, "processors", ()):
            super().process(event)


class _Calls(AbstractHandler):
    """The calls of one connection, each in a task."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._tasks: dict[Stream, asyncio.Task[None]] = {}
        self._handle: PeerHandle | None = None
        self._connection: CallerConnection | None = None

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The calls that have not ended."""
        return set(self._tasks.values())

    def open(self, handle: PeerHandle, connection: CallerConnection) -> None:
        """Calls come from this peer, over this connection."""
        self._handle = handle
        self._connection = connection

    def accept(
        self,
        stream: Stream,
        headers: list[tuple[str, str]],
        release_stream: Callable[[], None],
    ) -> None:
        """Start answering a call, or say that it is one too many."""
        handle, connection = self._handle, self._connection
        if handle is None or connection is None:
            raise RuntimeError("a call came before its connection")
        quota, uid = self._switchboard.quota, handle.peer.uid
        call = Call(stream, dict(headers), handle, quota.limits)
        counted = not self._switchboard.stopping and quota.open_stream(uid)
        work = self._serve(call, connection) if counted else self._turn_away(call)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[stream] = task
        connection.note_calls(len(self._tasks))

        def forget(_: asyncio.Task[None]) -> None:
            # Not in the task itself: one that is cancelled before its first step never runs.
            self._tasks.pop(stream, None)
            release_stream()
            connection.note_calls(len(self._tasks))
            if counted:
                quota.close_stream(uid)

        task.add_done_callback(forget)
        if not counted:
            connection.punish(1.0)

    def cancel(self, stream: Stream) -> None:
        """The caller has reset the stream."""
        task = self._tasks.get(stream)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """The connection is gone."""
        for task in self.tasks:
            task.cancel()

    async def _serve(self, call: Call, connection: CallerConnection) -> None:
        try:
            await answer(call, self._switchboard.handlers.get(call.method))
            if call.disowned:
                connection.disown()
        except asyncio.CancelledError:
            if not self._switchboard.stopping:
                raise
            # Clients stop for good on CANCELLED and on a clean end; they come back on this one.
            await _finish(call, Status.UNAVAILABLE, "The agent stops; come back soon.")

    async def _turn_away(self, call: Call) -> None:
        if self._switchboard.stopping:
            await _finish(call, Status.UNAVAILABLE, "The agent stops; come back soon.")
        else:
            detail = "Too many streams or calls of this uid; close some, or slow down."
            await _finish(call, Status.RESOURCE_EXHAUSTED, detail)


async def _finish(call: Call, status: Status, detail: str) -> None:
    try:
        await call.finish(status, detail)
    except StreamClosedError:
        pass  # the caller was faster
