"""Sinks are fed this server's decisions, on both engines, however late they come for them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.decisions import make_record, make_records
from tests.fakes.house import FakeHouse, open_house
from tests.fakes.sinks import PORTRAYER, FakeReceiver, make_outlet
from tests.fakes.stores import ENGINES, make_url
from troth.archive.log import DecisionLog
from troth.archive.resuming import make_place
from troth.core.entropy import SeededEntropy
from troth.operations.decisionlog import CloseSegments
from troth.operations.decisionsource import DecisionSource, find_last_fed, find_oldest_needed
from troth.operations.sinking import ITEMS, FeedSink
from troth.store.dead_letters import DeadLetter

SERVER = "test"


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return make_url(request.param, tmp_path)


class Desk:
    """A house whose decisions a sink gets."""

    def __init__(self, house: FakeHouse) -> None:
        self.house, self.receiver = house, FakeReceiver()
        self.feed = self.make_feed()

    def make_feed(self, *, from_now: bool = False, **options: Any) -> FeedSink:
        parts = self.house.parts
        source = DecisionSource(parts.store, parts.decisions, PORTRAYER, **options)
        outlet = make_outlet(self.receiver, self.house.clock)
        return FeedSink(parts.store, self.house.clock, outlet, source, None, from_now)

    async def decide(self, *sizes: int, start: int = 0) -> None:
        """A closed segment of each size."""
        log = self.house.parts.decisions
        for size in sizes:
            await log.append(make_records(size, start))
            await log.close_segment()
            start += size
        await CloseSegments(self.house.parts.store, self.house.clock, log)()

    async def letters(self) -> list[DeadLetter]:
        return await self.house.parts.store.read(lambda tx: tx.dead_letters.page("siem", 100))

    async def needed(self, *sinks: str) -> int | None:
        store = self.house.parts.store
        return await store.read(lambda tx: find_oldest_needed(tx, SERVER, sinks))


def run(tmp_path: Path, url: str, test: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with open_house(tmp_path, url=url) as house:
            await test(Desk(house))

    asyncio.run(main())


def ids(*numbers: int) -> list[str]:
    return [make_record(number).id for number in numbers]


def test_all_decisions_go_out_once_and_in_order(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        await desk.decide(ITEMS + 5, 3)
        await desk.house.parts.decisions.append(make_records(4, ITEMS + 8))
        await desk.feed()
        await desk.feed()
        assert desk.receiver.ids == ids(*range(ITEMS + 12))
        message = desk.receiver.taken[0]
        assert (message.source, message.type) == ("decisions/test", "decision")
        document = json.loads(message.content)
        assert document["class_name"] == "API Activity"
        assert document["metadata"]["uid"] == message.id
        await desk.make_feed()()
        assert len(desk.receiver.taken) == ITEMS + 12, "another process goes on from the cursor"

    run(tmp_path, url, test)


def test_those_that_were_denied_may_be_sent_alone(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        await desk.decide(7, 6)
        await desk.make_feed(denied=True)()
        assert desk.receiver.ids == ids(0, 3, 6, 9, 12)

    run(tmp_path, url, test)


def test_who_was_away_for_days_gets_what_the_archive_has_already(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        await desk.decide(5)
        await desk.feed()
        desk.receiver.away = "503"
        for day in range(4):
            await desk.decide(3, start=5 + 3 * day)
            desk.house.clock.advance(timedelta(days=1))
            await desk.feed()
            assert await desk.needed("siem") == 1
        for number in range(1, 5):
            desk.house.parts.decisions.mark_packed(number)
        desk.receiver.away = ""
        desk.house.clock.advance(timedelta(minutes=2))
        await desk.feed()
        assert desk.receiver.ids == ids(*range(17))
        assert await desk.needed("siem") == 5

    run(tmp_path, url, test)


def test_what_was_removed_before_it_could_be_sent_is_counted_and_named(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        log = desk.house.parts.decisions
        await log.append(make_records(3))
        await desk.feed()
        await log.append(make_records(2, 3))
        await log.close_segment()
        await desk.decide(4, 6, start=5)
        await desk.house.settle()
        log.remove(1)
        log.remove(2)
        await desk.feed()
        assert desk.receiver.ids == ids(0, 1, 2, *range(9, 15))
        (letter,) = await desk.letters()
        assert letter.source == "decisions/test"
        assert letter.reason.startswith("6 decisions of the segments 1 to 2 had been removed")

    run(tmp_path, url, test)


def test_what_is_removed_while_it_is_looked_for_is_named_too(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        await desk.decide(1, 2, 3)
        await desk.house.settle()
        source = desk.make_feed().source
        reader = source._reader  # type: ignore[attr-defined]
        read = reader.read

        def remove_first(*given: Any) -> Any:
            desk.house.parts.decisions.remove(2)
            return read(*given)

        def remove_after(*given: Any) -> Any:
            found = read(*given)
            desk.house.parts.decisions.remove(3)
            return found

        reader.read = remove_first
        batch = await source.read(make_place(1, 1))
        assert [bool(one.message) for one in batch.items] == [False, True, True, True]
        assert "2 decisions of the segments 2 to 2" in batch.items[0].problem
        await desk.decide(1, start=6)
        reader.read = remove_after
        batch = await source.read(make_place(3, 0))
        assert all(one.message for one in batch.items), "what was read isn't lost"

    run(tmp_path, url, test)


def test_numbers_that_no_segment_ever_had_are_no_loss(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        await desk.decide(2)
        await desk.feed()
        desk.house.parts.decisions._number += 3  # as after writes that failed
        await desk.decide(2, start=2)
        await desk.house.settle()
        await desk.feed()
        assert desk.receiver.ids == ids(0, 1, 2, 3)
        assert await desk.letters() == []

    run(tmp_path, url, test)


def test_a_new_sink_begins_with_what_there_is_or_with_what_comes(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        await desk.decide(2, 3)
        await desk.house.settle()
        desk.house.parts.decisions.remove(1)
        await desk.feed()
        assert desk.receiver.ids == ids(2, 3, 4)
        assert await desk.letters() == []

    async def from_now(desk: Desk) -> None:
        await desk.decide(2, 3)
        feed = desk.make_feed(from_now=True)
        await feed()
        await desk.house.parts.decisions.append(make_records(1, 5))
        await feed()
        assert desk.receiver.ids == ids(5)

    for number, one in enumerate((test, from_now)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run(folder, make_url("sqlite", folder) if url.startswith("sqlite") else url, one)


def test_who_begins_with_what_comes_gets_the_first_decision_of_all(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        feed = desk.make_feed(from_now=True)
        await feed()
        await desk.house.parts.decisions.append(make_records(2))
        await feed()
        assert desk.receiver.ids == ids(0, 1)

        async def fail() -> int:
            raise AssertionError("where it began is known")

        feed.source.find_end = fail  # type: ignore[method-assign]
        await desk.house.parts.decisions.append(make_records(1, 2))
        await feed()
        assert desk.receiver.ids == ids(0, 1, 2)

    run(tmp_path, url, test)


def test_one_that_is_refused_is_kept_to_be_sent_again(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        desk.receiver.refused = set(ids(1))
        await desk.decide(3)
        await desk.feed()
        assert desk.receiver.ids == ids(0, 2)
        (letter,) = await desk.letters()
        assert ids(1)[0].encode() in letter.content

    run(tmp_path, url, test)


def test_what_is_damaged_is_named_and_holds_up_nothing(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        await desk.decide(4, 2)
        path = desk.house.parts.decisions.folder / "0000000001.decisions"
        path.write_bytes(b"nothing of the kind")
        await desk.feed()
        assert desk.receiver.ids == ids(4, 5)
        assert "can't be read" in (await desk.letters())[0].reason

    run(tmp_path, url, test)


def test_where_the_files_are_lost_what_comes_then_is_behind_what_was_sent(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        parts = desk.house.parts
        await parts.decisions.append(make_records(3))
        await desk.feed()
        parts.decisions.close()
        shutil.rmtree(parts.decisions.folder)
        after = await find_last_fed(parts.store, SERVER, ["siem", "another"])
        log = DecisionLog(
            parts.decisions.folder, desk.house.clock, SeededEntropy(2), SERVER, after=after
        )
        await log.append(make_records(4, 3))
        source = DecisionSource(parts.store, log, PORTRAYER)
        await FeedSink(parts.store, desk.house.clock, desk.feed.outlet, source)()
        assert desk.receiver.ids == ids(*range(7))
        assert await desk.letters() == []
        log.close()

    run(tmp_path, url, test)


def test_what_nobody_needs_may_go(tmp_path: Path, url: str):
    async def test(desk: Desk) -> None:
        assert await desk.needed() is None
        assert await desk.needed("siem", "another") == 0
        await desk.decide(3)
        await desk.feed()
        assert await desk.needed("siem") == 1

    run(tmp_path, url, test)
