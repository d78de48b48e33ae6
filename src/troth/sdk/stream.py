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

from troth.core.errors import Internal, Invalid, TrothError, Unavailable, error_of
from troth.wire.api.nodes import StreamEnd
from troth.wire.api.problems import Unreachable
from troth.wire.api.routes import find_route, parse_failure, parse_result, render_request

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 15.0
"""Thrice the heartbeat; after as long without a byte a stream counts as dead."""

MAX_LINE = 64 << 20
"""Bytes: a complete value with 500,000 revoked certificates takes some 28 MiB."""

MAX_FAILURE = 64 << 10
MAX_ANSWER = 1 << 20
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


class ApiLine:
    """Calls of operations at one server, one after the other, on a connection that is kept."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self._url = url
        self._context = context
        self._turn = asyncio.Lock()
        self._connection: _Connection | None = None

    async def call(self, name: str, request: msgspec.Struct) -> Any:
        """What operation `name` answers; raises what it refuses with, and `Unreachable` where the
        server isn't there: it may have carried the call out then."""
        async with self._turn:
            kept = self._connection is not None
            try:
                return await self._call(name, request)
            except (OSError, TimeoutError, h11.ProtocolError) as error:
                self.close()
                if not kept:
                    raise Unreachable(
                        f"No server is reached at {self._url} ({_explain(error)})."
                    ) from error
            except BaseException as error:
                if not isinstance(error, TrothError):
                    self.close()
                raise
            try:  # a server may end a connection on which nothing happens, at any time
                return await self._call(name, request)
            except (OSError, TimeoutError, h11.ProtocolError) as error:
                self.close()
                raise Unreachable(
                    f"No server is reached at {self._url} ({_explain(error)})."
                ) from error

    async def _call(self, name: str, request: msgspec.Struct) -> Any:
        if self._connection is None:
            self._connection = await _Connection.open(self._url, self._context)
        connection = self._connection
        try:
            return await connection.call(name, request)
        finally:
            if not connection.reusable:
                self.close()

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


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

    @property
    def reusable(self) -> bool:
        """Whether another call can be made on it."""
        return self._http.our_state is h11.IDLE

    async def follow(self, name: str, request: msgspec.Struct) -> AsyncGenerator[Any, None]:
        """Send the request, yield what comes."""
        response = await self._ask(name, request)
        if response.status_code != 200:
            raise parse_failure(response.status_code, await self._read_body(MAX_FAILURE))
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

    async def call(self, name: str, request: msgspec.Struct) -> Any:
        """Call an operation and take its answer; then the next one can be called."""
        response = await self._ask(name, request)
        body = await self._read_body(MAX_ANSWER)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return parse_result(find_route(name), response.status_code, body)

    async def _ask(self, name: str, request: msgspec.Struct) -> h11.Response:
        """Send a request; the head of what is answered."""
        method, path, body = render_request(name, request)
        headers = [("host", self._host), ("accept-encoding", "identity")]
        if body is not None:
            headers += [("content-type", "application/json"), ("content-length", str(len(body)))]
        data = self._http.send(h11.Request(method=method, target=path, headers=headers)) or b""
        if body is not None:
            data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        self._writer.write(data)
        response = await self._next_event()
        if not isinstance(response, h11.Response):
            raise Internal("The server answered with something other than a response.")
        return response

    async def _read_body(self, most: int) -> bytes:
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > most:
                raise Internal("The server's answer is longer than it may be.")
        return bytes(body)

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
