from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from tests.unit.server.http.stage import in_loop, open_stage
from troth.server.http import protocol
from troth.server.http.exchange import Peer, connection_of
from troth.server.settings import Limits

GET = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/identities/a/suspend HTTP/1.1\r\nHost: x\r\ncontent-type: application/json\r\n"
CLOSE = b"connection: close\r\n"

MALFORMED = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32,  # TLS where none is spoken
    b"GET\r\n\r\n",
    b"\x00\x01\x02\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    GET + b"Host : x\r\n\r\n",
    GET + b"bad\x00name: x\r\n\r\n",
    POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    POST + b"content-length: -1\r\n\r\n",
    POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: gzip, chunked, identity\r\n\r\n",
]


@in_loop
async def test_what_is_not_http_gets_a_problem_document_and_the_door(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        for data in MALFORMED:
            status, answer = await stage.send(data)
            assert status == 400, (data, answer)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"application/problem+json" in head, (data, answer)
            assert b"connection: close" in head
            assert json.loads(body)["code"] == "invalid_request"
        assert not stage.operations.calls


@in_loop
async def test_the_asterisk_is_no_path_of_ours(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        status, _ = await stage.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n")
        assert status == 404


@in_loop
async def test_a_malformed_chunk_after_good_headers_is_refused(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        for chunk in (b"zz\r\n", b"ffffffffffffffffff\r\n", b"3\r\nabcdef\r\n"):
            sent = POST + b"transfer-encoding: chunked\r\n\r\n" + chunk
            status, answer = await stage.send(sent)
            assert status == 400, answer
            assert b"not a well-formed HTTP/1.1 request" in answer
        assert not stage.operations.calls


@in_loop
async def test_headers_are_bounded_in_size_and_number(tmp_path: Path):
    limits = Limits(header_bytes=4096, stop_seconds=1)
    async with open_stage(tmp_path, limits=limits) as stage:
        fits = b"x: " + b"y" * 3000 + b"\r\n"
        assert (await stage.send(GET + fits + CLOSE + b"\r\n"))[0] == 200
        for head in (
            GET + b"x: " + b"y" * 5000 + b"\r\n\r\n",  # complete
            GET + b"x: " + b"y" * 5000,  # and without an end
            b"GET /" + b"y" * 5000,
            GET + b"x: y\r\n" * (protocol.MAX_HEADERS + 1) + b"\r\n",
        ):
            status, answer = await stage.send(head)
            assert status == 431, answer
            assert b'"code":"too_large"' in answer


@in_loop
async def test_slow_headers_are_cut_off(tmp_path: Path):
    async with open_stage(tmp_path, limits=Limits(header_seconds=1, stop_seconds=1)) as stage:
        reader, writer = await stage.raw()
        writer.write(b"GET /healthz HTT")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        reader, _ = await stage.raw()  # and one that says nothing at all
        assert await asyncio.wait_for(reader.read(), 5) == b""


@in_loop
async def test_a_slow_or_missing_body_is_answered_and_cut_off(tmp_path: Path):
    async with open_stage(tmp_path, limits=Limits(body_seconds=1, stop_seconds=1)) as stage:
        status, answer = await stage.send(POST + b"content-length: 20\r\n\r\n{")
        assert status == 408
        assert b"connection: close" in answer.lower()
        assert not stage.operations.calls


@in_loop
async def test_what_a_content_length_claims_does_not_count(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(protocol, "DRAIN_SECONDS", 0.2)
    body = b'{"reason":"x"}'
    async with open_stage(tmp_path) as stage:
        # Shorter than what is sent: the rest is no request.
        _, answer = await stage.send(
            POST + b"content-length: 14\r\n\r\n" + body + b"garbage\r\n\r\n"
        )
        assert answer.count(b"HTTP/1.1") <= 2
        assert b"garbage" not in answer
        # Far larger than the bound: refused before anything is read.
        head = b"content-length: 99999999999999999999\r\n"
        status, _ = await stage.send(POST + head + b"\r\n")
        assert status in (400, 413)
        head = b"content-length: 2000000\r\n"
        assert (await stage.send(POST + head + b"\r\n"))[0] == 413
        # Chunked, without any length: counted as it comes.
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        head = b"transfer-encoding: chunked\r\n"
        assert (await stage.send(POST + head + b"\r\n" + chunk * 17))[0] == 413


@in_loop
async def test_trailers_and_chunk_extensions_are_neither_read_nor_kept(tmp_path: Path):
    chunked = POST + b"transfer-encoding: chunked\r\n" + CLOSE + b"\r\n"
    async with open_stage(tmp_path) as stage:
        trailer = b'e;x=y\r\n{"reason":"x"}\r\n0\r\nx-request-id: trailer\r\n\r\n'
        status, answer = await stage.send(chunked + trailer)
        assert status == 200
        assert b"trailer" not in answer
        for endless in (b"1;" + b"x" * 5_000_000, b"0\r\nt: " + b"x" * 5_000_000):
            reader, writer = await stage.raw()
            writer.write(chunked + endless)
            try:
                assert await asyncio.wait_for(reader.read(), 10) == b""
            except ConnectionError:
                pass  # cut off while sending


@in_loop
async def test_pipelined_requests_are_answered_in_order_up_to_a_bound(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        _, answer = await stage.send((GET + b"\r\n") * 3 + GET + CLOSE + b"\r\n")
        assert answer.count(b"HTTP/1.1 200 OK") == 4
        _, answer = await stage.send((GET + b"\r\n") * 1000)
        assert answer.count(b"HTTP/1.1 200 OK") <= protocol.MAX_PIPELINE + 1


@in_loop
async def test_an_upgrade_is_not_taken(tmp_path: Path):
    for protocol_name in (b"websocket", b"h2c"):
        async with open_stage(tmp_path) as stage:
            head = b"connection: Upgrade\r\nupgrade: " + protocol_name + b"\r\n"
            status, answer = await stage.send(GET + head + b"\r\n")
            assert status == 200
            assert b"connection: close" in answer.lower()


@in_loop
async def test_an_unread_body_does_not_hold_the_connection(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(protocol, "DRAIN_SECONDS", 0.2)
    async with open_stage(tmp_path) as stage:
        reader, writer = await stage.raw()
        writer.write(POST + b"content-length: 2000000\r\n\r\nabc")
        answer = await asyncio.wait_for(reader.read(), 5)  # ends: the connection is closed
        assert answer.startswith(b"HTTP/1.1 413")


@in_loop
async def test_a_keep_alive_connection_serves_on_after_a_refusal(tmp_path: Path):
    async with open_stage(tmp_path) as stage:
        _, answer = await stage.send(POST + b"content-length: 3\r\n\r\n{{{" + GET + CLOSE + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"HTTP/1.1 200" in answer


@in_loop
async def test_more_connections_than_the_bound_are_closed(tmp_path: Path):
    async with open_stage(tmp_path, limits=Limits(connections=2, stop_seconds=1)) as stage:
        first, second = await stage.raw(), await stage.raw()
        for _, writer in (first, second):
            writer.write(GET + b"\r\n")
        for reader, _ in (first, second):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        reader, _ = await stage.raw()
        assert await asyncio.wait_for(reader.read(), 5) == b""


@in_loop
async def test_the_kernel_tells_who_connected(tmp_path: Path):
    seen: list[Any] = []

    async with open_stage(tmp_path) as stage:
        edge: Any = stage.admin._config.app
        inner = edge.inner

        async def spy(scope, receive, send):
            seen.append(connection_of(scope))
            await inner(scope, receive, send)

        object.__setattr__(edge, "inner", spy)
        status, _ = await stage.send(GET + CLOSE + b"\r\n")
        assert status == 200
        [connection] = seen
        assert connection.peer == Peer(os.getpid(), os.getuid(), os.getgid())
        assert connection.source == f"uid:{os.getuid()}/pid:{os.getpid()}"
        assert connection.certificate is None


class Wire:
    """A transport that keeps what was written, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_the_head_of_an_answer_goes_with_its_body_and_waits_for_none() -> None:
    async def main() -> None:
        wire = Wire()
        outlet = protocol.Outlet(asyncio.get_running_loop(), wire)
        outlet.write(b"HTTP/1.1 200 OK\r\n\r\n")
        outlet.write(b"body")
        outlet.write(b"more")
        assert wire.pieces == [b"HTTP/1.1 200 OK\r\n\r\nbody", b"more"]
        outlet.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.sleep(0)
        assert wire.pieces[2:] == [b"HTTP/1.1 200 OK\r\n\r\n"]  # a stream with nothing to say yet
        outlet.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        outlet.close()
        await asyncio.sleep(0)
        assert wire.pieces[3:] == [b"HTTP/1.1 204 No Content\r\n\r\n"]
        assert outlet.is_closing()

    asyncio.run(main())
