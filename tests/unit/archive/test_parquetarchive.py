"""The archive as a whole: days put together, damage named, pages, plain readers, redactions."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.fakes.archivehouse import ArchiveHouse, make_event
from tests.fakes.decisions import EVER, NOON, make_record, make_records
from troth.archive import lookup, pages, parquetarchive
from troth.archive.engine import Bounds, Engine
from troth.archive.layout import Table
from troth.archive.parquetarchive import ParquetArchive, split_days
from troth.audit.query import Query
from troth.core.errors import Limited, TooLarge

DAY = timedelta(days=1)
EVERYTHING = Query(*EVER)


@pytest.fixture
def house(tmp_path: Path) -> Any:
    made = ArchiveHouse(tmp_path)
    yield made
    made.close()


def fill(house: ArchiveHouse, days: int = 3, each: int = 10) -> list[Any]:
    """A segment a day, packed; the records."""
    records = [
        make_record(day * each + n, at=NOON + day * DAY + timedelta(seconds=n))
        for day in range(days)
        for n in range(each)
    ]
    for day in range(days):
        asyncio.run(house.pack_all(records[day * each : (day + 1) * each]))
    return records


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


# Days


def test_a_day_s_pieces_become_one_file_with_the_same_in_it(house):
    for part in range(4):
        asyncio.run(house.pack_all(make_records(20, part * 20)))
    before = list(house.archive.scan(*EVER))
    assert len(house.list_files()) == 4
    assert house.compact() == 4
    (file,) = house.list_files()
    assert (file.first, file.last) == (1, 4)
    assert list(house.archive.scan(*EVER)) == before == make_records(80)
    for table in (Table.TOUCHED, Table.IDS):
        assert house.list_files(table) == [file.beside(table)]
    assert house.compact() == 0
    found, proof = house.archive.find(before[33].id)
    assert found == before[33]
    assert proof is not None
    assert proof.size == 20


def test_no_file_reaches_over_a_segment_that_is_still_to_come(house):
    numbers = [asyncio.run(house.close_with(make_records(5, part * 5))) for part in range(5)]
    for number in (1, 2, 4, 5):
        house.pack(number)
    day = house.list_files()[0].day
    assert house.compactor.compact_day(Table.DECISIONS, "a1b2c3d4", day, [3]) == 4
    assert [(one.first, one.last) for one in house.list_files()] == [(1, 2), (4, 5)]
    assert len(list(house.archive.scan(*EVER))) == 25
    house.pack(numbers[2])
    assert house.compact() == 3
    assert [(one.first, one.last) for one in house.list_files()] == [(1, 5)]
    assert list(house.archive.scan(*EVER)) == make_records(25)


def test_no_file_reaches_over_a_segment_that_was_moved_away_and_is_restored_later(house):
    for part in range(3):
        asyncio.run(house.close_with(make_records(5, part * 5)))
    two = house.log.find_path(2)
    away = two.rename(two.with_name("away"))
    house.pack(1)
    house.pack(3)
    assert house.compact() == 0
    away.rename(two)
    house.pack(2)
    assert len(list(house.archive.scan(*EVER))) == 15
    assert house.compact() == 3
    house.log.remove(2)
    assert [(one.first, one.last) for one in house.list_files()] == [(1, 3)]
    assert list(house.archive.scan(*EVER)) == make_records(15)


def test_a_file_reaches_over_a_segment_that_other_days_have_as_a_whole(house):
    later = [make_record(5 + n, at=NOON + (1 + n) * DAY) for n in range(2)]
    for records in (make_records(5), later, make_records(5, 10)):
        asyncio.run(house.pack_all(records))
    paths = house.list_paths()
    away = paths[-1].rename(house.root / "away")
    assert house.compact() == 0  # a part of segment 2 is missing: it may be of this day
    paths[-1].parent.mkdir(exist_ok=True)
    away.rename(paths[-1])
    assert house.compact() == 2
    assert [(one.first, one.last) for one in house.list_files()] == [(1, 3), (2, 2), (2, 2)]
    assert len(list(house.archive.scan(*EVER))) == 12


@pytest.mark.parametrize("after", range(7))
def test_a_crash_while_a_day_is_put_together_counts_nothing_twice(house, monkeypatch, after):
    for part in range(3):
        asyncio.run(house.pack_all(make_records(5, part * 5)))

    class Crash(BaseException):
        pass

    left = [after]
    put, remove = house.depot.put, house.depot.remove

    def crash_later(function: Any) -> Any:
        def call(*args: Any) -> Any:
            if left[0] == 0:
                raise Crash
            left[0] -= 1
            return function(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(house.depot, "put", crash_later(put))
        patch.setattr(house.depot, "remove", crash_later(remove))
        with pytest.raises(Crash):
            house.compact()
    assert list(house.archive.scan(*EVER)) == make_records(15)
    assert len(house.archive.search(EVERYTHING, 100).found) == 15
    (touch,) = [
        one for one in house.archive.who_touched("orders", *EVER).found if one.outcome == "success"
    ]
    assert touch.times == 10
    house.compact()
    assert [len(house.list_files(one)) for one in (Table.DECISIONS, Table.TOUCHED)] == [1, 1]
    assert list(house.archive.scan(*EVER)) == make_records(15)


def test_late_decisions_of_an_old_day_are_found_beside_it(house):
    fill(house, days=1)
    house.compact()
    asyncio.run(house.pack_all([make_record(100, at=NOON)]))
    asyncio.run(house.pack_all([make_record(101, at=NOON)]))
    assert len(list(house.archive.scan(*EVER))) == 12
    assert house.compact() == 3
    assert len(list(house.archive.scan(*EVER))) == 12


def test_a_month_s_touches_are_counted_once_for_all(house):
    """The month's file is used for a whole month alone, and while it counts the very files that
    there are."""
    begin = datetime(2026, 2, 1, tzinfo=UTC)
    for day in range(28):
        at = begin + day * DAY + timedelta(hours=day % 24)
        records = [
            make_record(day * 9 + n, at=at, subject=f"s-{n % 3}", resource=f"r-{n % 2}")
            for n in range(9)
        ]
        asyncio.run(house.pack_all(records))
    month = date(2026, 2, 1)
    spans = [(begin, begin + 28 * DAY), (begin, begin + 27 * DAY), (begin - DAY, begin + 90 * DAY)]
    asked = [(f"r-{n}", *span) for n in range(3) for span in spans]
    before = [house.archive.who_touched(*one).found for one in asked]
    assert sum(one.times for one in before[0]) == 28 * 5
    assert house.compactor.roll_month("a1b2c3d4", month) == 28
    assert house.compactor.roll_month("a1b2c3d4", month) == 0
    assert [house.archive.who_touched(*one).found for one in asked] == before

    # It is read, and nothing of the days is.
    for path in house.list_paths() + house.list_paths(Table.TOUCHED):
        flip(path, 10)
    fresh = ParquetArchive(
        house.depot, Engine(house.depot, Bounds()), house.clock, house.log, lambda _: False
    )
    whole = fresh.who_touched("r-1", *spans[0])
    assert (whole.found, whole.damage) == (before[3], ())
    assert fresh.who_touched("r-1", *spans[1]).damage != ()
    for path in house.list_paths() + house.list_paths(Table.TOUCHED):
        flip(path, 10)

    # A late decision, or a damaged file of the month: the days tell.
    asyncio.run(house.pack_all([make_record(999, at=begin, subject="s-0", resource="r-1")]))
    found = house.archive.who_touched("r-1", *spans[0]).found
    assert sum(one.times for one in found) == sum(one.times for one in before[3]) + 1
    house.compact()
    assert house.compactor.roll_month("a1b2c3d4", month) == 28
    assert house.archive.who_touched("r-1", *spans[0]).found == found
    (path,) = house.list_paths(Table.MONTHS)
    flip(path, path.stat().st_size - 20)
    fresh = ParquetArchive(
        house.depot, Engine(house.depot, Bounds()), house.clock, house.log, lambda _: False
    )
    answer = fresh.who_touched("r-1", *spans[0])
    assert answer.found == found
    assert f"{path} is damaged" in answer.damage[0]


def test_days_are_looked_at_in_growing_groups():
    from troth.archive.layout import ArchiveFile

    files = [
        ArchiveFile(Table.DECISIONS, date(2026, 1, 1) + n * DAY, "a", n, n) for n in range(200)
    ]
    groups = split_days(files)
    assert [day for group in groups for day in reversed(group)] == sorted(
        {file.day for file in files}, reverse=True
    )
    assert [len(group) for group in groups] == [1, 1, 2, 4, 8, 16, 32, 64, 64, 8]


# Bounds


def test_a_search_over_an_empty_period_finds_nothing(house):
    fill(house, days=1)
    for since, until in ((EVER[1], EVER[0]), (NOON, NOON), (NOON - 2 * DAY, NOON - DAY)):
        answer = house.archive.search(Query(since, until), 10)
        assert (answer.found, answer.following, answer.damage) == ((), None, ())
        assert house.archive.who_touched("orders", since, until).found == ()
        assert list(house.archive.scan(since, until)) == []


def test_texts_of_an_attacker_are_texts(house):
    fill(house, days=1)
    evil = "'; DROP TABLE x; --"
    for words in (evil, "%", "_", "\\", "\x00", "\ud800", '"', "=cmd|' /C calc'!A0", "é" * 5000):
        for name in ("identity", "resource", "action", "request_id", "task", "text"):
            if (name, words) == ("text", "_"):
                continue
            given: Any = {name: words}
            answer = house.archive.search(Query(*EVER, **given), 10, names=(words,))
            assert answer.found == (), (name, words)
        assert house.archive.who_touched(words, *EVER).found == ()
    assert len(house.archive.search(Query(*EVER, text="_"), 100).found) == 10


def test_too_many_searches_at_once_are_told_to_come_back(house):
    fill(house, days=1)
    bounds = Bounds(queries=1, patience=0.01)
    engine = Engine(house.depot, bounds)
    archive = ParquetArchive(house.depot, engine, house.clock, house.log, lambda _: False)
    with engine.connect(), pytest.raises(Limited, match="ask again"):
        archive.search(EVERYTHING, 10)
    assert len(archive.search(EVERYTHING, 100).found) == 10


def test_a_search_that_takes_too_long_or_too_much_is_given_up(house):
    engine = Engine(house.depot, Bounds(memory=64 << 20, seconds=0.05))
    with engine.connect() as link:
        with pytest.raises(TooLarge, match="ask for less time"):
            link.run("SELECT sum(hash(n)) FROM range(100000000000) AS r(n)")
        with pytest.raises(TooLarge):
            link.run("SELECT list(hash(n)) FROM range(100000000) AS r(n)")
        assert link.run("SELECT 1") == [(1,)]


def test_the_engine_reaches_no_other_file_and_no_network(house, tmp_path):
    (tmp_path / "secret.csv").write_text("secret")
    for sql in (
        f"SELECT * FROM read_text('{tmp_path}/secret.csv')",
        f"SELECT * FROM read_csv('{tmp_path}/secret.csv')",
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        "INSTALL httpfs",
        "SELECT * FROM read_parquet('https://example.org/x.parquet')",
        f"ATTACH '{tmp_path}/x.db'",
    ):
        engine = Engine(house.depot, Bounds())
        with engine.connect() as link, pytest.raises(Exception, match=r"can't answer|read"):
            link.run(sql)
    assert not (tmp_path / "out.csv").exists()


def test_a_page_ends_when_it_has_taken_long_and_goes_on_behind_it(house, monkeypatch):
    records = fill(house, days=6)
    monkeypatch.setattr(parquetarchive, "PAGE_SECONDS", -1.0)
    found: list[str] = []
    count, after = 0, None
    while count == 0 or after is not None:
        answer = house.archive.search(EVERYTHING, 100, after)
        found += [one.id for one in answer.found]
        count, after = count + 1, answer.following
    assert count > 3
    assert found == [one.id for one in sorted(records, key=lambda one: one.at, reverse=True)]


@pytest.mark.parametrize(("seconds", "most"), [(60.0, 1), (-1.0, 30)])
def test_rows_that_may_fit_are_read_some_at_a_time_and_not_for_too_long(
    house, monkeypatch, seconds, most
):
    """A text that SQL can't look for: every row has to be looked at."""
    reasons = {n: "zürich" if n in (7, 70, 71, 133, 199) else "für Müller" for n in range(200)}
    asyncio.run(house.pack_all([make_record(n, reason=reasons[n]) for n in range(190)]))
    asyncio.run(house.close_with([make_record(n, reason=reasons[n]) for n in range(190, 200)]))
    house.pack_events([make_event(n, NOON, body='{"name":"ü"}') for n in range(1, 60)])
    monkeypatch.setattr(parquetarchive, "PAGE_SECONDS", seconds)
    monkeypatch.setattr(pages, "SPARE", 5)
    monkeypatch.setattr(pages, "MOST_ROWS", 20)
    sizes: list[int] = []
    read = pages._read_newest

    def note(*args: Any) -> Any:
        rows = read(*args)
        sizes.append(len(rows))
        return rows

    monkeypatch.setattr(pages, "_read_newest", note)
    found: list[str] = []
    count, after = 0, None
    while count == 0 or after is not None:
        answer = house.archive.search(Query(*EVER, text="zürich"), 10, after)
        found += [one.id for one in answer.found]
        count, after = count + 1, answer.following
    assert found == [make_record(n).id for n in (199, 133, 71, 70, 7)]
    assert max(sizes) <= 20
    assert most / 3 < count <= most


@pytest.mark.parametrize("apart", [0, 1, 1_000, 300_000, 7_000_000, 3_000_000_000])
def test_a_scan_holds_so_many_decisions_at_most_however_they_lie(house, monkeypatch, apart):
    """`apart` is in microseconds: in a burst they lie close together."""
    monkeypatch.setattr(lookup, "WINDOW", 5)
    records = [make_record(n, at=NOON + timedelta(microseconds=n * apart)) for n in range(12)]
    records.append(make_record(99, at=NOON + timedelta(hours=11)))
    asyncio.run(house.pack_all(records))
    sizes: list[int] = []
    read = lookup.DayScan.read

    def note(*args: Any, **named: Any) -> Any:
        found = read(*args, **named)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(lookup.DayScan, "read", note)
    found = list(house.archive.scan(*EVER))
    assert sorted(found, key=lambda one: one.id) == sorted(records, key=lambda one: one.id)
    assert found == sorted(found, key=lambda one: one.at)
    assert max(sizes) <= (5 if apart else 12)


def test_searches_from_many_threads_agree(house):
    records = fill(house)
    house.compact()
    archive = ParquetArchive(
        house.depot,
        Engine(house.depot, Bounds(queries=4, patience=60)),
        house.clock,
        house.log,
        lambda _: False,
    )
    results: list[Any] = []

    def ask(number: int) -> None:
        one = records[number]
        results.append(archive.find(one.id)[0] == one)
        results.append(len(archive.search(Query(*EVER, resource="orders"), 100).found) == 30)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 16


# What there is


def test_how_far_events_are_packed_is_what_it_was_told(house):
    house.pack_events([make_event(n, NOON) for n in (4, 5)])
    assert house.archive.find_last_event() == 0
    house.archive.know_events(5)
    house.archive.know_events(4)
    assert house.archive.find_last_event() == 5


# Redaction


def test_a_redacted_event_keeps_its_position_and_commitment_alone(house):
    events = [make_event(n, NOON + n * DAY / 4) for n in range(1, 9)]
    house.pack_events(events[:4])
    house.pack_events(events[4:])
    before = house.archive.search(Query(*EVER, text="asked for"), 10)
    assert len(before.found) == 8
    assert house.archive.redact_event(3) is True
    assert house.archive.redact_event(99) is False
    found = {one.id: one for one in house.archive.search(EVERYTHING, 10).found}
    assert len(found) == 8
    gone = found["3"]
    assert gone.redacted
    assert (gone.actor, gone.subject, gone.reason, gone.source) == ("", "", "", "")
    assert (gone.detail, gone.action, gone.request_id) == ({}, "identity.changed", f"req_{3:024x}")
    assert len(house.archive.search(Query(*EVER, text="asked for"), 10).found) == 7
    for path in house.list_paths(Table.EVENTS):
        with duckdb.connect() as engine:
            rows = engine.execute(
                'SELECT metadata."sequence", octet_length(unmapped.commitment), unmapped.body '
                "FROM read_parquet(?, hive_partitioning = false)",
                [str(path)],
            ).fetchall()
        assert all(row[1] == 32 for row in rows)
        assert [row[2] for row in rows if row[0] == 3] in ([], ["{}"])
    house.compact(Table.EVENTS)
    again = {one.id: one for one in house.archive.search(EVERYTHING, 10).found}
    assert again == found


# Other readers


def test_many_redactions_list_the_files_and_write_each_once(house, monkeypatch):
    for first in (1, 11, 21):
        house.pack_events([make_event(n, NOON) for n in range(first, first + 10)])
    listed: list[Any] = []
    list_files = house.depot.list_files

    def note(*args: Any) -> Any:
        listed.append(args)
        return list_files(*args)

    monkeypatch.setattr(house.depot, "list_files", note)
    assert house.compactor.redact_events([3, 5, 9, 25, 99]) == 4
    assert len(listed) == 1
    assert [one.revision for one in house.list_files(Table.EVENTS)] == [1, 0, 1]
    assert house.compactor.redact_events([3, 25]) == 2
    assert [one.revision for one in house.list_files(Table.EVENTS)] == [1, 0, 1]
    found = house.archive.search(EVERYTHING, 100).found
    assert sorted(int(one.id) for one in found if one.redacted) == [3, 5, 9, 25]
    assert len(found) == 30


def test_plain_duckdb_reads_it_with_its_partitions(house):
    fill(house)
    house.compact()
    house.pack_events([make_event(1, NOON)])
    with duckdb.connect() as engine:
        rows = engine.execute(
            'SELECT day, class_uid, count(*), any_value(actor."user".uid), '
            "any_value(resources[1].name), min(metadata.uid) "
            f"FROM read_parquet('{house.root}/decisions/*/*.parquet', hive_partitioning = true) "
            "GROUP BY ALL ORDER BY day"
        ).fetchall()
        assert [row[:3] for row in rows] == [
            (date(2026, 1, 1) + n * DAY, 6003, 10) for n in range(3)
        ]
        assert {row[3:5] for row in rows} == {("spiffe://example.org/payments", "orders")}
        counted = engine.execute(
            f"SELECT sum(count) FROM read_parquet('{house.root}/touched/*/*.parquet') "
            "WHERE resource = 'orders'"
        ).fetchall()
        assert counted == [(30,)]
        types = engine.execute(
            f"SELECT metadata.event_code, class_uid FROM read_parquet('{house.root}/events/*/*')"
        ).fetchall()
        assert types == [("identity.changed", 3001)]


def test_the_columns_are_those_that_the_documentation_lists(house):
    fill(house, days=2)
    house.pack_events([make_event(1, NOON)])
    text = Path("docs/explanation/archive.md").read_text(encoding="utf-8")
    with duckdb.connect() as engine:
        house.compactor.roll_month("a1b2c3d4", date(2026, 1, 1))
        for table in Table:
            path = house.list_paths(table)[0]
            leaves = engine.execute(
                "SELECT path_in_schema FROM parquet_metadata(?)", [str(path)]
            ).fetchall()
            for (leaf,) in leaves:
                name = leaf.replace(", list, element", "").replace(", ", ".")
                assert f"`{name}`" in text, f"{table}: {name}"
