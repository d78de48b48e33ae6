"""The archive and the database, on both engines: packed once, kept as long as it must be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from tests.fakes.archivesite import DAY, KEPT, NOON, Site, fill_days, run
from tests.fakes.decisions import EVER, make_records
from tests.fakes.stores import ENGINES, make_url
from troth.archive.foreman import Foreman
from troth.archive.jobsheet import AnyStep, Done, PackSegment
from troth.archive.layout import Table
from troth.archive.segment import HEADER_SIZE
from troth.audit.query import Kind, Query
from troth.core.errors import Internal, Unavailable
from troth.operations.decisionlog import RemoveSegments
from troth.operations.packing import find_last_number, name_cursor


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return make_url(request.param, tmp_path)


def test_closed_segments_are_packed_and_go_with_the_run_after_the_next(tmp_path, url):
    async def test(site: Site) -> None:
        records = await site.record(5)
        await site.log.append(make_records(2, 50))
        await site.pack()
        assert site.list_ranges() == [(1, 1)]
        assert [one.number for one in site.log.list_packed()] == [1]
        assert site.log.unpacked.list_numbers() == [2]
        assert list(site.archive.scan(*EVER))[:5] == records
        await site.pack()
        assert len(site.hands.done) == 1
        await site.remove()
        assert [one.number for one in site.log.list_packed()] == [1]
        await site.remove()
        assert site.log.list_packed() == []
        assert list(site.archive.scan(*EVER))[:5] == records
        assert site.archive.find(records[2].id)[0] == records[2]
        assert await site.events("decisions.removed") == []

    run(tmp_path, url, test)


def test_a_segment_is_packed_once_its_root_is_in_the_journal(tmp_path, url):
    async def test(site: Site) -> None:
        await site.log.append(make_records(3))
        await site.log.close_segment()
        await site.pack()
        assert site.list_ranges() == []
        await site.close()
        await site.pack()
        assert site.list_ranges() == [(1, 1)]

    run(tmp_path, url, test)


def test_what_somebody_still_reads_is_not_removed_for_a_while(tmp_path, url):
    async def test(site: Site) -> None:
        await site.record(3)
        await site.record(3, 10)
        await site.pack()
        store = site.house.parts.store
        remove = RemoveSegments(store, site.clock, site.log, KEPT, needed=lambda tx: 2)
        await remove()
        await remove()
        assert [one.number for one in site.log.list_packed()] == [2]
        site.clock.advance(KEPT + DAY)
        await remove()
        assert site.log.list_packed() == []

    run(tmp_path, url, test)


def test_a_damaged_segment_stays_where_it_is_and_doesn_t_stop_others(tmp_path, url):
    async def test(site: Site) -> None:
        for part in range(3):
            await site.record(4, part * 10)
        path = site.log.find_path(2)
        data = bytearray(path.read_bytes())
        data[HEADER_SIZE + 50] ^= 1
        path.write_bytes(data)
        await site.pack()
        assert site.list_ranges() == [(1, 1), (3, 3)]
        assert site.log.unpacked.list_numbers() == [2]
        answer = site.archive.search(Query(*EVER, kind=Kind.DECISION), 100)
        assert len(answer.found) >= 8
        assert any("0000000002.decisions" in words for words in answer.damage)
        site.clock.advance(2 * DAY)
        await site.pack()
        assert site.list_ranges() == [(1, 1), (3, 3)]  # no file reaches over it
        data[HEADER_SIZE + 50] ^= 1  # the operator restores the file
        path.write_bytes(data)
        again = Site(site.house, tmp_path / "archive")
        await again.pack()
        assert site.log.unpacked.list_numbers() == []
        assert again.list_ranges() == [(1, 3)]
        assert len(list(again.archive.scan(*EVER))) == 12

    run(tmp_path, url, test)


def test_a_segment_that_fails_again_and_again_holds_up_nothing_else(tmp_path, url):
    async def test(site: Site) -> None:
        for part in range(4):
            await site.record(4, part * 10)
        do = site.hands.do

        async def fail_second(steps: Sequence[AnyStep]) -> AsyncGenerator[Done, None]:
            bad = PackSegment(str(site.log.find_path(2)))
            async for done in do([step for step in steps if step != bad]):
                step = done.step + (bad in steps and done.step >= steps.index(bad))
                yield msgspec.structs.replace(done, step=step)
            if bad in steps:
                yield Done(steps.index(bad), error="internal", detail="It doesn't come back.")

        site.hands.do = fail_second  # type: ignore[method-assign]
        with pytest.raises(Internal, match="doesn't come back"):
            await site.pack()
        assert site.log.unpacked.list_numbers() == [2]
        site.clock.advance(2 * DAY)
        with pytest.raises(Internal):
            await site.pack()
        assert site.list_ranges() == [(1, 1), (3, 4)]
        assert site.list_ranges(Table.EVENTS) != []
        site.hands.do = do  # type: ignore[method-assign]
        site.clock.advance(DAY)
        await site.pack()
        assert site.list_ranges() == [(1, 4)]
        assert len(list(site.archive.scan(*EVER))) == 16

    run(tmp_path, url, test)


@pytest.mark.parametrize("fail_at", range(5))
def test_a_worker_that_ends_at_any_step_loses_and_doubles_nothing(tmp_path, fail_at):
    async def test(site: Site) -> None:
        records = []
        for part in range(3):
            records += await site.record(4, part * 10)
        site.clock.advance(2 * DAY)
        site.hands.fail_at = fail_at
        with suppress(Unavailable):
            await site.pack()
        found = list(site.archive.scan(*EVER))
        assert sorted(one.id for one in found) == sorted(one.id for one in records)
        site.hands.fail_at = None
        again = Site(site.house, tmp_path / "archive")
        await again.pack()
        assert again.list_ranges() == [(1, 3)]
        found = list(again.archive.scan(*EVER))
        assert sorted(one.id for one in found) == sorted(one.id for one in records)

    run(tmp_path, make_url("sqlite", tmp_path), test)


def test_events_are_packed_once_they_are_many_or_old(tmp_path, url):
    async def test(site: Site) -> None:
        await site.house.register("payments")
        await site.house.settle()
        head = await site.house.parts.store.read(lambda tx: tx.journal.head())
        await site.pack()
        assert site.archive.find_last_event() == 0
        site.clock.advance(timedelta(hours=1))
        await site.pack()
        assert site.archive.find_last_event() == head
        assert site.list_ranges(Table.EVENTS) == [(1, head)]
        await site.pack()
        assert site.list_ranges(Table.EVENTS) == [(1, head)]
        answer = site.archive.search(Query(*EVER, action="identity."), 10)
        assert [one.action for one in answer.found] == ["identity.registered"]
        stored = await site.house.parts.store.read(lambda tx: tx.journal.list_stored(0, 100))
        whole = site.archive.search(Query(*EVER, kind=Kind.EVENT), 100)
        assert {one.id for one in whole.found} == {str(one.position) for one in stored}

    run(tmp_path, url, test)


def test_an_event_that_is_redacted_while_it_is_packed_is_redacted_in_the_archive(tmp_path, url):
    async def test(site: Site) -> None:
        await site.house.register("payments")
        await site.house.settle()
        site.clock.advance(timedelta(hours=2))
        do = site.hands.do

        async def redact_and_do(steps: Sequence[AnyStep]) -> AsyncGenerator[Done, None]:
            store = site.house.parts.store
            found = await store.read(lambda tx: tx.journal.find_stored(1))
            assert found is not None
            if found.salt is not None:
                await store.transact(lambda tx: tx.journal.redact(1, b"d" * 32))
            async for done in do(steps):
                yield done

        site.hands.do = redact_and_do  # type: ignore[method-assign]
        await site.pack()
        (found,) = [one for one in site.archive.search(Query(*EVER), 100).found if one.id == "1"]
        assert found.redacted
        assert found.detail == {}

    run(tmp_path, url, test)


def test_past_days_are_put_together_and_today_isn_t(tmp_path, url):
    async def test(site: Site) -> None:
        for part in range(2):
            await site.record(3, part * 10)
        await site.pack()
        assert site.list_ranges() == [(1, 1), (2, 2)]
        site.clock.advance(timedelta(hours=13))  # an hour into the next day
        await site.record(3, 30)
        await site.record(3, 40)
        await site.pack()
        assert site.list_ranges() == [(1, 1), (2, 2), (3, 3), (4, 4)]
        site.clock.advance(timedelta(hours=1, minutes=1))
        await site.pack()
        assert site.list_ranges() == [(1, 2), (3, 3), (4, 4)]

    run(tmp_path, url, test)


def test_a_past_month_is_counted_and_goes_with_its_first_day(tmp_path, url):
    async def test(site: Site) -> None:
        await fill_days(site, 3)
        assert site.list_ranges(Table.MONTHS) == []
        site.clock.advance(29 * DAY)  # April, the second
        await site.pack()
        assert site.list_ranges(Table.MONTHS) == [(1, 3)]
        steps = len(site.hands.done)
        await site.pack()
        assert len(site.hands.done) == steps
        await replace(site.remove_days, kept=31 * DAY)()
        assert site.list_days() == [NOON.date() + n * DAY for n in (1, 2)]
        assert site.list_ranges(Table.MONTHS) == []
        await site.pack()
        assert site.list_ranges(Table.MONTHS) == [(2, 3)]

    run(tmp_path, url, test)


def test_the_archive_knows_which_numbers_are_taken(tmp_path, url):
    async def test(site: Site) -> None:
        await site.record(3)
        await site.record(3, 10)
        await site.pack()
        assert find_last_number(site.depot, "test") == 2
        assert find_last_number(site.depot, "other") == 0

    run(tmp_path, url, test)


def test_two_servers_with_folders_of_their_own_each_pack_all_events(tmp_path):
    async def test(site: Site) -> None:
        await site.house.register("payments")
        site.clock.advance(timedelta(hours=2))
        await site.house.settle()
        one = Site(site.house, tmp_path / "one", "aaaa")
        two = Site(site.house, tmp_path / "two", "bbbb")
        await one.pack()
        await two.pack()
        assert one.list_ranges(Table.EVENTS) == two.list_ranges(Table.EVENTS) != []
        assert name_cursor("aaaa") != name_cursor("bbbb") != name_cursor("")

    run(tmp_path, make_url("sqlite", tmp_path), test)


# The process


def test_a_process_packs_and_ends(tmp_path):
    async def test(site: Site) -> None:
        records = await site.record(50)
        where = tmp_path / "archive"
        foreman = Foreman(str(where), str(where / ".work"), 256 << 20)
        path = str(site.log.find_path(1))
        done = [one async for one in foreman.do([PackSegment(path), PackSegment(path + "x")])]
        assert (done[0].count, done[0].error) == (50, "")
        assert done[1].error == Unavailable.code
        modes = {path.stat().st_mode & 0o777 for path in where.rglob("*")}
        assert modes == {0o700, 0o600}
        site.log.mark_packed(1)
        assert list(site.archive.scan(*EVER)) == records
        assert foreman.redact_event(7) is False

    run(tmp_path, make_url("sqlite", tmp_path), test)


def test_a_process_that_is_killed_is_told_and_leaves_nothing_half(tmp_path):
    """SIGKILL at whatever it is doing: what it left is done again by the next one."""

    async def test(site: Site) -> None:
        where = tmp_path / "archive"
        records = []
        for part in range(4):
            records += await site.record(400, part * 1000)
        steps = [PackSegment(str(site.log.find_path(number))) for number in range(1, 5)]
        foreman = Foreman(str(where), str(where / ".work"), 256 << 20)
        for patience in (0.05, 0.2, 0.35, 0.5, 0.7):
            doing = asyncio.create_task(_take_all(foreman, steps))
            done, _ = await asyncio.wait([doing], timeout=patience)
            if not done:
                doing.cancel()  # which kills the process
                with suppress(asyncio.CancelledError):
                    await doing
            assert len(list(site.archive.scan(*EVER))) == 1600
        assert [one.count for one in await _take_all(foreman, steps)] == [400] * 4
        for number in range(1, 5):
            site.log.mark_packed(number)
        found = list(site.archive.scan(*EVER))
        assert sorted(one.id for one in found) == sorted(one.id for one in records)
        assert sorted(path.name for path in (where / ".work").iterdir()) == [".lock"]

    run(tmp_path, make_url("sqlite", tmp_path), test)


async def _take_all(foreman: Foreman, steps: Sequence[AnyStep]) -> list[Done]:
    return [one async for one in foreman.do(steps)]
