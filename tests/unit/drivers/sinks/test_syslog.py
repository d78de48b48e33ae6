"""Syslog has no acknowledgement: when a batch counts as delivered, and when it doesn't."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes.authority import Authority
from tests.fakes.messages import make_messages, read_number
from troth.core.clock import SystemClock
from troth.drivers.sinks import Away, Target
from troth.drivers.sinks.place import parse_place
from troth.drivers.sinks.syslog import _Exchange, open_sink

LINGER_RESET = struct.pack("ii", 1, 0)
Ending = Callable[[ssl.SSLSocket], None]


def say_farewell(connection: ssl.SSLSocket) -> None:
    """As RFC 5425, section 4.4, wants it: close_notify is answered."""
    with suppress(OSError):
        connection.unwrap().close()


def just_close(connection: ssl.SSLSocket) -> None:
    """As rsyslog does."""
    connection.close()


def leave_first(connection: ssl.SSLSocket) -> None:
    """As one that gives up a connection: it says farewell and closes its half, without having read
    what is in its kernel's buffers (RFC 5425, section 4.4, allows that)."""
    connection.settimeout(0)
    with suppress(ssl.SSLWantReadError):
        connection.unwrap()
    socket.socket.shutdown(connection, socket.SHUT_WR)
    threading.Event().wait(0.5)
    connection.close()


def say_farewell_unread(connection: ssl.SSLSocket) -> None:
    """The same, but its half stays open until all is closed at once."""
    connection.settimeout(0)
    with suppress(ssl.SSLWantReadError):
        connection.unwrap()
    threading.Event().wait(0.5)
    connection.close()


def reset(connection: ssl.SSLSocket) -> None:
    """As a kernel does for a process that dies with something unread."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
    connection.close()


class FakeSyslog:
    """Reads until it has `enough` bytes (all, if that is 0), then ends the connection its way."""

    def __init__(self, authority: Authority, *, mutual: bool = False) -> None:
        self.enough = 0
        self.end: Ending = say_farewell
        self.first: Ending | None = None
        self.hangs = False
        self.received: list[bytes] = []
        self.clients: list[bytes | None] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*authority.issue("syslog"))
        if mutual:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(authority.file)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._leave.set()
        with suppress(OSError):  # again is no error
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    @property
    def numbers(self) -> list[int]:
        found = []
        data = b"".join(self.received)
        while data:
            size, _, rest = data.partition(b" ")
            message, data = rest[: int(size)], rest[int(size) :]
            found.append(read_number(message[message.index(b"{") :]))
        return found

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            if self.hangs:
                self._leave.wait(20)
                plain.close()
                continue
            wrap = self._context.wrap_socket
            with suppress(OSError), plain, wrap(plain, server_side=True) as connection:
                self._serve_one(connection)

    def _serve_one(self, connection: ssl.SSLSocket) -> None:
        self.clients.append(connection.getpeercert(True))
        if self.first is not None:
            self.first(connection)
        size = 0
        while piece := connection.recv(1000):
            self.received.append(piece)
            size += len(piece)
            if self.enough and size >= self.enough:
                break
        self.end(connection)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Iterator[FakeSyslog]:
    made = FakeSyslog(authority)
    yield made
    made.close()


def deliver(server: FakeSyslog, authority: Authority | None, count: int, **fields: object) -> None:
    target = Target(
        "siem",
        f"tls://localhost:{server.port}",
        authorities=authority.file if authority else None,
        host="troth.example.org",
        version="1.2",
        **{"timeout": 5.0, **fields},  # type: ignore[arg-type]
    )

    async def main() -> None:
        sink = open_sink(target, "", SystemClock())
        try:
            await sink.deliver(make_messages(count))
        finally:
            await sink.close()

    asyncio.run(main())


@pytest.mark.parametrize("end", [say_farewell, just_close])
def test_a_receiver_that_has_read_to_the_end_has_the_batch(server, authority, end):
    server.end = end
    deliver(server, authority, 300)
    assert server.numbers == list(range(1, 301))
    first = b"".join(server.received).split(b" ", 1)[1]
    assert first.startswith(b"<109>1 2026-01-01T12:00:00.124456Z troth.example.org troth - ")
    assert b'[origin software="troth" swVersion="1.2"]' in first


@pytest.mark.parametrize("enough", [1, 5000, 30_000])
@pytest.mark.parametrize("end", [just_close, reset])
def test_one_that_dies_before_that_has_nothing(server, authority, end, enough):
    server.end, server.enough = end, enough
    with pytest.raises(Away):
        deliver(server, authority, 300)


def test_one_that_only_closes_its_half_has_nothing(server, authority):
    # More than fits into what the kernels keep: not all is sent before it is closed.
    server.first = lambda connection: socket.socket.shutdown(connection, socket.SHUT_WR)
    with pytest.raises(Away, match="before it had everything"):
        deliver(server, authority, 60_000)


@pytest.mark.parametrize("leave", [leave_first, say_farewell_unread])
@pytest.mark.parametrize("count", [1, 300])
def test_a_farewell_that_is_no_answer_to_ours_is_no_receipt(server, authority, leave, count):
    server.first = leave
    with pytest.raises(Away):
        deliver(server, authority, count)


def test_what_is_cut_off_from_our_side_isn_t_delivered(server, authority):
    read = threading.Event()

    def hold(connection: ssl.SSLSocket) -> None:
        connection.recv(1000)
        read.set()
        threading.Event().wait(0.5)

    server.first = hold
    target = Target("siem", f"tls://localhost:{server.port}", authorities=authority.file)

    async def main() -> None:
        sink = open_sink(target, "", SystemClock())
        delivery = asyncio.create_task(sink.deliver(make_messages(1)))
        await asyncio.to_thread(read.wait, 5)
        await sink.close()
        with pytest.raises(Away):
            await delivery

    asyncio.run(main())


def test_what_is_cut_off_before_it_is_connected_isn_t_delivered(server, authority):
    target = Target("siem", f"tls://localhost:{server.port}", authorities=authority.file)
    exchange = _Exchange(target, parse_place("syslog", target.url))
    exchange.abort()
    with pytest.raises(Away, match="given up"):
        exchange.run(b"1 x")
    assert server.received == []


@pytest.mark.parametrize("count", [1, 20_000])
def test_one_that_never_reads_is_given_up(server, authority, count):
    server.first = lambda connection: threading.Event().wait(3) and None
    with pytest.raises(Away, match="stood still for 1 seconds"):
        deliver(server, authority, count, timeout=1.0)


def test_one_that_doesn_t_shake_hands_is_given_up(server, authority):
    server.hangs = True
    with pytest.raises(Away, match="stood still"):
        deliver(server, authority, 1, timeout=0.5)


def test_somebody_else_isn_t_told_anything(server, tmp_path):
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    with pytest.raises(Away, match="isn't who it should be"):
        deliver(server, Authority(stranger), 1)
    assert server.received == []


def test_the_name_must_be_the_receiver_s(server, authority):
    target = Target("siem", f"tls://[::1]:{server.port}", authorities=authority.file)
    other = Target("siem", f"tls://127.0.0.2:{server.port}", authorities=authority.file)
    for one in (target, other):
        with pytest.raises(Away):
            asyncio.run(open_sink(one, "", SystemClock()).deliver(make_messages(1)))
    assert server.received == []


def test_we_show_who_we_are_where_that_is_wanted(authority):
    server = FakeSyslog(authority, mutual=True)
    try:
        with pytest.raises(Away):
            deliver(server, authority, 1)
        certificate, key = authority.issue("troth")
        deliver(server, authority, 3, certificate=certificate, key=key)
        assert server.numbers == [1, 2, 3]
        assert server.clients[-1]
    finally:
        server.close()


def test_a_renewed_certificate_is_taken_with_the_next_batch(authority):
    server = FakeSyslog(authority, mutual=True)
    try:
        certificate, key = authority.issue("troth")
        deliver(server, authority, 1, certificate=certificate, key=key)
        for old, new in zip((certificate, key), authority.issue("troth"), strict=True):
            old.write_bytes(new.read_bytes())
        deliver(server, authority, 1, certificate=certificate, key=key)
        assert server.clients[0] != server.clients[1]
    finally:
        server.close()


@pytest.mark.parametrize("content", [None, "", "nothing of the kind"])
def test_files_that_can_t_be_used_are_a_reason_to_wait(server, authority, tmp_path, content):
    certificate, key = authority.issue("troth")
    if content is None:
        key.unlink()
    else:
        key.write_text(content)
    with pytest.raises(Away, match="files for TLS"):
        deliver(server, authority, 1, certificate=certificate, key=key)


def test_nobody_listens(authority, server):
    server.close()
    with pytest.raises(Away, match="refused"):
        deliver(server, authority, 1)
