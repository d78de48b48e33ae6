"""One gRPC call over one HTTP/2 stream: framing, deadline, status; what a handler holds.

grpclib's own server side has no bound on messages, ends a cancelled call without a status and
answers what it doesn't expect with UNKNOWN; so only its HTTP/2 half is used, and this is the
other half. Source: "gRPC over HTTP2" and "Status codes and their use in gRPC" (grpc/grpc, doc/).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog
from grpclib.const import Status
from grpclib.metadata import decode_timeout, encode_grpc_message
from grpclib.protocol import Stream
from h2.exceptions import StreamClosedError

from troth.agent.peer import PeerHandle
from troth.agent.quota import Limits
from troth.agent.view import Caller, Source, Stale
from troth.core.errors import (
    Conflict,
    Denied,
    Internal,
    Invalid,
    Limited,
    NotFound,
    Refused,
    TooLarge,
    TrothError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

CONTENT_TYPE = "application/grpc"
CONTENT_TYPES = (CONTENT_TYPE, CONTENT_TYPE + "+proto")
MAX_DETAIL = 1_500
"""Bytes of a status message; a client refuses trailers of more than 8 KiB."""

STATUS: dict[type[TrothError], Status] = {
    Invalid: Status.INVALID_ARGUMENT,
    Unauthenticated: Status.UNAUTHENTICATED,
    Denied: Status.PERMISSION_DENIED,
    NotFound: Status.NOT_FOUND,
    Conflict: Status.ALREADY_EXISTS,
    Refused: Status.FAILED_PRECONDITION,
    TooLarge: Status.RESOURCE_EXHAUSTED,
    Limited: Status.RESOURCE_EXHAUSTED,
    Unavailable: Status.UNAVAILABLE,
    Stale: Status.UNAVAILABLE,
    Unimplemented: Status.UNIMPLEMENTED,
    Internal: Status.INTERNAL,
}

_log = structlog.get_logger(__name__)
_PREFIX = 5
_LONGEST_DEADLINE = 366 * 24 * 3600.0


class Call:
    """What a handler gets: who calls, what was asked, and how to answer."""

    def __init__(
        self, stream: Stream, headers: Mapping[str, str], handle: PeerHandle, limits: Limits
    ) -> None:
        self.method = headers.get(":path", "")
        self._stream = stream
        self._headers = headers
        self._handle = handle
        self._limits = limits
        self.disowned = False
        self.on_answer: Callable[[], None] | None = None
        """Called once, when the first message has been sent."""
        self._answered = False
        self._finished = False

    @property
    def uid(self) -> int:
        """Whose process calls."""
        return self._handle.peer.uid

    def header(self, name: str) -> str | None:
        """The request's metadata `name`, in lower case."""
        return self._headers.get(name)

    async def attest(self, source: Source) -> Caller:
        """Who calls, according to `source`; waits for its uid's turn."""
        await source.wait_until_ready()
        return await self._handle.run(source.attest)

    async def receive(self) -> bytes | None:
        """The next message, or None when the caller has no more.

        Only one task may receive: a read that is cancelled halfway loses its place. Raises
        `TooLarge`, `Unimplemented` for a compressed message, `Invalid` for broken framing.
        """
        prefix = await self._read(_PREFIX)
        if not prefix:
            return None
        if prefix[0] == 1:
            raise Unimplemented("Compressed messages aren't supported; send them with 'identity'.")
        if prefix[0]:
            raise Invalid("The message's first byte must be 0 (gRPC over HTTP2, compressed flag).")
        size = int.from_bytes(prefix[1:], "big")
        if size > self._limits.message_bytes:
            raise TooLarge(
                f"The message has {size} bytes; at most {self._limits.message_bytes} are accepted."
            )
        if not size:
            return b""
        body = await self._read(size)
        if not body:
            raise Invalid("The message ends before its announced length.")
        return body

    async def receive_first(self) -> bytes:
        """The first message, which must come soon; raises `Invalid` if there is none."""
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                message = await self.receive()
        except TimeoutError:
            raise Unavailable(
                f"No request message came within {self._limits.request_seconds:g} seconds."
            ) from None
        if message is None:
            raise Invalid("The call ended without a request message.")
        return message

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the caller doesn't read."""
        if not self._stream.closable:
            raise StreamClosedError(self._stream.id or 0)
        if not self._answered:
            self._answered = True
            await self._stream.send_headers([(":status", "200"), ("content-type", CONTENT_TYPE)])
        await self._stream.send_data(b"\0" + len(message).to_bytes(4, "big") + message)
        if self.on_answer is not None:
            called, self.on_answer = self.on_answer, None
            called()

    async def finish(self, status: Status, detail: str = "") -> None:
        """End the call with `status`. Does nothing if it has ended."""
        if self._finished:
            return
        self._finished = True
        headers = [] if self._answered else [(":status", "200"), ("content-type", CONTENT_TYPE)]
        headers.append(("grpc-status", str(status.value)))
        if detail:
            headers.append(("grpc-message", encode_grpc_message(detail[:MAX_DETAIL])))
        if status is Status.UNIMPLEMENTED:
            headers.append(("grpc-accept-encoding", "identity"))
        await self._end(headers)

    async def refuse(self, http_status: int) -> None:
        """End what isn't a gRPC call at all."""
        self._finished = True
        await self._end([(":status", str(http_status))])

    async def _end(self, headers: list[tuple[str, str]]) -> None:
        if not self._stream.closable:
            return
        await self._stream.send_headers(headers, end_stream=True)
        if self._stream.closable:
            # The caller hasn't ended its side: NO_ERROR asks it to stop (RFC 9113, section 8.1).
            self._stream.reset_nowait()

    async def _read(self, size: int) -> bytes:
        try:
            return await self._stream.recv_data(size)
        except AssertionError:
            # That is how grpclib says that the stream ended in the middle.
            raise Invalid("The message ends before its announced length.") from None


Handler = Callable[[Call], Awaitable[None]]


class Service(Protocol):
    """Something that answers calls on the socket."""

    def methods(self) -> Mapping[str, Handler]:
        """Handlers by path, ``/package.Service/Method``."""
        ...


async def answer(call: Call, handler: Handler | None) -> None:
    """Run `handler` and end the call with the status of what happened. Never raises an error."""
    try:
        await _answer(call, handler)
    except StreamClosedError:
        pass  # the caller went away while we answered


async def _answer(call: Call, handler: Handler | None) -> None:
    if call.header(":method") != "POST":
        await call.refuse(405)
    elif (call.header("content-type") or "").split(";")[0] not in CONTENT_TYPES:
        await call.refuse(415)
    elif handler is None:
        await call.finish(Status.UNIMPLEMENTED, "There is no such method here.")
    else:
        await _run(call, handler)


async def _run(call: Call, handler: Handler) -> None:
    timeout = asyncio.timeout(None)
    try:
        async with timeout:
            seconds = _read_timeout(call)
            if seconds is not None:
                timeout.reschedule(asyncio.get_running_loop().time() + seconds)
            await handler(call)
        await call.finish(Status.OK)
    except TrothError as error:
        call.disowned = isinstance(error, Stale)
        await call.finish(STATUS.get(type(error), Status.INTERNAL), error.detail)
    except StreamClosedError:
        raise
    except Exception as error:  # noqa: BLE001  # the edge: a status for the caller, the story for the log
        if isinstance(error, TimeoutError) and timeout.expired():
            await call.finish(Status.DEADLINE_EXCEEDED, "The call's deadline has passed.")
            return
        _log.exception("call.failed", method=call.method, uid=call.uid)
        await call.finish(Status.INTERNAL, "The agent failed; its log has the reason.")


def _read_timeout(call: Call) -> float | None:
    """Seconds until the caller gives up (``grpc-timeout``), bounded; None if it didn't say."""
    given = call.header("grpc-timeout")
    if given is None:
        return None
    try:
        seconds = decode_timeout(given)
    except ValueError:
        raise Invalid("grpc-timeout must be digits and one of the letters H M S m u n.") from None
    return min(seconds, _LONGEST_DEADLINE)
