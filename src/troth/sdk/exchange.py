"""One HTTPS request and its answer, bounded in time and size: what a token source needs of HTTP.

HTTP/1.1 by h11 on a connection of its own, no redirects, no proxies, nothing but TLS: a service
that imports this imports no HTTP client with it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

from troth.core.errors import Invalid
from troth.wire.api.problems import Unreachable

ANSWER_SECONDS = 10.0
"""For all of it: connecting, asking, and reading the answer to its end."""

MAX_ANSWER = 256 << 10
CHUNK = 64 << 10


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent. The body may hold a credential, so it is never shown."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


Send = Callable[[Request, ssl.SSLContext], Answer]


def send(request: Request, context: ssl.SSLContext) -> Answer:
    """Send it and wait for the answer; in a thread without an event loop. Raises `Unreachable`."""
    return asyncio.run(exchange(request, context))


async def exchange(request: Request, context: ssl.SSLContext) -> Answer:
    """As `send`, for those that have an event loop."""
    check_https(request.url)
    place = urlsplit(request.url)
    where = f"{place.scheme}://{place.netloc}"
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(
                place.hostname, place.port or 443, ssl=context, limit=CHUNK
            )
            try:
                return await _converse(request, reader, writer)
            finally:
                with suppress(OSError):
                    writer.transport.abort()
    except (OSError, TimeoutError, h11.ProtocolError) as error:
        raise Unreachable(f"{where} can't be reached ({explain(error)}).") from error


def check_https(url: str) -> str:
    """`url`; raises `Invalid` unless it is an https URL without user, password or fragment."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    else:
        sound = sound and "@" not in parts.netloc and not parts.fragment
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        raise Invalid(f"{url[:200]!r} is not an https URL.")
    return url


def explain(error: BaseException) -> str:
    """Why nothing came back, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate isn't trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "it took too long"
    return str(error) or type(error).__name__


async def _converse(
    request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Answer:
    http = h11.Connection(h11.CLIENT)
    place = urlsplit(request.url)
    target = (place.path or "/") + (f"?{place.query}" if place.query else "")
    headers = [
        ("host", place.netloc),
        ("accept", "application/json"),
        ("accept-encoding", "identity"),
        ("connection", "close"),
        ("content-length", str(len(request.body))),
        *request.headers.items(),
    ]
    events: list[h11.Event] = [
        h11.Request(method=request.method, target=target, headers=headers),
        *([h11.Data(data=request.body)] if request.body else []),
        h11.EndOfMessage(),
    ]
    writer.write(b"".join(http.send(event) or b"" for event in events))
    await writer.drain()
    head: h11.Response | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(CHUNK))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_ANSWER:
                raise Unreachable(f"The answer of {place.netloc} is longer than it may be.")
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            break
    if head is None:
        raise Unreachable(f"{place.netloc} closed the connection without an answer.")
    found = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    return Answer(head.status_code, found, bytes(body))
