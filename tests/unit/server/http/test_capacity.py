from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.unit.server.http.stage import Stage, in_loop, open_stage
from troth.core.clock import VirtualClock
from troth.server.http import acceptor
from troth.server.http.acceptor import Acceptor
from troth.server.http.capacity import ADMIN_KEPT, Capacity, Caps, fit_caps, name_source
from troth.server.settings import Limits


def test_caps_are_the_configured_ones_where_there_is_room():
    limits = Limits(connections=1000, connections_per_address=100)
    for admin in (True, False):
        assert fit_caps(limits, admin=admin, descriptors=None) == Caps(1000, 100)
    assert fit_caps(limits, admin=False, descriptors=1_000_000) == Caps(1000, 100)


def test_caps_shrink_to_the_descriptors_and_the_admin_socket_keeps_its_part():
    for descriptors in (256, 1024, 4096, 20_000):
        tcp = fit_caps(Limits(), admin=False, descriptors=descriptors)
        admin = fit_caps(Limits(), admin=True, descriptors=descriptors)
        assert admin.total >= ADMIN_KEPT
        assert 2 * tcp.total + admin.total <= descriptors - 100
        assert tcp.each <= tcp.total * 3 // 4 + 1
    assert fit_caps(Limits(), admin=False, descriptors=1024).total > 300
    assert fit_caps(Limits(), admin=False, descriptors=10) == Caps(1, 1)


def test_a_place_is_given_back_once():
    capacity = Capacity(Caps(3, 2))
    first, second = capacity.claim("a"), capacity.claim("a")
    assert first is not None
    assert second is not None
    assert capacity.claim("a") is None  # of its own
    assert capacity.claim("b") is not None
    assert capacity.claim("c") is None  # of all
    first.release()
    first.release()
    assert capacity.taken == 2
    assert capacity.claim("a") is not None
    assert capacity.claim("a") is None


class From(socket.socket):
    """A socket whose peer a test chooses."""

    peer: Any = None

    def getpeername(self) -> Any:
        return self.peer


def test_one_subscriber_is_one_source():
    with From(socket.AF_INET) as ours:
        ours.peer = ("192.0.2.7", 1234)
        assert name_source(ours) == "192.0.2.7"
    with From(socket.AF_INET6) as ours:
        for address in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"):
            ours.peer = (address, 1234, 0, 0)
            assert name_source(ours) == "2001:db8:1:2::/64"
        ours.peer = ("fe80::1%eth0", 1234, 0, 2)
        assert name_source(ours) == "fe80::/64"


def connect(stage: Stage, source: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A TCP connection that says nothing."""
    silent = socket.socket()
    stage.exit.callback(silent.close)
    silent.bind((source, 0))
    silent.connect(("127.0.0.1", port or stage.public.port))
    silent.setblocking(False)
    return silent


def watch(silent: socket.socket) -> asyncio.Task[bytes]:
    """Ends when the server closes the connection."""

    async def read() -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(silent, 1)
        except ConnectionError:
            return b""

    return asyncio.create_task(read())


async def get_in(stage: Stage, source: str = "127.0.0.1") -> bool:
    try:
        _, writer = await asyncio.open_connection(
            "127.0.0.1",
            stage.public.port,
            ssl=stage.context(),
            server_hostname="localhost",
            local_addr=(source, 0),
        )
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@contextmanager
def few_descriptors(number: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@in_loop
async def test_silent_connections_leave_descriptors_for_the_admin_socket(tmp_path: Path):
    with few_descriptors(256):
        caps = fit_caps(Limits(), admin=False, descriptors=256)
        async with open_stage(tmp_path) as stage:
            silent = [watch(connect(stage)) for _ in range(140)]
            closed = asyncio.as_completed(silent)
            for _ in range(140 - caps.each):
                assert await next(closed) == b""
            client = await stage.admin_client()
            assert (await client.get("/v1/status")).status_code == 200
            assert sum(task.done() for task in silent) == 140 - caps.each
            for task in silent:
                task.cancel()


@in_loop
async def test_connections_count_from_accept_on_and_handshakes_end(tmp_path: Path):
    limits = Limits(connections=2, header_seconds=1, stop_seconds=1)
    async with open_stage(tmp_path, limits=limits) as stage:
        first, second = watch(connect(stage)), watch(connect(stage))
        third = watch(connect(stage))
        assert await third == b""
        assert not await get_in(stage)
        assert not first.done()
        assert not second.done()
        assert (await first, await second) == (b"", b"")  # out of time
        assert await get_in(stage)


@in_loop
async def test_one_address_does_not_take_the_others_places(tmp_path: Path):
    limits = Limits(connections=10, connections_per_address=2, stop_seconds=1)
    async with open_stage(tmp_path, limits=limits) as stage:
        silent = [watch(connect(stage)) for _ in range(2)]
        assert await watch(connect(stage)) == b""
        assert not await get_in(stage)
        assert await get_in(stage, "127.0.0.2")
        assert not any(task.done() for task in silent)
        for task in silent:
            task.cancel()


@in_loop
async def test_one_uid_is_bounded_on_the_admin_socket(tmp_path: Path):
    limits = Limits(connections=10, connections_per_address=2, stop_seconds=1)
    async with open_stage(tmp_path, limits=limits) as stage:
        kept = [await stage.raw() for _ in range(2)]
        reader, _ = await stage.raw()
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert not any(reader.at_eof() for reader, _ in kept)


@in_loop
async def test_every_way_to_end_gives_the_place_back(tmp_path: Path):
    limits = Limits(connections=1, stop_seconds=1)
    async with open_stage(tmp_path, limits=limits) as stage:
        for port in (stage.public.port, stage.mutual.port):
            for _ in range(3):
                with connect(stage, port=port) as garbage:  # no TLS
                    garbage.send(b"GET / HTTP/1.1\r\n\r\n")
                    while await watch(garbage):
                        pass
                await settle(stage)
        for _ in range(3):
            connect(stage).close()  # goes in its handshake
            await settle(stage)
        for _ in range(3):
            assert await get_in(stage)
            await settle(stage)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - neither kernel nor listener tells
            await asyncio.sleep(0.001)


async def settle(stage: Stage) -> None:
    """Wait until no connection of the TLS listeners waits or is counted."""
    acceptors = [*stage.public._acceptors, *stage.mutual._acceptors]
    await until(lambda: not any(one._capacity.taken or is_waiting(one.bound) for one in acceptors))


def is_waiting(bound: socket.socket) -> bool:
    """Whether a connection waits in the backlog (``tcpi_unacked`` of a listening socket)."""
    info = bound.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(info[24:28], "little") > 0


@in_loop
async def test_stopping_drops_handshakes(tmp_path: Path):
    async with open_stage(tmp_path, limits=Limits(stop_seconds=30)) as stage:
        silent = connect(stage)
        await until(lambda: any(one._capacity.taken for one in stage.public._acceptors))
        async with asyncio.timeout(5):
            await stage.public.stop()
            assert await watch(silent) == b""


class Poor(socket.socket):
    """A listening socket for which the process has no descriptor, the first time."""

    failures = 1

    def accept(self) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@in_loop
async def test_accepting_goes_on_after_a_lack_of_descriptors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(acceptor, "PAUSE_SECONDS", 0.01)
    greeted = asyncio.Event()

    async def greet(connected: socket.socket, slot: Any) -> None:
        connected.close()
        slot.release()
        greeted.set()

    bound = Poor()
    bound.setblocking(False)
    bound.bind(("127.0.0.1", 0))
    bound.listen()
    one = Acceptor(bound, Capacity(Caps(1, 1)), greet, VirtualClock(), "test")
    with capture_logs() as entries:
        one.start()
        with socket.create_connection(bound.getsockname()):
            await asyncio.wait_for(greeted.wait(), 5)
        await one.stop()
    assert [entry["event"] for entry in entries] == ["listener.paused"]


@in_loop
async def test_a_full_listener_says_so_once_in_a_while(tmp_path: Path):
    async with open_stage(tmp_path, limits=Limits(connections=1, stop_seconds=1)) as stage:
        silent = watch(connect(stage))
        with capture_logs() as entries:
            for _ in range(5):
                assert await watch(connect(stage)) == b""
        full = [entry for entry in entries if entry["event"] == "listener.full"]
        assert [(entry["source"], entry["log_level"]) for entry in full] == [
            ("127.0.0.1", "warning")
        ]
        silent.cancel()
