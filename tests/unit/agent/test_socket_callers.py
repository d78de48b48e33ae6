"""What callers send: messages that can't be read, and bytes that aren't HTTP/2."""

from __future__ import annotations

import asyncio
import os

import pytest
from grpclib.const import Status

from tests.fakes.callers import (
    HEADER,
    call_once,
    connect_deaf,
    connect_raw,
    open_channel,
    read_status,
    stream_call,
)
from tests.fakes.echo import Echo
from tests.fakes.source import connections, in_loop, serve_node, switchboard, until
from troth.agent.quota import Limits
from troth.agent.view import Stale

FETCH = "/SpiffeWorkloadAPI/FetchX509SVID"
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@in_loop
@pytest.mark.parametrize(
    ("flag", "size", "status"),
    [
        (1, None, Status.UNIMPLEMENTED),
        (2, None, Status.INVALID_ARGUMENT),
        (0, 64 * 1024 + 1, Status.RESOURCE_EXHAUSTED),
        (0, 0xFFFF_FFFF, Status.RESOURCE_EXHAUSTED),
        (0, 100, Status.INVALID_ARGUMENT),
    ],
    ids=["compressed", "flag", "oversized", "huge", "truncated"],
)
async def test_a_message_that_cannot_be_read(tmp_path, flag, size, status):
    async with (
        serve_node(tmp_path, "/web", services=(Echo(),)) as node,
        connect_raw(node.path) as caller,
    ):
        stream_id = caller.call("/Echo/Repeat")
        caller.message(stream_id, b"hello", flag=flag, size=size, end=True)
        trailers = await caller.trailers(stream_id)
        assert trailers["grpc-status"] == str(status.value)
        assert trailers["grpc-message"]
        # The connection lives on.
        stream_id = caller.call("/Echo/Repeat")
        caller.message(stream_id, b"hello", end=True)
        assert (await caller.conversation(stream_id))[0] == [b"hello"]


@in_loop
async def test_a_prefix_cut_short_is_invalid(tmp_path):
    async with (
        serve_node(tmp_path, "/web", services=(Echo(),)) as node,
        connect_raw(node.path) as caller,
    ):
        stream_id = caller.call("/Echo/Repeat")
        caller.h2.send_data(stream_id, b"\0\0", end_stream=True)
        caller.flush()
        trailers = await caller.trailers(stream_id)
        assert trailers["grpc-status"] == str(Status.INVALID_ARGUMENT.value)


@in_loop
async def test_the_largest_message_and_the_empty_one_pass(tmp_path):
    async with (
        serve_node(tmp_path, "/web", services=(Echo(),)) as node,
        open_channel(node.path) as channel,
        stream_call(channel, "/Echo/Repeat") as stream,
    ):
        for message in (b"", b"x" * 64 * 1024, b""):
            await stream.send_message(message)
            assert await stream.recv_message() == message
        await stream.end()
        assert await read_status(stream) == ([], None)


@in_loop
async def test_a_caller_that_never_asks_is_sent_away(tmp_path):
    limits = Limits(request_seconds=0.01)
    async with (
        serve_node(tmp_path, "/web", limits=limits) as node,
        connect_raw(node.path) as caller,
    ):
        stream_id = caller.call(FETCH, *HEADER.items())
        trailers = await caller.trailers(stream_id)
        assert trailers["grpc-status"] == str(Status.UNAVAILABLE.value)


@in_loop
async def test_a_call_that_ends_without_a_message_is_invalid(tmp_path):
    async with serve_node(tmp_path, "/web") as node, connect_raw(node.path) as caller:
        trailers = await caller.trailers(caller.call(FETCH, *HEADER.items(), end=True))
        assert trailers["grpc-status"] == str(Status.INVALID_ARGUMENT.value)


@in_loop
@pytest.mark.parametrize(
    ("patience", "status"),
    [
        ("10m", Status.DEADLINE_EXCEEDED),
        ("0S", Status.DEADLINE_EXCEEDED),
        ("soon", Status.INVALID_ARGUMENT),
        ("9" * 5000 + "S", Status.INVALID_ARGUMENT),
    ],
)
async def test_deadlines(tmp_path, patience, status):
    async with serve_node(tmp_path, "/web") as node, connect_raw(node.path) as caller:
        stream_id = caller.call(FETCH, *HEADER.items(), ("grpc-timeout", patience))
        caller.message(stream_id, b"", end=True)
        trailers = await caller.trailers(stream_id)
        assert trailers["grpc-status"] == str(status.value)
        await until(lambda: node.source.watching == 0, "the stream's end")


@in_loop
@pytest.mark.parametrize(
    ("change", "http_status"),
    [
        ({":method": "GET"}, "405"),
        ({"content-type": "application/json"}, "415"),
        ({"content-type": "application/grpc+json"}, "415"),
        ({":method": None}, "405"),
        ({"content-type": None}, "415"),
    ],
)
async def test_what_is_not_a_grpc_call(tmp_path, change, http_status):
    async with serve_node(tmp_path, "/web") as node, connect_raw(node.path) as caller:
        headers: dict[str, str | None] = {
            ":method": "POST",
            ":path": FETCH,
            ":scheme": "http",
            "content-type": "application/grpc",
        }
        headers |= change
        sent = [(name, value) for name, value in headers.items() if value is not None]
        caller.h2.send_headers(1, sent, end_stream=True)
        caller.flush()
        trailers = await caller.trailers(1)
        assert trailers == {":status": http_status}


# Rude callers


@in_loop
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
        GREETING + b"\xff" * 9,
        GREETING
        + b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x88"
        + b"\x00\x00\x00\x09\x00\x00\x00\x00\x01" * 9,
        GREETING + b"\x00\x00\x05\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff\xff",
        GREETING + b"\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        GREETING + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        GREETING + b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff",
    ],
    ids=[
        "http1",
        "tls",
        "huge-frame",
        "headers-without-end",
        "hpack",
        "data-on-0",
        "window-0",
        "bad-setting",
    ],
)
async def test_bytes_that_are_not_http2_end_the_connection_alone(tmp_path, data):
    async with serve_node(tmp_path, "/web") as node, open_channel(node.path) as channel:
        assert await call_once(channel, FETCH, b"")
        async with connect_raw(node.path, start=False) as caller:
            caller.writer.write(data)
            while await caller.reader.read(65_536):
                pass
        assert await call_once(channel, FETCH, b"")
        assert connections(node) == 1


def paused(node) -> bool:
    return any(
        not connection.connection.write_ready.is_set()
        for connection in switchboard(node).connections
    )


@in_loop
async def test_a_reset_while_the_caller_does_not_read_leaves_nothing_behind(tmp_path):
    echo = Echo()
    async with serve_node(tmp_path, "/web", services=(echo,)) as node:
        async with connect_deaf(node.path) as caller:
            calls = [caller.call("/Echo/Flood") for _ in range(20)]
            await until(lambda: echo.started == 20 and paused(node), "the flood")
            for stream_id in calls:
                caller.h2.reset_stream(stream_id)
            caller.flush()
        await until(lambda: echo.ended == 20, "the calls' end")
        await until(lambda: connections(node) == 0, "the connection's end")
        account = switchboard(node).quota._account(os.getuid())
        assert (account.connections, account.streams) == (0, 0)


@in_loop
async def test_stopping_does_not_wait_for_a_caller_that_does_not_read(tmp_path):
    echo = Echo()
    async with (
        serve_node(tmp_path, "/web", services=(echo,)) as node,
        connect_deaf(node.path) as caller,
    ):
        caller.call("/Echo/Flood")
        await until(lambda: paused(node), "the flood")
        await node.socket.stop(grace=0.05)
        assert (echo.started, echo.ended) == (1, 1)


@in_loop
async def test_a_caller_that_leaves_ends_its_calls(tmp_path):
    echo = Echo()
    async with serve_node(tmp_path, "/web", services=(echo,)) as node:
        async with connect_raw(node.path) as caller:
            for _ in range(5):
                caller.message(caller.call("/Echo/Wait"), b"x")
            await until(lambda: echo.started == 5, "the calls")
        await until(lambda: echo.ended == 5, "the calls' end")


@in_loop
async def test_a_burst_of_connections_is_accepted(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        opened = [await asyncio.open_unix_connection(str(node.path)) for _ in range(300)]
        await until(lambda: connections(node) == 300, "the connections")
        for _, writer in opened:
            writer.close()
        await until(lambda: connections(node) == 0, "the connections' end")


@in_loop
async def test_calls_that_are_reset_while_they_queue_are_never_attested(tmp_path):
    limits = Limits(attestations=2, attestations_waiting=5)
    async with serve_node(tmp_path, "/web", limits=limits) as node:
        node.source.attest_gate = asyncio.Event()
        async with connect_raw(node.path) as caller:
            calls = [caller.call(FETCH, *HEADER.items()) for _ in range(20)]
            for stream_id in calls:
                caller.message(stream_id, b"", end=True)
            trailers = await caller.trailers(calls[-1])
            assert trailers["grpc-status"] == str(Status.RESOURCE_EXHAUSTED.value)
            assert "wait already" in trailers["grpc-message"]
            assert len(node.source.peers) == 2
            for stream_id in calls[:7]:
                caller.h2.reset_stream(stream_id)
            caller.flush()
            account = switchboard(node).quota._account(os.getuid())
            await until(lambda: account.streams == 0, "the resets")
            again = caller.call(FETCH, *HEADER.items())
            caller.message(again, b"", end=True)
            await until(lambda: account.streams == 1, "another call")
            assert len(node.source.peers) == 2  # what has begun keeps its turn
            node.source.attest_gate.set()
            await until(lambda: node.source.watching == 1, "the call's turn")
            assert len(node.source.peers) == 3


@in_loop
async def test_a_connection_without_calls_is_closed_after_a_while_and_others_are_not(tmp_path):
    limits = Limits(idle_seconds=0.05)
    async with (
        serve_node(tmp_path, "/web", limits=limits, services=(Echo(),)) as node,
        connect_raw(node.path) as idle,
        connect_raw(node.path) as busy,
    ):
        busy.message(busy.call("/Echo/Wait"), b"x")
        goaway = await idle.goodbye()
        assert goaway is not None
        assert goaway.error_code == 0
        await until(lambda: connections(node) == 1, "the idle one's end")
        assert not busy.closed


@in_loop
async def test_a_process_that_became_another_has_to_connect_again(tmp_path):
    async with serve_node(tmp_path, "/web") as node, connect_raw(node.path) as caller:
        stream_id = caller.call(FETCH, *HEADER.items())
        caller.message(stream_id, b"", end=True)
        await until(lambda: node.source.watching == 1, "the stream")
        talk = asyncio.create_task(caller.conversation(stream_id))
        await node.source.fail(Stale("It runs another program now; connect again."))
        _, trailers = await talk
        assert trailers["grpc-status"] == str(Status.UNAVAILABLE.value)
        await caller.goodbye()
        assert connections(node) == 0
