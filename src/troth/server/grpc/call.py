"""One unary gRPC call over one HTTP/2 stream: framing, deadline, status.

Source: "gRPC over HTTP2" and "Status codes and their use in gRPC" (grpc/grpc, doc/).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
from grpclib.const import Status
from grpclib.metadata import decode_timeout, encode_grpc_message
from grpclib.protocol import Stream
from h2.exceptions import StreamClosedError

from troth.core.errors import Invalid, TooLarge, TrothError, Unimplemented

MAX_MESSAGE = 256 * 1024
"""Bytes: a request's headers, 60 KiB in Envoy, and a chain of certificates besides."""
MAX_DETAIL = 1_500
LONGEST = 10.0
"""Seconds for a call, whatever its caller would wait."""
_TYPES = ("application/grpc", "application/grpc+proto")
_PREFIX = 5

STATUS: Mapping[str, Status] = {
    "invalid_request": Status.INVALID_ARGUMENT,
    "unauthenticated": Status.UNAUTHENTICATED,
    "permission_denied": Status.PERMISSION_DENIED,
    "not_found": Status.NOT_FOUND,
    "conflict": Status.ALREADY_EXISTS,
    "failed_precondition": Status.FAILED_PRECONDITION,
    "too_large": Status.RESOURCE_EXHAUSTED,
    "rate_limited": Status.RESOURCE_EXHAUSTED,
    "unavailable": Status.UNAVAILABLE,
    "unimplemented": Status.UNIMPLEMENTED,
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who called: the client's certificate (DER), as TLS verified it, and the address."""

    certificate: bytes
    source: str


Handler = Callable[[Peer, bytes], Awaitable[bytes]]
"""From a request message to the answer's; raises a kind of `TrothError`."""


async def serve(
    stream: Stream, headers: Mapping[str, str], peer: Peer, handlers: Mapping[str, Handler]
) -> None:
    """Answer one call. Never raises an error."""
    try:
        await _serve(stream, headers, peer, handlers)
    except StreamClosedError:
        pass  # the caller went away while we answered


async def _serve(
    stream: Stream, headers: Mapping[str, str], peer: Peer, handlers: Mapping[str, Handler]
) -> None:
    if headers.get(":method") != "POST":
        await _end(stream, [(":status", "405")])
        return
    if headers.get("content-type", "").split(";")[0] not in _TYPES:
        await _end(stream, [(":status", "415")])
        return
    handler = handlers.get(headers.get(":path", ""))
    if handler is None:
        await finish(stream, Status.UNIMPLEMENTED, "There is no such method here.")
        return
    try:
        async with asyncio.timeout(_find_seconds(headers)):
            answer = await handler(peer, await _receive(stream))
    except TimeoutError:
        await finish(stream, Status.DEADLINE_EXCEEDED, "The call's deadline has passed.")
    except StreamClosedError:
        raise
    except TrothError as error:
        await finish(stream, STATUS.get(error.code, Status.INTERNAL), error.detail)
    except Exception:
        log.exception("call.failed", method=headers.get(":path"), source=peer.source)
        await finish(stream, Status.INTERNAL, "The server failed; its log has the reason.")
    else:
        await _answer(stream, answer)


def _find_seconds(headers: Mapping[str, str]) -> float:
    given = headers.get("grpc-timeout")
    if given is None:
        return LONGEST
    try:
        return min(decode_timeout(given), LONGEST)
    except ValueError:
        raise Invalid("grpc-timeout must be digits and one of the letters H M S m u n.") from None


async def _receive(stream: Stream) -> bytes:
    """The request's one message."""
    prefix = await _read(stream, _PREFIX)
    if not prefix:
        raise Invalid("The call ended without a request message.")
    if prefix[0]:
        raise Unimplemented("Compressed messages aren't supported; send them with 'identity'.")
    size = int.from_bytes(prefix[1:], "big")
    if size > MAX_MESSAGE:
        raise TooLarge(f"The message has {size} bytes; at most {MAX_MESSAGE} are accepted.")
    body = await _read(stream, size) if size else b""
    if len(body) != size:
        raise Invalid("The message ends before its announced length.")
    return body


async def _read(stream: Stream, size: int) -> bytes:
    try:
        return await stream.recv_data(size)
    except AssertionError:
        # That is how grpclib says that the stream ended in the middle.
        raise Invalid("The message ends before its announced length.") from None


async def _answer(stream: Stream, message: bytes) -> None:
    if not stream.closable:
        return
    await stream.send_headers([(":status", "200"), ("content-type", "application/grpc")])
    await stream.send_data(b"\0" + len(message).to_bytes(4, "big") + message)
    await _end(stream, [("grpc-status", "0")])


async def finish(stream: Stream, status: Status, detail: str) -> None:
    """End a call that has no answer with `status`."""
    headers = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", str(status.value)),
        ("grpc-message", encode_grpc_message(detail[:MAX_DETAIL])),
    ]
    await _end(stream, headers)


async def _end(stream: Stream, headers: list[tuple[str, str]]) -> None:
    if not stream.closable:
        return
    await stream.send_headers(headers, end_stream=True)
    if stream.closable:
        # The caller hasn't ended its side: NO_ERROR asks it to stop (RFC 9113, section 8.1).
        stream.reset_nowait()
