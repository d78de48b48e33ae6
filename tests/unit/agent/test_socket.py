"""The agent's socket: its place, who may connect, what each uid may take, and rude callers."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from datetime import timedelta
from pathlib import Path

import h2.events
import pytest
import uvloop
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from tests.fakes.callers import (
    HEADER,
    call_once,
    connect_raw,
    open_channel,
    stream_call,
)
from tests.fakes.echo import Echo
from tests.fakes.source import connections, in_loop, serve_node, until
from troth.agent.quota import Limits
from troth.agent.socket import AgentSocket
from troth.core.clock import VirtualClock
from troth.core.errors import Conflict, Invalid, Refused

FETCH = "/SpiffeWorkloadAPI/FetchX509SVID"
JWT = "/SpiffeWorkloadAPI/FetchJWTSVID"


# Its place


@in_loop
async def test_the_file_lets_everybody_connect_and_goes_away_again(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        mode = node.path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o777
        assert sorted(os.listdir(tmp_path)) == [".agent.sock.lock", "agent.sock"]
    assert not node.path.exists()


@in_loop
async def test_a_living_agent_is_not_replaced(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        with pytest.raises(Conflict, match="Another agent"):
            await AgentSocket(VirtualClock()).start(node.path)
        async with open_channel(node.path) as channel:
            assert await call_once(channel, FETCH, b"")


@in_loop
async def test_somebody_else_s_living_socket_is_not_replaced(tmp_path):
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        with pytest.raises(Conflict, match="Another agent"):
            await AgentSocket(VirtualClock()).start(path)
    assert path.exists()


@in_loop
async def test_a_stale_socket_is_replaced(tmp_path):
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serve_node(tmp_path, "/web") as node, open_channel(node.path) as channel:
        assert await call_once(channel, FETCH, b"")


@in_loop
async def test_a_file_that_is_no_socket_stays(tmp_path):
    path = tmp_path / "agent.sock"
    path.write_text("precious")
    with pytest.raises(Conflict, match="not a socket"):
        await AgentSocket(VirtualClock()).start(path)
    assert path.read_text() == "precious"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict, match="not a socket"):
        await AgentSocket(VirtualClock()).start(path)


@in_loop
async def test_a_socket_that_replaced_ours_stays_when_we_stop(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        node.path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(node.path))
    assert node.path.exists()


@in_loop
async def test_a_place_that_cannot_be_trusted_or_used_is_refused(tmp_path):
    agent = AgentSocket(VirtualClock())
    with pytest.raises(Invalid, match="too long"):
        await agent.start(tmp_path / ("x" * 108))
    with pytest.raises(Invalid, match="can't be used"):
        await agent.start(tmp_path / "missing" / "agent.sock")
    public = tmp_path / "public"
    public.mkdir()
    for mode in (0o777, 0o775, 0o702):
        public.chmod(mode)
        with pytest.raises(Refused, match=f"chmod go-w {public}"):
            await agent.start(public / "agent.sock")
        assert os.listdir(public) == []
    public.chmod(0o1777)
    await agent.start(public / "agent.sock")
    await agent.stop()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a directory of another uid")
@in_loop
async def test_a_directory_of_another_user_is_refused(tmp_path):
    place = tmp_path / "app"
    place.mkdir()
    for mode in (0o755, 0o1777):
        place.chmod(mode)
        os.chown(place, 4711, 4711)
        with pytest.raises(Refused, match="belongs to uid 4711"):
            await AgentSocket(VirtualClock()).start(place / "agent.sock")
        assert os.listdir(place) == []


@pytest.mark.parametrize("trick", ["symlink", "file", "nothing"])
@in_loop
async def test_what_takes_the_fresh_socket_s_place_is_not_opened_up(tmp_path, monkeypatch, trick):
    path, victim = tmp_path / "agent.sock", tmp_path / "victim"
    victim.touch(mode=0o600)

    class Raced(socket.socket):
        def bind(self, address):
            super().bind(address)
            path.unlink()
            if trick == "symlink":
                path.symlink_to(victim)
            elif trick == "file":
                os.link(victim, path)

    monkeypatch.setattr(socket, "socket", Raced)
    with pytest.raises(Refused, match="took the place"):
        await AgentSocket(VirtualClock()).start(path)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


@in_loop
async def test_it_starts_again_after_it_stopped(tmp_path):
    agent = AgentSocket(VirtualClock())
    for _ in range(2):
        await agent.start(tmp_path / "agent.sock")
        await agent.stop()
    await agent.stop()


# Who connects


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_the_kernel_tells_who_connected(tmp_path, run):
    async def scenario():
        async with serve_node(tmp_path, "/web") as node, open_channel(node.path) as channel:
            assert await call_once(channel, FETCH, b"")
            (peer,) = node.source.peers
            assert (peer.pid, peer.uid, peer.gid) == (os.getpid(), os.getuid(), os.getgid())
            if peer.pidfd >= 0:
                assert f"Pid:\t{os.getpid()}\n" in about_descriptor(peer.pidfd)
            return peer.pidfd

    pidfd = run(scenario())
    if pidfd >= 0:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(pidfd)


@in_loop
async def test_the_pidfd_outlives_the_connection_while_somebody_attests(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        node.source.attest_gate = asyncio.Event()
        async with connect_raw(node.path) as caller:
            caller.message(caller.call(FETCH, *HEADER.items()), b"", end=True)
            await until(lambda: node.source.peers, "the attestation")
        (peer,) = node.source.peers
        if peer.pidfd < 0:
            pytest.skip("this kernel has no SO_PEERPIDFD")
        await until(lambda: connections(node) == 0, "the end of the connection")
        os.fstat(peer.pidfd)
        node.source.attest_gate.set()
        await until(lambda: is_closed(peer.pidfd), "the descriptor's end")


def about_descriptor(number: int) -> str:
    return Path(f"/proc/self/fdinfo/{number}").read_text(encoding="utf-8")


def is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


# What a uid may take


@in_loop
async def test_connections_of_a_uid_are_bounded(tmp_path):
    async with serve_node(tmp_path, "/web", limits=Limits(connections=2)) as node:
        async with connect_raw(node.path) as one, connect_raw(node.path) as two:
            await one.events()
            await two.events()
            async with connect_raw(node.path) as three:
                goaway = await three.goodbye()
                assert goaway is None or b"too many connections" in goaway.additional_data
            assert connections(node) == 2
        await until(lambda: connections(node) == 0, "the connections' end")
        async with open_channel(node.path) as channel:
            assert await call_once(channel, FETCH, b"")


@in_loop
async def test_streams_of_a_uid_are_bounded_over_all_its_connections(tmp_path):
    limits = Limits(streams=3)
    async with (
        serve_node(tmp_path, "/web", limits=limits) as node,
        open_channel(node.path) as first,
        open_channel(node.path) as second,
    ):
        calls = [stream_call(channel, FETCH, metadata=HEADER) for channel in (first, first, second)]
        streams = [await call.__aenter__() for call in calls]
        for stream in streams:
            await stream.send_message(b"", end=True)
            assert await stream.recv_message()
        with pytest.raises(GRPCError) as caught:
            await call_once(second, FETCH, b"")
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        await streams[0].cancel()
        await until(lambda: node.source.watching == 2, "a stream's end")
        assert await call_once(second, FETCH, b"")
        for stream, call in zip(streams, calls, strict=True):
            if stream is not streams[0]:
                await stream.cancel()
            await call.__aexit__(None, None, None)


@in_loop
async def test_calls_of_a_uid_come_at_a_bounded_rate(tmp_path):
    limits = Limits(calls_burst=3, calls_per_second=1)
    async with (
        serve_node(tmp_path, "/web", limits=limits) as node,
        open_channel(node.path) as channel,
    ):
        for _ in range(3):
            await call_once(channel, JWT, b"\x0a\x01a")
        with pytest.raises(GRPCError) as caught:
            await call_once(channel, JWT, b"\x0a\x01a")
        assert caught.value.status is Status.RESOURCE_EXHAUSTED
        node.clock.advance(timedelta(seconds=1))
        await call_once(channel, JWT, b"\x0a\x01a")


def ping(caller):
    caller.h2.ping(b"12345678")


def settings(caller):
    caller.h2.update_settings({3: 100})


def reset(caller):
    caller.h2.reset_stream(caller.call("/Echo/Wait"))


def unknown(caller):
    caller.h2._data_to_send += b"\x00\x00\x00" + b"\xfa\x00" + b"\x00\x00\x00\x00"


def empty_data(caller):
    if not hasattr(caller, "empty"):
        caller.empty = caller.call("/Echo/Wait")
    caller.h2.send_data(caller.empty, b"")


@in_loop
@pytest.mark.parametrize("frame", [ping, settings, reset, unknown, empty_data])
async def test_a_flood_of_control_frames_ends_the_connection(tmp_path, frame):
    limits = Limits(frames_burst=100, frames_per_second=1)
    async with serve_node(tmp_path, "/web", limits=limits, services=(Echo(),)) as node:
        async with connect_raw(node.path) as caller:
            for _ in range(200):
                frame(caller)
            caller.flush()
            goaway = await caller.goodbye()
            assert goaway is None or goaway.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        assert connections(node) == 0


@in_loop
async def test_a_few_unknown_frames_and_strange_headers_do_no_harm(tmp_path):
    async with (
        serve_node(tmp_path, "/web", services=(Echo(),)) as node,
        connect_raw(node.path) as caller,
    ):
        unknown(caller)
        stream_id = caller.call("/Echo/Repeat", ("x-name", "gr\xfc\xdfe"), ("UPPER", "case"))
        caller.h2.send_data(stream_id, b"")
        caller.message(stream_id, b"hello", end=True)
        messages, trailers = await caller.conversation(stream_id)
        assert messages == [b"hello"]
        assert trailers["grpc-status"] == "0"
