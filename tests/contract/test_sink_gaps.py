"""What was deleted from the journal before a sink had it is told once, on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.fakes.sinkfeeding import Server, run
from tests.fakes.sinks import FakeReceiver
from tests.fakes.stores import ENGINES, NOW, make_url
from troth.core.clock import VirtualClock
from troth.operations.sinking import ITEMS
from troth.store.engine import open_store


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return make_url(request.param, tmp_path)


@pytest.fixture
def server(url: str) -> Iterator[Server]:
    clock = VirtualClock(NOW)
    store = open_store(url, clock=clock)
    yield Server(store, clock, FakeReceiver())
    store.close()


def test_what_was_deleted_before_it_could_be_sent_is_named_once(server: Server):
    async def test() -> None:
        await server.record(5)
        await server.feed()
        server.receiver.away = "503"
        for number in range(40):
            await server.record(
                5, type="authority.activated" if number % 4 == 0 else "token.issued"
            )
        await server.store.transact(
            lambda tx: tx.journal.trim(
                150, server.clock.now() + timedelta(days=1), 1000, keep=["authority."]
            )
        )
        await server.record(1, type="journal.trimmed", body={"rows": 110, "last": 150})
        server.receiver.away = ""
        server.wait()
        await server.feed()
        kept = [n for n in range(6, 151) if (n - 6) // 5 % 4 == 0]
        assert server.receiver.positions == [1, 2, 3, 4, 5, *kept, *range(151, 207)]
        (letter,) = await server.letters()
        assert "positions 11 to 150" in letter.reason
        assert letter.content == b""

    run(test)


def test_what_is_missing_is_named_when_it_is_told_and_not_when_it_is_read(server: Server):
    async def test() -> None:
        await server.record(30)
        server.receiver.cut_after = 3
        await server.feed()  # nothing of it counts
        await server.store.transact(
            lambda tx: tx.journal.trim(
                20, server.clock.now() + timedelta(days=1), 1000, keep=["authority."]
            )
        )
        await server.record(1, type="journal.trimmed", body={"rows": 20, "last": 20})
        server.wait()
        read = server.feed.source.read
        await read(5)  # and nobody got it
        server.receiver.cut_after = None
        batch = await read(5)
        assert [one.position for one in batch.items if one.message is None] == [20]
        again = await read(batch.end)
        assert not again.items

    run(test)


def test_gaps_among_what_is_kept_are_told_of_once_also_over_batches(server: Server):
    async def test() -> None:
        for _ in range(ITEMS):
            await server.record(1, type="authority.activated")
            await server.record(1)
            await server.record(1)
        await server.feed()
        await server.record(3)
        feed = server.make_feed()
        source = feed.source
        await server.store.transact(
            lambda tx: tx.journal.trim(
                3 * ITEMS, server.clock.now() + timedelta(days=1), 1000, keep=["authority."]
            )
        )
        last = 3 * ITEMS
        await server.record(1, type="journal.trimmed", body={"rows": 2, "last": last})
        position, told = 1, []
        while (batch := await source.read(position)).end != position:
            told += [one.position for one in batch.items if one.message is None]
            await source.read(position)  # as after a receiver that was away
            position = batch.end
        assert told == [3]

    run(test)


def test_a_new_sink_misses_nothing_that_was_there_before_it(server: Server):
    async def test() -> None:
        await server.record(20)
        await server.store.transact(
            lambda tx: tx.journal.trim(10, server.clock.now() + timedelta(days=1), 1000)
        )
        await server.record(1, type="journal.trimmed", body={"rows": 10, "last": 10})
        await server.feed()
        assert server.receiver.positions == list(range(11, 22))
        assert await server.letters() == []

    run(test)
