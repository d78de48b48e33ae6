"""Sinks are fed from the journal, on both engines: at least once, in order, whatever happens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.sinkfeeding import Server, run
from tests.fakes.sinks import PORTRAYER, FakeReceiver, make_outlet
from tests.fakes.stores import ENGINES, NOW, make_url
from troth.audit.entry import commit_detail, render_detail
from troth.core.clock import VirtualClock
from troth.core.errors import Unavailable
from troth.drivers.sinks import Format
from troth.operations.sinking import ITEMS, LEASE_TTL, FeedSink, find_needed
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


def test_everything_goes_out_once_and_in_order(server: Server):
    async def test() -> None:
        await server.record(2 * ITEMS + 7)
        await server.feed()
        await server.feed()
        await server.record(3)
        await server.feed()
        assert server.receiver.positions == list(range(1, 2 * ITEMS + 11))
        assert await server.cursor() == 2 * ITEMS + 10
        assert server.meter.shown == (0, 0.0)
        assert len(set(server.receiver.ids)) == 2 * ITEMS + 10

    run(test)


def test_where_nothing_is_new_the_database_isn_t_asked(server: Server):
    async def test() -> None:
        await server.record(3)
        await server.feed()

        async def fail(*_: Any) -> Any:
            raise AssertionError("the database was asked")

        server.store.read = server.store.transact = fail  # type: ignore[method-assign,assignment]
        await server.feed()

    run(test)


def test_days_of_absence_cost_nothing_but_time(server: Server):
    async def test() -> None:
        await server.record(10)
        await server.feed()
        server.receiver.away = "503"
        for _ in range(3 * 24):
            await server.record(20)
            server.wait(3600)
            await server.feed()
        behind, lag = server.meter.shown
        since = (NOW + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
        assert since in (await server.trouble() or ""), "it stands still since the first attempt"
        assert behind == 3 * 24 * 20
        assert lag > 3 * 86_400 - 7200
        assert "503" in (await server.trouble() or "")
        server.receiver.away = ""
        server.wait()
        await server.feed()
        assert server.receiver.positions == list(range(1, 10 + 3 * 24 * 20 + 1))
        assert await server.trouble() is None
        assert server.meter.shown == (0, 0.0)

    run(test)


def test_trouble_that_another_one_noted_is_over_with_the_next_delivery(server: Server):
    async def test() -> None:
        await server.record(1)
        await server.feed()
        other = server.make_feed()
        server.receiver.away = "503"
        await server.record(1)
        await other()
        assert "503" in (await server.trouble() or "")
        server.receiver.away = ""
        await server.feed()
        assert await server.trouble() is None
        server.receiver.away = "503"
        await server.record(1)
        server.wait()
        await other()
        assert "503" in (await server.trouble() or "")

    run(test)


def test_what_is_there_and_not_saved_is_sent_again_with_the_same_id(server: Server):
    async def test() -> None:
        await server.record(5)
        transact = server.store.transact

        async def crash(function: Any) -> Any:
            if function.__name__ == "save":
                raise Unavailable("the database is away")
            return await transact(function)

        server.store.transact = crash  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await server.feed()
        server.store.transact = transact  # type: ignore[method-assign]
        await server.make_feed()()
        assert server.receiver.positions == [1, 2, 3, 4, 5] * 2
        assert len(set(server.receiver.ids)) == 5

    run(test)


def test_a_connection_cut_in_the_middle_repeats_at_the_seam_alone(server: Server):
    async def test() -> None:
        await server.record(10)
        server.receiver.cut_after = 4
        await server.feed()
        server.receiver.cut_after = None
        server.wait()
        await server.feed()
        assert server.receiver.positions == [1, 2, 3, 4, *range(1, 11)]

    run(test)


def test_one_that_is_refused_becomes_a_dead_letter_and_the_rest_goes_on(server: Server):
    async def test() -> None:
        await server.record(30)
        stored = await server.store.read(lambda tx: tx.journal.list_stored(0, 30))
        server.receiver.refused = {PORTRAYER.portray_event(stored[12]).id}
        await server.feed()
        assert server.receiver.positions == [n for n in range(1, 31) if n != 13]
        (letter,) = await server.letters()
        assert (letter.sink, letter.source, letter.position) == ("siem", "journal", 13)
        assert letter.reason == "something is wrong with it"
        assert letter.at == server.clock.now()
        assert b'"position":13' in letter.content
        assert server.meter.sent == [(29, 1, False)]
        head = await server.store.read(lambda tx: tx.journal.head())
        assert head == 30, "a sink's trouble is no event: it would be sent to that sink"

    run(test)


def test_what_is_larger_than_the_receiver_takes_is_a_dead_letter(server: Server):
    async def test() -> None:
        await server.record(1)
        await server.record(1, body={"text": "x" * 5000})
        await server.record(1)
        await server.make_feed(largest=4096)()
        assert server.receiver.positions == [1, 3]
        (letter,) = await server.letters()
        assert letter.position == 2
        assert "largest_bytes" in letter.reason

    run(test)


def test_what_can_t_be_rendered_holds_up_nothing(server: Server, monkeypatch: pytest.MonkeyPatch):
    async def test() -> None:
        await server.record(3)
        feed = server.make_feed()
        portrayer = replace(PORTRAYER, host="")
        real = portrayer.portray_event

        def break_for_two(event: Any) -> Any:
            if event.position == 2:
                raise ZeroDivisionError
            return real(event)

        broken = type("Broken", (), {"portray_event": staticmethod(break_for_two)})()
        feed.source._portrayer = broken  # type: ignore[attr-defined]
        await feed()
        assert server.receiver.positions == [1, 3]
        assert "can't be rendered" in (await server.letters())[0].reason

    run(test)


def test_types_that_nobody_wants_are_passed_over(server: Server):
    async def test() -> None:
        for number in range(6):
            await server.record(2, type="identity.retired" if number % 2 else "token.issued")
        await server.make_feed("identity.", "certificate.")()
        assert server.receiver.positions == [3, 4, 7, 8, 11, 12]
        assert await server.cursor() == 12

    run(test)


def test_a_sink_may_begin_with_what_happens_from_now_on(server: Server):
    async def test() -> None:
        await server.record(5)
        feed = server.make_feed(from_now=True)
        await feed()
        await server.record(2)
        await feed()
        await server.make_feed(from_now=True)()
        assert server.receiver.positions == [6, 7]

    run(test)


def test_where_nothing_happened_yet_the_first_event_of_all_is_one_from_now_on(server: Server):
    async def test() -> None:
        feed = server.make_feed(from_now=True)
        await feed()
        await server.record(2)
        await feed()
        assert server.receiver.positions == [1, 2]

    run(test)


def test_what_was_redacted_meanwhile_goes_out_without_persons(server: Server):
    async def test() -> None:
        await server.record(2)
        (event,) = await server.store.read(lambda tx: tx.journal.list_stored(1, 1))
        assert event.salt is not None
        id_before = PORTRAYER.portray_event(event).id
        digest = commit_detail(event.salt, render_detail(event))
        await server.store.transact(lambda tx: tx.journal.redact(2, digest))
        await server.feed()
        first, second = server.receiver.taken
        assert b"spiffe://example.org/0" in first.content
        assert b"spiffe://example.org/1" not in second.content
        assert second.id == id_before, "it is the same event still"

    run(test)


def test_a_dead_letter_forgets_what_is_redacted(server: Server):
    async def test() -> None:
        server.receiver.refuses_all = True
        await server.record(2)
        await server.feed()
        await server.store.transact(lambda tx: tx.dead_letters.redact("journal", 2))
        first, second = await server.letters()
        assert first.content
        assert second.content == b""

    run(test)


@pytest.mark.parametrize("format_", Format)
def test_a_message_holds_its_id(server: Server, format_: Format):
    async def test() -> None:
        await server.record(2)
        for event in await server.store.read(lambda tx: tx.journal.list_stored(0, 2)):
            message = replace(PORTRAYER, format=format_).portray_event(event)
            assert message.id == PORTRAYER.portray_event(event).id
            if format_ is Format.CEF:
                assert f" externalId={message.id} ".encode() in message.content
            else:
                assert json.loads(message.content)["metadata"]["uid"] == message.id

    run(test)


def test_another_event_at_the_same_position_has_another_id(server: Server):
    async def test() -> None:
        await server.record(1)
        (event,) = await server.store.read(lambda tx: tx.journal.list_stored(0, 1))
        other = event._replace(salt=bytes(16))  # as after a database that was set back
        assert PORTRAYER.portray_event(event).id != PORTRAYER.portray_event(other).id

    run(test)


def test_two_sinks_don_t_wait_for_each_other(server: Server):
    async def test() -> None:
        slow = FakeReceiver(hangs=True)
        source = server.make_feed().source
        outlet = make_outlet(slow, server.clock, patience=30.0)
        outlet.target = replace(outlet.target, name="slow")
        stuck = FeedSink(server.store, server.clock, outlet, source)
        await server.record(600)
        task = asyncio.create_task(stuck())
        await server.feed()
        assert server.receiver.positions == list(range(1, 601))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert slow.attempts == 1
        assert await server.store.read(lambda tx: tx.cursors.get("sink/slow/journal")) == 0

    run(test)


def test_batches_are_bounded_in_bytes(server: Server):
    async def test() -> None:
        await server.record(40, body={"text": "x" * 100_000})
        sizes = []

        async def deliver(batch: Any) -> Any:
            sizes.append(sum(len(one.content) for one in batch))
            return await send(batch)

        send = server.feed.outlet.send
        server.feed.outlet.send = deliver  # type: ignore[method-assign]
        await server.feed()
        assert server.receiver.positions == list(range(1, 41))
        assert max(sizes) < 1_300_000

    run(test)


def test_what_sinks_still_need_is_told(server: Server):
    async def test() -> None:
        await server.record(5)
        needed = await server.store.read(lambda tx: find_needed(tx, ["siem", "other"]))
        assert needed == 0
        await server.feed()
        needed = await server.store.read(lambda tx: find_needed(tx, ["siem"]))
        assert needed == 5
        assert await server.store.read(lambda tx: find_needed(tx, [])) is None

    run(test)


def test_of_two_servers_one_sends_until_it_is_gone(tmp_path: Path):
    clock, receiver = VirtualClock(NOW), FakeReceiver()
    url = make_url("postgresql", tmp_path)
    stores = [open_store(url, clock=clock) for _ in range(2)]
    a, b = (Server(store, clock, receiver, seed) for seed, store in enumerate(stores))

    async def test() -> None:
        await a.record(5)
        await b.look()
        await asyncio.gather(a.feed(), b.feed())
        assert receiver.positions == [1, 2, 3, 4, 5]
        first, other = (a, b) if a.meter.sent else (b, a)
        await first.record(5)
        await other.look()
        other.meter.shown = (9, 9.0)
        await other.feed()
        assert receiver.positions == [1, 2, 3, 4, 5], "the lease is the first one's still"
        assert other.meter.shown == (0, 0.0), "it shows nothing that it doesn't look after"
        await asyncio.to_thread(first.store.close)
        async with asyncio.timeout(10):  # the database notices in its own time
            while len(receiver.positions) == 5:
                await other.feed()
        assert receiver.positions == list(range(1, 11))
        await asyncio.to_thread(other.store.close)

    run(test)


def test_a_server_that_was_overtaken_gives_way(tmp_path: Path):
    clock, receiver = VirtualClock(NOW), FakeReceiver()
    url = make_url("postgresql", tmp_path)
    stores = [open_store(url, clock=clock) for _ in range(2)]
    a, b = (Server(store, clock, receiver, seed) for seed, store in enumerate(stores))

    async def test() -> None:
        await a.record(3)
        await b.look()
        send = a.feed.outlet.send

        async def stand_still(batch: Any) -> Any:
            outcome = await send(batch)
            clock.advance(LEASE_TTL + timedelta(seconds=1))  # it slept, as its machine did
            await b.record(3)
            await b.feed()
            return outcome

        a.feed.outlet.send = stand_still  # type: ignore[method-assign]
        await a.feed()
        assert receiver.positions == [1, 2, 3, 1, 2, 3, 4, 5, 6]
        assert await a.cursor() == 6
        for store in stores:
            await asyncio.to_thread(store.close)

    run(test)
