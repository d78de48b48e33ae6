from __future__ import annotations

import asyncio
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.http.stage import in_loop, open_stage
from troth.core.clock import VirtualClock
from troth.core.errors import Conflict, Invalid, Refused, TrothError, Unavailable
from troth.server.http.listeners import Listener, TcpBinding, UnixBinding
from troth.server.settings import Limits


async def silent_app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def unix(path: Path, mode: int = 0o600) -> Listener:
    return Listener(
        silent_app,
        name="test",
        binding=UnixBinding(path, mode),
        clock=VirtualClock(),
        limits=Limits(stop_seconds=1),
    )


def tcp(host: str, port: int) -> Listener:
    return Listener(
        silent_app,
        name="test",
        binding=TcpBinding(host, port, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)),
        clock=VirtualClock(),
        limits=Limits(stop_seconds=1),
    )


async def ask(path: Path) -> int:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1])


async def refusal(listener: Listener) -> TrothError:
    with pytest.raises(TrothError) as caught:
        await listener.start()
    return caught.value


@in_loop
async def test_a_socket_has_its_mode_from_the_first_moment_and_goes_with_its_listener(
    tmp_path: Path,
):
    for mode in (0o600, 0o666):
        path = tmp_path / "admin.sock"
        old = os.umask(0)  # even where the umask would leave everything open
        try:
            listener = unix(path, mode)
            await listener.start()
        finally:
            os.umask(old)
        assert path.stat().st_mode & 0o777 == mode
        assert listener.port == 0
        await listener.stop()
        assert os.listdir(tmp_path) == []


@in_loop
async def test_a_stale_socket_is_replaced(tmp_path: Path):
    path = tmp_path / "admin.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    listener = unix(path)
    await listener.start()
    assert await ask(path) == 204
    await listener.stop()


@in_loop
async def test_a_living_socket_is_left_alone(tmp_path: Path):
    path = tmp_path / "admin.sock"
    first = unix(path)
    await first.start()
    error = await refusal(unix(path))
    assert isinstance(error, Conflict)
    assert "Another server" in error.detail
    assert await ask(path) == 204
    await first.stop()


@in_loop
async def test_only_its_own_socket_is_removed(tmp_path: Path):
    path = tmp_path / "admin.sock"
    first = unix(path)
    await first.start()
    path.unlink()
    second = unix(path)
    await second.start()
    await first.stop()
    assert path.exists()
    await second.stop()


@in_loop
async def test_what_is_no_socket_is_never_removed(tmp_path: Path):
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    assert isinstance(await refusal(unix(path)), Refused)
    assert path.read_text() == "precious"


@in_loop
async def test_impossible_socket_paths_are_explained(tmp_path: Path):
    error = await refusal(unix(tmp_path / ("x" * 120)))
    assert isinstance(error, Invalid)
    assert "too long" in error.detail
    assert isinstance(await refusal(unix(tmp_path / "no" / "admin.sock")), Unavailable)


@in_loop
async def test_a_taken_port_is_explained_and_nothing_stays_bound():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = await refusal(tcp("127.0.0.1", port))
        assert isinstance(error, Conflict)
        assert str(port) in error.detail


@in_loop
async def test_unknown_hosts_and_foreign_addresses_are_explained():
    assert isinstance(await refusal(tcp("nowhere.invalid", 0)), Invalid)
    assert isinstance(await refusal(tcp("a..b", 0)), Invalid)
    assert isinstance(await refusal(tcp("192.0.2.1", 0)), Unavailable)


@in_loop
async def test_port_0_is_one_port_on_every_address_of_the_host():
    listener = tcp("localhost", 0)
    await listener.start()
    assert listener.port > 0
    ports = {acceptor.bound.getsockname()[1] for acceptor in listener._acceptors}
    assert ports == {listener.port}
    assert listener.where == f"localhost:{listener.port}"
    await listener.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", listener.port)) != 0


@in_loop
async def test_stopping_lets_a_running_request_finish(tmp_path: Path):
    started, go = asyncio.Event(), asyncio.Event()

    async def answer(call):
        started.set()
        await go.wait()
        return call.body

    async with open_stage(tmp_path) as stage:
        stage.operations.answer = answer
        client = await stage.admin_client()
        asking = asyncio.create_task(client.get("/v1/status"))
        await started.wait()
        stopping = asyncio.create_task(stage.admin.stop())
        await asyncio.sleep(0)
        go.set()
        response = await asking
        assert response.status_code == 200
        assert response.headers["connection"] == "close"
        await stopping


@in_loop
async def test_stopping_does_not_wait_for_idle_connections_nor_for_ever(tmp_path: Path):
    async with open_stage(tmp_path, limits=Limits(stop_seconds=30)) as stage:
        client = await stage.admin_client()
        await client.get("/healthz")  # stays open
        await stage.raw()
        await asyncio.wait_for(stage.admin.stop(), 5)
    async with open_stage(tmp_path, limits=Limits(stop_seconds=0)) as stage:
        stuck = asyncio.Event()

        async def answer(call):
            stuck.set()
            await asyncio.Event().wait()

        stage.operations.answer = answer
        _, writer = await stage.raw()
        writer.write(b"GET /v1/status HTTP/1.1\r\n\r\n")
        await stuck.wait()
        await asyncio.wait_for(stage.admin.stop(), 5)
