"""One subscription of a troth server over mutual TLS, as an async iterator of its lines.

HTTP/1.1 by h11, so that a service that imports this imports no HTTP client of ours with it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import h11
import msgspec

from troth.core.errors import Internal, Invalid, Unavailable, error_of
from troth.wire.api.nodes import StreamEnd
from troth.wire.api.problems import Unreachable
from troth.wire.api.routes import find_route, parse_failure, render_request

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 15.0
"""Thrice the heartbeat; after as long without a byte a stream counts as dead."""

MAX_LINE = 64 << 20
"""Bytes: a complete value with 500,000 revoked certificates takes some 28 MiB."""

MAX_FAILURE = 64 << 10
CHUNK = 64 << 10


def check_url(url: str) -> str:
    """`url` without a slash at its end; raises `Invalid` unless it is ``https://host:port``."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme == "https" and bool(parts.hostname) and bool(parts.port)
    except ValueError:
        sound = False
    else:
        sound = sound and not (parts.path.strip("/") or parts.query or parts.fragment)
    if not sound or "@" in url:
        raise Invalid(
            f"{url[:200]!r} is not the URL of a server's mutual-TLS listener; it looks like "
            "https://host:8444."
        )
    return url.rstrip("/")


async def follow(
    url: str, context: ssl.SSLContext, name: str, request: msgspec.Struct
) -> AsyncGenerator[Any, None]:
    """The values of subscription `name` at `url`, until it ends, which always raises.

    Raises `Unreachable` if nobody answers or the connection breaks, and otherwise what the server
    says.
    """
    try:
        connection = await _Connection.open(url, context)
    except (OSError, TimeoutError) as error:
        raise Unreachable(f"No server is reached at {url} ({_explain(error)}).") from error
    try:
        async for value in connection.follow(name, request):
            yield value
    except (OSError, TimeoutError, h11.ProtocolError) as error:
        raise Unreachable(f"The stream from {url} broke ({_explain(error)}).") from error
    finally:
        connection.close()
    raise Unavailable(f"The server at {url} ended the stream without saying why.")


class _Connection:
    """One connection with one request on it."""

    def __init__(
        self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._host = urlsplit(url).netloc
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    @classmethod
    async def open(cls, url: str, context: ssl.SSLContext) -> _Connection:
        """Connect; raises OSError or TimeoutError."""
        parts = urlsplit(url)
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(
                parts.hostname, parts.port, ssl=context, limit=CHUNK
            )
        return cls(url, reader, writer)

    def close(self) -> None:
        """Close it; nothing more is awaited from the other side."""
        with suppress(OSError):
            self._writer.transport.abort()

    async def follow(self, name: str, request: msgspec.Struct) -> AsyncGenerator[Any, None]:
        """Send the request, yield what comes."""
        method, path, _ = render_request(name, request)
        headers = [("host", self._host), ("accept-encoding", "identity")]
        data = self._http.send(h11.Request(method=method, target=path, headers=headers)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        self._writer.write(data)
        response = await self._next_event()
        if not isinstance(response, h11.Response):
            raise Internal("The server answered with something other than a response.")
        if response.status_code != 200:
            raise parse_failure(response.status_code, await self._read_failure())
        decoder = msgspec.json.Decoder(find_route(name).result)
        pending = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            searched = len(pending)
            pending += event.data
            while (end := pending.find(b"\n", searched)) >= 0:
                line = bytes(pending[:end])
                del pending[: end + 1]
                searched = 0
                yield _parse_line(decoder, line)
            if len(pending) > MAX_LINE:
                raise Internal(f"A line of the server's stream is longer than {MAX_LINE} bytes.")

    async def _read_failure(self) -> bytes:
        body = b""
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > MAX_FAILURE:
                raise Internal("The server's refusal is longer than it may be.")
        return body

    async def _next_event(self) -> Any:
        async with asyncio.timeout(SILENCE_SECONDS):
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(CHUNK))
        return event


def _parse_line(decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
    try:
        value = decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Internal(
            "A line of the server's stream was not understood: is it a newer version?"
        ) from error
    if isinstance(value, StreamEnd):
        raise error_of(value.code, value.detail)
    return value


def _explain(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate isn't trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "it took too long"
    return str(error) or type(error).__name__
