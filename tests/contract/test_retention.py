"""Retention of the archive and legal holds, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest

from tests.fakes.archivesite import DAY, KEPT, NOON, Site, fill_days, run
from tests.fakes.decisions import make_record
from tests.fakes.stores import ENGINES, make_url
from troth.archive.jobsheet import AnyStep, Done, PackEvents
from troth.archive.layout import Table
from troth.audit.entry import StoredEvent
from troth.core.errors import Conflict, Invalid, NotFound
from troth.operations.packing import do_all
from troth.wire.api import holds as wire


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return make_url(request.param, tmp_path)


def test_days_that_are_too_old_are_removed_and_that_is_journaled_first(tmp_path, url):
    async def test(site: Site) -> None:
        await fill_days(site, 4)
        await site.remove_days()
        assert len(site.list_days()) == 4
        site.clock.advance(KEPT - timedelta(days=2))
        await site.remove_days()
        assert site.list_days() == [NOON.date() + n * DAY for n in (2, 3)]
        for table in (Table.TOUCHED, Table.IDS):
            assert site.list_days(table) == site.list_days()
        told = [one for one in await site.events("archive.removed") if one["table"] == "decisions"]
        assert [one["day"] for one in told] == ["2027-03-01", "2027-03-02"]
        closed = await site.events("decisions.closed")
        assert told[0]["segments"] == [{"server": "test", "segment": 1, "root": closed[0]["root"]}]
        assert told[0]["rows"] == 2
        assert told[0]["bytes"] > 1000
        await site.remove_days()
        assert len(await site.events("archive.removed")) == len(
            await site.events("archive.removed")
        )

    run(tmp_path, url, test)


def test_what_a_hold_keeps_stays_until_it_is_released(tmp_path, url):
    async def test(site: Site) -> None:
        call = site.house.call
        await fill_days(site, 4)
        day = NOON.replace(hour=0) + DAY
        placed = await call(
            "hold.place",
            wire.PlaceHold(name="case-1", since=day + DAY / 2, until=day + DAY, reason="a letter"),
        )
        assert placed.placed_by == "uid:0"
        site.clock.advance(KEPT + 10 * DAY)
        await site.remove_days()
        assert site.list_days() == [day.date()]
        assert day.date() in site.list_days(Table.EVENTS)
        listed = await call("hold.ls", wire.ListHolds())
        assert [one.name for one in listed.items] == ["case-1"]
        await call("hold.release", wire.ReleaseHold(name="case-1", reason="closed"))
        await site.remove_days()
        assert site.list_days() == []
        events = [event.type for event in await site.house.events("hold.")]
        assert events == ["hold.placed", "hold.released"]

    run(tmp_path, url, test)


def test_a_hold_without_an_end_keeps_all_that_comes_and_segments_too(tmp_path, url):
    async def test(site: Site) -> None:
        await site.house.call(
            "hold.place", wire.PlaceHold(name="all", since=NOON - DAY, reason="a letter")
        )
        await site.record(3)  # and never packed
        site.clock.advance(KEPT * 4)
        await site.remove()
        assert [one.number for one in site.log.list_closed()] == [1]
        await site.house.call("hold.release", wire.ReleaseHold(name="all", reason="closed"))
        await site.remove()
        assert site.log.list_closed() == []
        assert [one["segment"] for one in await site.events("decisions.removed")] == [1]

    run(tmp_path, url, test)


async def fill_midnights(site: Site, days: int) -> list[str]:
    """A packed segment over each midnight, and the ids of the decisions after it."""
    ids = []
    for day in range(days):
        midnight = datetime.combine(NOON.date() + (day + 1) * DAY, time(), UTC)
        site.clock.advance(midnight + timedelta(minutes=10) - site.clock.now())
        some = [make_record(day * 10 + n, at=midnight + timedelta(minutes=n - 2)) for n in range(4)]
        await site.log.append(some)
        await site.log.close_segment()
        await site.close()
        await site.house.settle()
        await site.pack()
        ids += [one.id for one in some[2:]]
    site.clock.advance(DAY)
    await site.pack()
    return ids


def test_a_day_stays_while_what_is_kept_is_proved_by_it(tmp_path, url):
    async def test(site: Site) -> None:
        ids = await fill_midnights(site, 4)
        days = site.list_days()
        assert days == [NOON.date() + n * DAY for n in range(5)]
        site.clock.advance(KEPT - timedelta(days=2, hours=12))
        await site.remove_days()
        assert site.list_days() == days[1:]  # by its age the first of them could go
        for one in ids[2:]:
            assert site.archive.find(one)[1] is not None
        site.clock.advance(3 * DAY)
        await site.remove_days()
        assert site.list_days() == []

    run(tmp_path, url, test)


def test_a_hold_keeps_the_days_that_prove_what_it_keeps(tmp_path, url):
    async def test(site: Site) -> None:
        ids = await fill_midnights(site, 4)
        days = site.list_days()
        middle = datetime.combine(days[2], time(12), UTC)
        hold = wire.PlaceHold(name="x", since=middle, until=middle + DAY / 4, reason="why")
        await site.house.call("hold.place", hold)
        site.clock.advance(KEPT + 10 * DAY)
        await site.remove_days()
        assert site.list_days() == days[1:4]
        for one in ids[2:4]:
            assert site.archive.find(one)[1] is not None
        await site.house.call("hold.release", wire.ReleaseHold(name="x", reason="done"))
        await site.remove_days()
        assert site.list_days() == []

    run(tmp_path, url, test)


def test_days_of_a_clock_that_was_wrong_stay_as_long_as_others(tmp_path, url):
    async def test(site: Site) -> None:
        await fill_days(site, 1)
        wrong = make_record(50, at=NOON - 2000 * DAY)
        await site.log.append([wrong])
        await site.log.close_segment()
        await site.close()
        await site.pack()
        late = StoredEvent(10_000, "x.y", 1, "", "", 1_000_000, "", "{}", b"s", None)
        await do_all(site.hands, [PackEvents([late])])
        assert site.list_days()[0] == wrong.at.date()
        await site.remove_days()
        assert site.archive.find(wrong.id)[1] is not None
        assert date(1970, 1, 1) in site.list_days(Table.EVENTS)
        site.clock.advance(KEPT + 2 * DAY)
        await site.remove_days()
        assert site.list_days() == []
        assert date(1970, 1, 1) not in site.list_days(Table.EVENTS)

    run(tmp_path, url, test)


def test_a_hold_that_is_placed_during_the_removal_wins(tmp_path, url):
    async def test(site: Site) -> None:
        await fill_days(site, 1)
        site.clock.advance(KEPT + 10 * DAY)
        do = site.hands.do

        async def place_and_do(steps: Sequence[AnyStep]) -> AsyncGenerator[Done, None]:
            with suppress(Conflict):
                await site.house.call(
                    "hold.place", wire.PlaceHold(name="late", since=NOON - DAY, reason="late")
                )
            async for done in do(steps):
                yield done

        site.hands.do = place_and_do  # type: ignore[method-assign]
        await site.remove_days()
        assert len(site.list_days()) == 1
        assert await site.events("archive.removed") == []

    run(tmp_path, url, test)


def test_a_hold_that_is_placed_while_old_segments_are_removed_wins(tmp_path, url):
    async def test(site: Site) -> None:
        for _ in range(2):
            await site.record(2)
        site.clock.advance(KEPT + DAY)
        remove = site.log.remove

        def place_and_remove(number: int) -> None:
            hold = wire.PlaceHold(name="late", since=NOON - DAY, reason="late")
            asyncio.run_coroutine_threadsafe(site.house.call("hold.place", hold), loop).result(10)
            remove(number)

        loop = asyncio.get_running_loop()
        site.log.remove = place_and_remove  # type: ignore[method-assign]
        await site.remove()
        assert [one.number for one in site.log.list_closed()] == [2]
        assert [one["segment"] for one in await site.events("decisions.removed")] == [1]

    run(tmp_path, url, test)


def test_holds_are_checked(tmp_path, url):
    async def test(site: Site) -> None:
        call = site.house.call
        with pytest.raises(Invalid, match="keep nothing"):
            await call("hold.place", wire.PlaceHold(name="x", since=NOON, until=NOON, reason="why"))
        with pytest.raises(Invalid, match="no time zone"):
            await call(
                "hold.place",
                wire.PlaceHold(name="x", since=NOON.replace(tzinfo=None), reason="why"),
            )
        await call("hold.place", wire.PlaceHold(name="x", since=NOON, reason="why"))
        with pytest.raises(Conflict, match="'x' already"):
            await call("hold.place", wire.PlaceHold(name="x", since=NOON, reason="why"))
        with pytest.raises(NotFound, match="hold ls"):
            await call("hold.release", wire.ReleaseHold(name="y", reason="why"))

    run(tmp_path, url, test)
