"""The decision log's segments and the journal, on both engines: each root once, whatever fails."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.decisions import EVER, make_record, make_records, verify_proof
from tests.fakes.house import FakeHouse, open_house
from tests.fakes.stores import ENGINES, make_url
from troth.archive.log import SEGMENT_SPAN, DecisionLog
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Unavailable
from troth.operations.decisionlog import CloseSegments, RemoveSegments, find_last_journaled
from troth.store.engine import Store

KEPT = timedelta(days=90)


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return make_url(request.param, tmp_path)


async def close(house: FakeHouse, log: DecisionLog | None = None) -> None:
    await CloseSegments(house.parts.store, house.clock, log or house.parts.decisions)()


async def remove(house: FakeHouse) -> None:
    await RemoveSegments(house.parts.store, house.clock, house.parts.decisions, KEPT)()


async def fill(house: FakeHouse, *sizes: int) -> None:
    start = 0
    for size in sizes:
        await house.parts.decisions.append(make_records(size, start))
        await house.parts.decisions.close_segment()
        start += size


async def bodies(house: FakeHouse, kind: str = "decisions.closed") -> list[dict[str, Any]]:
    return [dict(event.body) for event in await house.events(kind)]


def reopen(house: FakeHouse, after: int = 0) -> DecisionLog:
    """What the next process would open."""
    log = house.parts.decisions
    log.close()
    return DecisionLog(log._folder, house.clock, SeededEntropy(2), "test", after=after)


def run(tmp_path: Path, url: str, test: Callable[[FakeHouse], Any], **given: Any) -> None:
    async def main() -> None:
        async with open_house(tmp_path, url=url, **given) as house:
            await test(house)

    asyncio.run(main())


def test_a_closed_segment_is_in_the_journal_once(tmp_path, url):
    async def test(house: FakeHouse) -> None:
        log = house.parts.decisions
        await fill(house, 3, 2)
        await log.append([make_record(5)])
        for _ in range(3):
            await close(house)
        first, second = await bodies(house)
        assert first == {
            "server": "test",
            "segment": 1,
            "size": 3,
            "bytes": log.list_closed()[0].size,
            "root": log.list_closed()[0].footer.root.hex(),
            "first": make_record(0).at.isoformat(),
            "last": make_record(2).at.isoformat(),
            "cut": 0,
            "damaged": 0,
        }
        assert (second["segment"], second["size"]) == (2, 2)
        proof = log.find_proof(make_record(4).id)
        assert verify_proof(proof, bytes.fromhex(second["root"])) == make_record(4)

    run(tmp_path, url, test)


def test_an_open_segment_is_closed_when_it_is_due(tmp_path, url):
    async def test(house: FakeHouse) -> None:
        await house.parts.decisions.append(make_records(2))
        house.clock.advance(SEGMENT_SPAN - timedelta(seconds=1))
        await close(house)
        assert await bodies(house) == []
        house.clock.advance(timedelta(seconds=1))
        await close(house)
        assert [body["size"] for body in await bodies(house)] == [2]

    run(tmp_path, url, test)


def test_a_segment_that_a_crash_left_open_is_journaled_after_it(tmp_path, url):
    async def test(house: FakeHouse) -> None:
        log = house.parts.decisions
        await fill(house, 1)
        await close(house)
        await log.append(make_records(3, 1))
        left = log._folder / "0000000002.decisions"
        data = left.read_bytes()
        log.close()
        left.write_bytes(data[:-5])  # as the crash left it: no footer, the last record torn
        after = await find_last_journaled(house.parts.store, "test")
        assert after == 1
        again = reopen(house, after)
        try:
            await close(house, again)
            await close(house, again)
            _, body = await bodies(house)
            assert (body["segment"], body["size"]) == (2, 2)
            assert body["cut"] > 200
            assert [one.id for one in again.scan(*EVER)] == [make_record(n).id for n in range(3)]
        finally:
            again.close()

    run(tmp_path, url, test)


class LostAnswer:
    """A store whose commit succeeds, and whose process ends before it hears of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read = store.read

    async def transact(self, function: Callable[..., Any]) -> None:
        await self._store.transact(function)
        raise Unavailable("gone")


def test_a_crash_right_after_the_commit_makes_no_second_event(tmp_path, url):
    async def test(house: FakeHouse) -> None:
        await fill(house, 1, 1)
        lost: Any = LostAnswer(house.parts.store)
        with pytest.raises(Unavailable):
            await CloseSegments(lost, house.clock, house.parts.decisions)()
        assert [body["segment"] for body in await bodies(house)] == [1]
        again = reopen(house)
        try:
            await close(house, again)
        finally:
            again.close()
        assert [body["segment"] for body in await bodies(house)] == [1, 2]

    run(tmp_path, url, test)


def test_two_runs_at_once_make_one_event(tmp_path, url):
    async def test(house: FakeHouse) -> None:
        await fill(house, 1, 1, 1)
        await asyncio.gather(*(close(house) for _ in range(4)), return_exceptions=True)
        await close(house)
        assert [body["segment"] for body in await bodies(house)] == [1, 2, 3]

    run(tmp_path, url, test)


def test_numbers_go_on_where_the_folder_was_lost(tmp_path, url):
    async def test(house: FakeHouse) -> None:
        await fill(house, 1, 1)
        await close(house)
        house.parts.decisions.close()
        shutil.rmtree(house.parts.decisions._folder)
        again = reopen(house, await find_last_journaled(house.parts.store, "test"))
        try:
            await again.append([make_record(7)])
            await again.close_segment()
            await close(house, again)
        finally:
            again.close()
        assert [body["segment"] for body in await bodies(house)] == [1, 2, 3]

    run(tmp_path, url, test)


def test_old_segments_are_removed_and_that_is_journaled_first(tmp_path, url):
    async def test(house: FakeHouse) -> None:
        log = house.parts.decisions
        await fill(house, 1, 2)
        house.clock.advance(timedelta(days=1))
        await fill(house, 3)
        house.clock.advance(KEPT)
        await remove(house)
        assert await bodies(house, "decisions.removed") == []  # none is journaled yet
        await close(house)
        lost: Any = LostAnswer(house.parts.store)
        with pytest.raises(Unavailable):
            await RemoveSegments(lost, house.clock, log, KEPT)()
        assert [one.number for one in log.list_closed()] == [1, 2, 3]
        for _ in range(2):
            await remove(house)
        assert [one.number for one in log.list_closed()] == [3]
        removed = await bodies(house, "decisions.removed")
        assert [body["segment"] for body in removed] == [1, 2]
        closed = await bodies(house)
        assert [body["root"] for body in removed] == [body["root"] for body in closed[:2]]
        house.clock.advance(timedelta(seconds=1))
        await remove(house)
        assert log.list_closed() == []

    run(tmp_path, url, test, clock=VirtualClock())
