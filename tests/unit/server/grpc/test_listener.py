"""The gRPC listener over real TLS: who gets in, and what malformed calls get."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, Event, ResponseReceived, TrailersReceived

from tests.unit.server.http.stage import AGENT, Authority, in_loop
from troth.core.clock import SystemClock
from troth.core.errors import Denied, Invalid, Unavailable
from troth.server.grpc.call import MAX_MESSAGE, Peer
from troth.server.grpc.listener import GrpcListener
from troth.server.http.listeners import TcpBinding
from troth.server.settings import Limits
from troth.server.tls import ServerTls

PATH = "/test.Echo/Say"


async def say(peer: Peer, message: bytes) -> bytes:
    """Says it again, or fails as it is told."""
    assert peer.certificate
    errors = {
        b"denied": Denied("no"),
        b"invalid": Invalid("what?"),
        b"away": Unavailable("later"),
        b"broken": ValueError("secret"),
    }
    if message in errors:
        raise errors[message]
    if message == b"slow":
        await asyncio.sleep(30)
    return message


class Raw:
    """Messages as they are."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def SerializeToString(self) -> bytes:
        return self.data

    @staticmethod
    def FromString(data: bytes) -> Raw:
        return Raw(data)


class Stage:
    """A listener, and how to reach it."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.port, self.context = port, context

    async def call(self, data: bytes, within: float | None = None, path: str = PATH) -> bytes:
        channel = Channel("localhost", self.port, ssl=self.context)
        try:
            method: Any = UnaryUnaryMethod(channel, path, Raw, Raw)
            answer = await method(Raw(data), timeout=within)
            return bytes(answer.data)
        finally:
            channel.close()

    async def exchange(self, headers: list[tuple[str, str]], *data: bytes) -> list[Event]:
        """One stream by hand, and what came back until its end."""
        reader, writer = await asyncio.open_connection("localhost", self.port, ssl=self.context)
        connection = H2Connection(H2Configuration(validate_outbound_headers=False))
        connection.initiate_connection()
        connection.send_headers(1, headers, end_stream=not data)
        for number, part in enumerate(data):
            connection.send_data(1, part, end_stream=number == len(data) - 1)
        writer.write(connection.data_to_send())
        events: list[Event] = []
        while not any(
            isinstance(one, TrailersReceived | ConnectionTerminated)
            or (isinstance(one, ResponseReceived) and one.stream_ended)
            for one in events
        ):
            received = await asyncio.wait_for(reader.read(65_536), 10)
            if not received:
                break
            events += connection.receive_data(received)
            writer.write(connection.data_to_send())
        writer.close()
        return events


@asynccontextmanager
async def open_stage(tmp_path: Path) -> AsyncIterator[Stage]:
    authority = Authority()
    server = authority.issue()
    tls = ServerTls(server.chain, server.key, [authority.der])
    listener = GrpcListener(
        {PATH: say},
        name="test",
        binding=TcpBinding("localhost", 0, tls.grpc),
        clock=SystemClock(),
        limits=Limits(),
    )
    await listener.start()
    chain, key = authority.issue(AGENT).write(tmp_path, "client")
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["h2"])
    try:
        yield Stage(listener.port, context)
    finally:
        await listener.stop()


HEADERS = [
    (":method", "POST"),
    (":scheme", "https"),
    (":path", PATH),
    (":authority", "test"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


def find_status(events: list[Event]) -> str:
    for one in events:
        if isinstance(one, ResponseReceived | TrailersReceived):
            found = dict(one.headers or [])
            if b"grpc-status" in found:
                return found[b"grpc-status"].decode()
            if found.get(b":status", b"200") != b"200":
                return found[b":status"].decode()
    return ""


@in_loop
async def test_calls_are_answered_and_errors_have_their_status(tmp_path: Path) -> None:
    async with open_stage(tmp_path) as stage:
        assert await stage.call(b"hello") == b"hello"
        assert await stage.call(b"") == b""
        for word, status in (
            (b"denied", Status.PERMISSION_DENIED),
            (b"invalid", Status.INVALID_ARGUMENT),
            (b"away", Status.UNAVAILABLE),
            (b"broken", Status.INTERNAL),
        ):
            with pytest.raises(GRPCError) as caught:
                await stage.call(word)
            assert caught.value.status is status
            assert "secret" not in str(caught.value)
        with pytest.raises(GRPCError) as caught:
            await stage.call(b"x", path="/test.Echo/Other")
        assert caught.value.status is Status.UNIMPLEMENTED
        with pytest.raises((GRPCError, asyncio.TimeoutError)):
            await stage.call(b"slow", within=0.05)


@in_loop
async def test_malformed_calls_are_refused(tmp_path: Path) -> None:
    framed = b"\0\0\0\0\x02hi"
    async with open_stage(tmp_path) as stage:
        for changed, data, wanted in (
            ({}, [framed], "0"),
            ({":method": "GET"}, [framed], "405"),
            ({"content-type": "text/plain"}, [framed], "415"),
            ({}, [], "3"),
            ({}, [framed[:-1]], "3"),
            ({}, [b"\0\0"], "3"),
            ({}, [b"\1" + framed[1:]], "12"),
            ({}, [b"\0" + (MAX_MESSAGE + 1).to_bytes(4, "big")], "8"),
            ({"grpc-timeout": "soon"}, [framed], "3"),
        ):
            headers = list({**dict(HEADERS), **changed}.items())
            assert find_status(await stage.exchange(headers, *data)) == wanted, (changed, data)


@in_loop
async def test_nobody_gets_in_without_a_certificate_or_http2(tmp_path: Path) -> None:
    async with open_stage(tmp_path) as stage:
        stranger = ssl.create_default_context()
        stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
        stranger.set_alpn_protocols(["h2"])
        old = stage.context
        for context, protocols in ((stranger, ["h2"]), (old, ["http/1.1"])):
            context.set_alpn_protocols(protocols)
            try:
                reader, writer = await asyncio.open_connection("localhost", stage.port, ssl=context)
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                assert await asyncio.wait_for(reader.read(100), 10) == b""
                writer.close()
            except OSError:
                continue
