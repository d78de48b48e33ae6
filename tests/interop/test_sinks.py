"""Other people's receivers get every event in order, however often they stop, crash and come back.

rsyslogd over mutual TLS, nats-server with JetStream, the OpenTelemetry collector's own receiver and
a Kafka-compatible broker, all unmodified, fed from a real journal.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes.authority import Authority
from tests.fakes.kafkaserver import KafkaServer
from tests.fakes.messages import drop_repeats
from tests.fakes.natsserver import NatsServer
from tests.fakes.otlpserver import OtlpServer
from tests.fakes.rsyslog import Rsyslog
from tests.fakes.sinkfeeding import Server
from tests.fakes.sinks import PORTRAYER, FakeReceiver
from tests.fakes.stores import NOW, make_url
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.drivers.sinks import Format, Target
from troth.operations.journalsource import JournalSource
from troth.operations.outlet import Outlet
from troth.operations.sinking import ITEMS, FeedSink
from troth.store.engine import open_store

pytestmark = pytest.mark.interop

ROUNDS = (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)


@dataclass
class Case:
    """A receiver, how it is reached, and what it has: the sequence numbers, in its order."""

    driver: str
    receiver: Any
    target: Target
    list_numbers: Callable[[], list[int]]
    repeats: bool = True


def read_sequence(content: bytes | str) -> int:
    document = msgspec.json.decode(content)
    number = document["metadata"]["sequence"]
    assert document["metadata"]["uid"].startswith(f"{number}-")
    assert document["message"].startswith("identity.registered: spiffe://example.org/")
    return int(number)


def make_rsyslog(folder: Path) -> Case:
    authority = Authority(folder)
    certificate, key = authority.issue("troth")
    receiver = Rsyslog(folder / "rsyslog", authority, mutual=True)
    receiver.start()
    target = Target(
        "siem",
        receiver.url,
        authorities=authority.file,
        certificate=certificate,
        key=key,
        timeout=10.0,
    )
    return Case(
        "syslog",
        receiver,
        target,
        lambda: [read_sequence(line[line.index(b"{") :]) for line in receiver.list_lines()],
    )


def make_nats(folder: Path) -> Case:
    receiver = NatsServer(folder / "nats")
    receiver.start()
    receiver.add_stream()
    return Case(
        "nats",
        receiver,
        Target("siem", receiver.url, timeout=10.0),
        lambda: list(map(read_sequence, receiver.list_contents())),
        repeats=False,
    )


def make_kafka(folder: Path) -> Case:
    authority = Authority(folder)
    certificate, key = authority.issue("troth")
    receiver = KafkaServer(folder / "kafka", authority)
    receiver.start()
    target = Target(
        "siem",
        receiver.url,
        authorities=authority.file,
        certificate=certificate,
        key=key,
        timeout=3.0,
    )
    return Case(
        "kafka", receiver, target, lambda: list(map(read_sequence, receiver.list_contents()))
    )


def make_otlp(folder: Path) -> Case:
    receiver = OtlpServer(folder / "otlp")
    receiver.start()
    return Case(
        "otlp",
        receiver,
        Target("siem", receiver.url, timeout=10.0),
        lambda: [read_sequence(one["body"]) for one in receiver.list_records()],
    )


@pytest.fixture(params=[make_rsyslog, make_nats, make_kafka, make_otlp], ids=lambda m: m.__name__)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    made = request.param(tmp_path)
    yield made
    made.receiver.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    clock = VirtualClock(NOW)
    store = open_store(make_url("sqlite", tmp_path), clock=clock)
    yield Server(store, clock, FakeReceiver())
    store.close()


def make_feed(server: Server, case: Case, format: Format = Format.OCSF) -> FeedSink:
    snapshot: Any = server.snapshot
    portrayer = replace(PORTRAYER, format=format)
    source = JournalSource(server.store, snapshot, portrayer)
    outlet = Outlet(
        case.target, case.driver, server.clock, SeededEntropy(), patience=case.target.timeout + 5
    )
    return FeedSink(server.store, server.clock, outlet, source)


async def feed_until_done(server: Server, feed: FeedSink) -> None:
    for _ in range(20):
        server.wait()
        await feed()
        if await server.cursor() == server.snapshot.epoch:
            return
    raise AssertionError(f"it stands still: {feed.outlet.trouble}")


class Saboteur:
    """Ends the receiver while one of the next batches is on its way."""

    def __init__(self, feed: FeedSink, case: Case, batch: int, how: int) -> None:
        self._outlet: Any = feed.outlet
        self._send = self._outlet.send
        self._case, self._left, self._how = case, batch, how
        self._end: asyncio.Future[None] | None = None
        setattr(feed.outlet, "send", self.send)  # noqa: B010 - it is a method

    async def send(self, batch: Any) -> Any:
        if self._left == 0:
            stop = asyncio.to_thread(self._case.receiver.stop, self._how)
            self._end = asyncio.ensure_future(stop)
        self._left -= 1
        return await self._send(batch)

    async def finish(self) -> None:
        assert self._end is not None
        await self._end
        self._outlet.send = self._send


@pytest.mark.slow
def test_after_every_outage_all_events_are_there_in_order(case: Case, server: Server):
    async def test() -> None:
        feed = make_feed(server, case)
        for number, how in enumerate(ROUNDS):
            await server.record(4 * ITEMS)
            saboteur = Saboteur(feed, case, number % 3, how)
            server.wait()
            await feed()
            await saboteur.finish()
            await server.record(1)
            server.wait()
            await feed()
            assert feed.outlet.trouble
            await asyncio.to_thread(case.receiver.start)
            await feed_until_done(server, feed)
        await feed.outlet.close()

    asyncio.run(test())
    found = case.list_numbers()
    wanted = list(range(1, server.snapshot.epoch + 1))
    assert len(wanted) == (4 * ITEMS + 1) * len(ROUNDS)
    assert drop_repeats(found) == wanted
    if not case.repeats:
        assert found == wanted, "the stream knows what it has"


def test_days_without_a_receiver_are_made_up_for(case: Case, server: Server):
    async def test() -> None:
        feed = make_feed(server, case)
        await server.record(10)
        await feed()
        await asyncio.to_thread(case.receiver.stop)
        for _ in range(5):
            await server.record(100)
            server.wait(86_400)
            await feed()
        await feed.outlet.close()
        # The server was restarted too.
        again = make_feed(server, case)
        await asyncio.to_thread(case.receiver.start)
        await feed_until_done(server, again)
        await again.outlet.close()

    asyncio.run(test())
    assert case.list_numbers() == list(range(1, 511))


def test_rsyslog_takes_cef(tmp_path: Path, server: Server):
    case = make_rsyslog(tmp_path)

    async def test() -> None:
        feed = make_feed(server, case, Format.CEF)
        await server.record(3, body={"reason": "a=b|c\\d\ne", "source": "10.0.0.1:99"})
        await feed()

    try:
        asyncio.run(test())
        lines = case.receiver.list_lines()
    finally:
        case.receiver.stop()
    assert len(lines) == 3
    head, _, extension = lines[0].partition(b" msg=")
    assert b"CEF:0|troth|troth|1.2.3|identity.registered|Account Change: Create|1|" in head
    assert b"reason=a\\=b|c\\\\d\\ne " in head
    assert b"src=10.0.0.1 spt=99" in head
    assert extension.startswith(b"identity.registered: ")


def test_a_stream_that_others_publish_to_is_in_order_too(tmp_path: Path, server: Server):
    case = make_nats(tmp_path)

    async def test() -> None:
        import nats

        client = await nats.connect(f"nats://localhost:{case.receiver.port}")
        stream = client.jetstream()
        await stream.update_stream(name="TROTH", subjects=["troth.events", "other"])
        feed = make_feed(server, case)
        await server.record(3 * ITEMS)

        async def disturb() -> None:
            for _ in range(200):
                await stream.publish("other", b"x")

        await asyncio.gather(feed(), disturb())
        assert await server.cursor() == 3 * ITEMS
        await feed.outlet.close()
        await client.close()

    try:
        asyncio.run(test())
        assert case.list_numbers() == list(range(1, 3 * ITEMS + 1))
    finally:
        case.receiver.stop()
