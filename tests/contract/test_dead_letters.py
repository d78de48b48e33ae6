"""What every engine promises about dead letters, and what operators do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.decisions import make_record
from tests.fakes.house import FakeHouse, open_house
from tests.fakes.sinks import PORTRAYER, FakeReceiver, make_outlet
from tests.fakes.stores import ENGINES, NOW, make_event, make_url
from troth.archive.record import encode_record
from troth.core.errors import Denied, Invalid, NotFound
from troth.operations.call import Caller
from troth.operations.journalsource import JournalSource, keep_event
from troth.operations.sink import DropDeadLetters, ListDeadLetters, ListSinks, RetryDeadLetters
from troth.operations.sinking import Channel, FeedSink
from troth.store.dead_letters import DeadLetter
from troth.store.engine import Transaction
from troth.wire.api import sinks as wire
from troth.wire.api.routes import ROUTES

LETTER = DeadLetter("siem", "journal", 7, NOW, "no room", b"content \x00")
OTHERS = "decisions/other"


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return make_url(request.param, tmp_path)


class Desk:
    """A house with one sink, and the operations about it."""

    def __init__(self, house: FakeHouse, receiver: FakeReceiver) -> None:
        self.house, self.receiver = house, receiver
        parts = house.parts
        outlet = make_outlet(receiver, house.clock)
        source = JournalSource(parts.store, parts.snapshot, PORTRAYER)
        self.channel = Channel(outlet, PORTRAYER, (source,), 1 << 20)
        self.feed = FeedSink(parts.store, house.clock, outlet, source)
        channels = (self.channel,)
        self.operations: dict[str, Any] = {
            "sink.ls": ListSinks(parts.store, channels),
            "dead_letter.ls": ListDeadLetters(parts.store),
            "dead_letter.retry": RetryDeadLetters(parts.store, house.clock, channels),
            "dead_letter.drop": DropDeadLetters(parts.store, house.clock),
        }
        known = {**house.dispatcher.operations, **self.operations}
        house.dispatcher = replace(house.dispatcher, operations=known)

    async def call(self, name: str, role: str = "admin", **body: Any) -> Any:
        request = next(route.request for route in ROUTES if route.name == name)
        caller = Caller("uid:0", frozenset({role}), source="test")
        return await self.house.call(name, request(**body), caller)

    async def record(self, count: int) -> None:
        events = [make_event(number, type="token.issued") for number in range(count)]
        await self.house.parts.store.transact(lambda tx: tx.journal.append_all(events))
        await self.house.settle()

    async def add(self, *letters: DeadLetter) -> None:
        await self.house.parts.store.transact(lambda tx: tx.dead_letters.add_all(letters))

    async def last_event(self) -> Any:
        await self.house.settle()
        (sealed,) = await self.house.parts.store.read(lambda tx: tx.journal.recent(1))
        return sealed.event


def read_page(after: tuple[str, int], tx: Transaction) -> list[DeadLetter]:
    return tx.dead_letters.page("siem", 2, after)


def run(tmp_path: Path, url: str, test: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with open_house(tmp_path, url=url) as house:
            await test(Desk(house, FakeReceiver()))

    asyncio.run(main())


def test_letters_come_back_as_they_were_page_by_page(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        letters = [replace(LETTER, position=number) for number in (1, 2, 10, 2**62)]
        letters.insert(0, replace(LETTER, source=OTHERS, position=5))
        await desk.add(*letters)
        await desk.add(replace(LETTER, position=2, reason="another"), replace(LETTER, sink="a"))
        store = desk.house.parts.store
        assert await store.read(lambda tx: tx.dead_letters.page("siem", 10)) == letters
        for after in (1, 3):
            last = (letters[after].source, letters[after].position)
            page = await store.read(partial(read_page, last))
            assert page == letters[after + 1 : after + 3]
        assert await store.read(lambda tx: tx.dead_letters.count()) == {"siem": 5, "a": 1}

    run(tmp_path, url, test)


def test_a_refused_event_is_listed_sent_again_and_gone(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        desk.receiver.refuses_all = True
        await desk.record(3)
        await desk.feed()
        page = await desk.call("dead_letter.ls", sink="siem", limit=2)
        assert page.more
        assert [(one.type, one.source) for one in page.items][-1][1] == "journal"
        assert all(one.id == str(one.position) for one in page.items)
        count = (await desk.call("sink.ls")).items[0].dead_letters
        assert count >= 3
        first = page.items[0].position
        refused = await desk.call(
            "dead_letter.retry", sink="siem", source="journal", position=first
        )
        assert (refused.done, refused.refused, refused.left) == (0, 1, count)
        desk.receiver.refuses_all = False
        done = await desk.call("dead_letter.retry", sink="siem", source="journal", position=first)
        assert (done.done, done.refused, done.left) == (1, 0, count - 1)
        assert desk.receiver.positions == [first]
        event = await desk.last_event()
        assert (event.type, event.subject) == ("dead_letter.retried", "siem")
        assert (event.body["delivered"], event.body["refused"]) == (1, 0)
        done = await desk.call("dead_letter.retry", sink="siem", all=True)
        assert (done.done, done.left) == (count - 1, 0)
        assert sorted(desk.receiver.positions) == list(range(1, count + 1))

    run(tmp_path, url, test)


def test_a_receiver_that_is_away_ends_it_and_loses_nothing(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        desk.receiver.refuses_all = True
        await desk.record(2)
        await desk.feed()
        desk.receiver.refuses_all, desk.receiver.away = False, "503"
        before = (await desk.call("sink.ls")).items[0].dead_letters
        done = await desk.call("dead_letter.retry", sink="siem", all=True)
        assert (done.done, done.refused, done.left, done.trouble) == (0, 0, before, "503")

    run(tmp_path, url, test)


def test_what_is_refused_again_holds_up_none_behind_it(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        desk.receiver.refuses_all = True
        await desk.record(5)
        await desk.feed()
        desk.receiver.refuses_all = False
        store = desk.house.parts.store
        letters = await store.read(lambda tx: tx.dead_letters.page("siem", 100))
        events = await store.read(lambda tx: tx.journal.list_stored(0, 100))
        desk.receiver.refused = {PORTRAYER.portray_event(one).id for one in events[:2]}
        answers = [await desk.call("dead_letter.retry", sink="siem", all=True, limit=2)]
        while after := answers[-1].next:
            assert len(answers) < len(letters)
            answers.append(
                await desk.call("dead_letter.retry", sink="siem", all=True, limit=2, after=after)
            )
        assert [(one.done, one.refused) for one in answers[:2]] == [(0, 2), (2, 0)]
        assert sum(one.done for one in answers) == len(letters) - 2
        assert answers[-1].left == 2
        with pytest.raises(Invalid, match="next"):
            await desk.call("dead_letter.retry", sink="siem", all=True, after="7")

    run(tmp_path, url, test)


def test_one_call_doesn_t_last_for_ever_and_another_goes_on(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        desk.receiver.refuses_all = True
        await desk.record(3)
        await desk.feed()
        desk.receiver.refuses_all = False
        count = (await desk.call("sink.ls")).items[0].dead_letters
        desk.receiver.before = lambda: desk.house.clock.advance(timedelta(seconds=6))
        done = await desk.call("dead_letter.retry", sink="siem", all=True)
        assert (done.done, done.left) == (2, count - 2)
        desk.receiver.before = None
        done = await desk.call("dead_letter.retry", sink="siem", all=True, after=done.next)
        assert (done.done, done.left, done.next) == (count - 2, 0, "")

    run(tmp_path, url, test)


def test_one_that_can_t_be_rendered_holds_up_none_behind_it(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        desk.receiver.refuses_all = True
        await desk.record(2)
        await desk.feed()
        desk.receiver.refuses_all = False
        real = desk.channel.portrayer

        def break_first(event: Any) -> Any:
            if event.position == 1:
                raise ZeroDivisionError
            return real.portray_event(event)

        broken = type("Broken", (), {"portray_event": staticmethod(break_first)})()
        object.__setattr__(desk.channel, "portrayer", broken)
        count = (await desk.call("sink.ls")).items[0].dead_letters
        done = await desk.call("dead_letter.retry", sink="siem", all=True)
        assert (done.done, done.refused, done.left) == (count - 1, 1, 1)
        assert (await desk.last_event()).type == "dead_letter.retried"

    run(tmp_path, url, test)


def test_what_was_redacted_is_sent_again_as_the_journal_has_it(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        await desk.record(1)
        head = desk.house.parts.snapshot.epoch
        await desk.add(replace(LETTER, position=head, content=b""))
        await desk.add(replace(LETTER, position=head + 1000, content=b""))
        done = await desk.call("dead_letter.retry", sink="siem", all=True)
        assert (done.done, done.refused) == (1, 1)
        assert desk.receiver.positions == [head]

    run(tmp_path, url, test)


def test_a_decision_is_sent_again_from_what_was_kept_of_it(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        _, entry = encode_record(make_record(3))
        await desk.add(
            replace(LETTER, source=OTHERS, position=3, content=entry),
            replace(LETTER, source=OTHERS, position=4, content=b""),
            replace(LETTER, source=OTHERS, position=5, content=b"\xff"),
            replace(LETTER, source="journal", position=6, content=b"\xff"),
        )
        page = await desk.call("dead_letter.ls", sink="siem")
        assert [one.id for one in page.items] == [make_record(3).id, "", "", ""]
        assert page.items[0].type == "decision"
        done = await desk.call("dead_letter.retry", sink="siem", all=True)
        assert (done.done, done.refused, done.left) == (1, 3, 3)
        assert desk.receiver.ids == [make_record(3).id]
        assert desk.receiver.taken[0].source == OTHERS

    run(tmp_path, url, test)


def test_what_is_dropped_is_on_record(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        await desk.add(LETTER, replace(LETTER, position=8), replace(LETTER, sink="gone"))
        done = await desk.call("dead_letter.drop", sink="siem", source="journal", position=8)
        assert (done.done, done.left) == (1, 1)
        event = await desk.last_event()
        assert (event.type, event.actor) == ("dead_letter.dropped", "uid:0")
        assert event.body["letters"] == ["journal/8"]
        done = await desk.call("dead_letter.drop", sink="gone", all=True)
        assert (done.done, done.left) == (1, 0)

    run(tmp_path, url, test)


def test_one_is_named_or_all_are_meant(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        await desk.add(LETTER)
        for name in ("dead_letter.retry", "dead_letter.drop"):
            for odd in (
                {},
                {"source": "journal"},
                {"position": 7},
                {"all": True, "source": "journal", "position": 7},
            ):
                with pytest.raises(Invalid):
                    await desk.call(name, sink="siem", **odd)
            with pytest.raises(NotFound, match="no dead letter journal/9"):
                await desk.call(name, sink="siem", source="journal", position=9)
        with pytest.raises(NotFound, match="no sink 'gone'"):
            await desk.call("dead_letter.retry", sink="gone", all=True)

    run(tmp_path, url, test)


def test_auditors_may_look_and_administrators_act(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        await desk.add(LETTER)
        found: wire.SinkList = await desk.call("sink.ls", role="auditor")
        (sink,) = found.items
        assert (sink.name, sink.driver, sink.where, sink.format) == (
            "siem",
            "fake",
            "https://siem.example.org/",
            "ocsf",
        )
        assert sink.dead_letters == 1
        assert sink.sources[0].behind == desk.house.parts.snapshot.epoch
        assert len((await desk.call("dead_letter.ls", role="auditor", sink="siem")).items) == 1
        for role in ("auditor", "operator"):
            for name in ("dead_letter.retry", "dead_letter.drop"):
                with pytest.raises(Denied):
                    await desk.call(name, role=role, sink="siem", all=True)

    run(tmp_path, url, test)


def test_a_sink_that_stands_still_says_why_and_since_when(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        desk.receiver.away = "it answered 503"
        since = desk.house.clock.now()
        await desk.record(1)
        await desk.feed()
        (source,) = (await desk.call("sink.ls")).items[0].sources
        assert (source.position, source.trouble, source.since) == (0, "it answered 503", since)

    run(tmp_path, url, test)


def test_an_event_is_kept_whole():
    from troth.audit.entry import StoredEvent
    from troth.operations.journalsource import revive_event

    event = StoredEvent(1, "a.bed", 1, "s", "a", 5, "req", '{"b":"\\u00e9"}', b"\x00" * 16, None)
    assert revive_event(keep_event(event)) == event
    with pytest.raises(Invalid):
        revive_event(b"[]")
