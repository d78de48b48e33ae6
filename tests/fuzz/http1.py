"""HTTP/1 bytes against living listeners: the admin socket, where no handshake filters anything,
and the public one, where anybody may speak after it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from tests.fuzz.harness import fuzz
from tests.fuzz.mutations import mutated
from tests.unit.server.http.stage import Stage, open_stage
from troth.server.settings import Limits
from troth.wire.api.routes import find_route

_QUIET = 0.02
"""Seconds without an answer after which the request counts as incomplete, and we hang up."""

_HOST = b"Host: x\r\n"
_JSON = b"content-type: application/json\r\n"
_SUSPEND = b"POST /v1/identities/a/suspend HTTP/1.1\r\n" + _HOST + _JSON
_BODY = b'{"reason":"x"}'
REQUESTS = (
    b"GET /v1/status HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET /v1/identities?limit=3&after=%C3%A9 HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET /v1/identities/a%2Fb HTTP/1.0\r\n\r\n",
    _SUSPEND + b"content-length: 14\r\n\r\n" + _BODY,
    _SUSPEND + b"transfer-encoding: chunked\r\n\r\ne\r\n" + _BODY + b"\r\n0\r\na: b\r\n\r\n",
    _SUSPEND + b"expect: 100-continue\r\ncontent-length: 14\r\n\r\n" + _BODY,
    b"GET /healthz HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n" + _HOST + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + _HOST + b"\r\nHEAD /readyz HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)
_ANSWER = re.compile(rb"HTTP/1\.1 [1-5][0-9][0-9] [A-Za-z -]+\r\n")


@contextmanager
def open_server() -> Iterator[tuple[asyncio.Runner, Stage]]:
    limits = Limits(stop_seconds=1, body_seconds=1, header_seconds=2)
    with TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        opening = open_stage(Path(folder), limits=limits)
        stage = loop.run(opening.__aenter__())
        try:
            yield loop, stage
        finally:
            loop.run(opening.__aexit__(None, None, None))


Open = Callable[[Stage], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def _open_admin(stage: Stage) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(str(stage.socket))


async def _open_public(stage: Stage) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("localhost", stage.public.port, ssl=stage.context())


@fuzz(mutated(*REQUESTS), examples=40, stage=open_server)
def fuzz_http1(data: bytes, server: tuple[asyncio.Runner, Stage]) -> None:
    _check(data, *server, _open_admin)


_FETCH = (
    b"GET /bundle HTTP/1.1\r\n" + _HOST + b'if-none-match: "x", W/"y"\r\n\r\n',
    b"HEAD /crl/aut_1 HTTP/1.1\r\n" + _HOST + b"range: bytes=0-1\r\n\r\n",
    b"GET /svid/.well-known/openid-configuration HTTP/1.0\r\n\r\n",
    b"POST /v1/nodes/attest HTTP/1.1\r\n"
    + _HOST
    + _JSON
    + b"traceparent: 00-"
    + b"0f" * 16
    + b"-"
    + b"1e" * 8
    + b"-01\r\ncontent-length: 55\r\n\r\n"
    + b'{"method":"join_token","evidence":"jtk_x","csr":"AAEC"}',
)


@fuzz(mutated(*_FETCH, *REQUESTS), examples=40, stage=open_server)
def fuzz_public_http1(data: bytes, server: tuple[asyncio.Runner, Stage]) -> None:
    _check(data, *server, _open_public)


def _check(data: bytes, loop: asyncio.Runner, stage: Stage, connect: Open) -> None:
    stage.operations.calls.clear()
    answer = loop.run(_talk(stage, data, connect))
    assert not answer or _ANSWER.match(answer), answer
    assert b"HTTP/1.1 500" not in answer, answer
    assert b"Traceback" not in answer
    for call in stage.operations.calls:
        assert call.body is None or type(call.body) in {find_route(n).request for n in _NAMES}
    assert loop.run(_talk(stage, _PROBE, connect, 8.0)).startswith(b"HTTP/1.1 200")


_NAMES = (
    "status.show",
    "identity.ls",
    "identity.show",
    "identity.suspend",
    "journal.ls",
    "node.attest",
)


_PROBE = b"GET /bundle HTTP/1.1\r\nconnection: close\r\n" + _HOST + b"\r\n"


async def _talk(stage: Stage, data: bytes, connect: Open, quiet: float = _QUIET) -> bytes:
    """Everything that comes back until the server hangs up, or we do."""
    async with asyncio.timeout(10):
        reader, writer = await connect(stage)
        try:
            writer.write(data)
            return await _read(reader, writer, quiet)
        except ConnectionError:
            return b""
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, quiet: float) -> bytes:
    answer = b""
    while True:
        try:
            piece = await asyncio.wait_for(reader.read(65_536), quiet)
        except TimeoutError:
            break
        answer += piece
        if not piece:
            return answer
    if not writer.can_write_eof():  # TLS has no half of a connection
        return answer
    writer.write_eof()
    return answer + await reader.read()
