"""What an archive holds, computed again: whoever alters it, checksums and labels included, is found
out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes.archivehouse import ArchiveHouse
from tests.fakes.decisions import NOON, make_record, make_records
from troth.archive.engine import locate
from troth.archive.layout import Table
from troth.archive.parquet import Label, Selection, read_label, write_parquet
from troth.archive.reading import Damages
from troth.archive.record import encode_record
from troth.archive.roots import RootReader
from troth.core.errors import TrothError

DAY = timedelta(days=1)
ALL = "FROM read_parquet(?, hive_partitioning = false)"
HIT = 'unmapped."index" = 5'
PLACE = 'server: unmapped.server, segment: {segment}, "index": unmapped."index"'
REST = (
    "point: unmapped.point, epoch: unmapped.epoch, task: {task}, facts: unmapped.facts, raw: {raw}"
)


@pytest.fixture
def house(tmp_path: Path) -> Any:
    made = ArchiveHouse(tmp_path)
    yield made
    made.close()


def judge(house: ArchiveHouse) -> list[str]:
    """All that a reader finds wrong."""
    damages, found = Damages(), []
    reader = RootReader(house.root)
    try:
        files = reader.list_files(damages)
        for held in reader.list_segments(files):
            try:
                reader.compute_root(held)
            except TrothError as error:
                found.append(error.detail)
        for file in files:
            found += [": ".join(told) for told in reader.check_file(file)]
        found += [": ".join(told) for told in reader.check_months(files)]
    finally:
        reader.close()
    return [*found, *damages.tell()]


def forge(
    house: ArchiveHouse,
    sql: str,
    table: Table = Table.DECISIONS,
    relabel: Callable[[Label], Label] = lambda label: label,
) -> None:
    """Write the first file of a table anew, with right checksums, as somebody might who can."""
    file = house.list_files(table)[0]
    with house.workshop.engine.connect() as link:
        label = relabel(read_label(link, file))
        local = house.workshop.work / "forged.parquet"
        write_parquet(link, Selection(table, sql, [locate([file])]), local, label)
    house.depot.put(local, file)
    house.workshop.engine.reopen()


def replace_place(segment: str = "unmapped.segment", **rest: str) -> str:
    """The column with an entry's place, some of it replaced."""
    values = {"task": "unmapped.task", "raw": "unmapped.raw"} | rest
    return f"{{{PLACE.format(segment=segment)}, {REST.format(**values)}}} AS unmapped"


def test_what_was_packed_is_in_order(house):
    for part in range(3):
        asyncio.run(
            house.pack_all([make_record(n, at=NOON + n * DAY / 4) for n in range(part, part + 9)])
        )
    assert judge(house) == []
    house.compact()
    assert house.compactor.roll_month(house.log.server, NOON.date().replace(day=1)) == 4
    assert judge(house) == []


def test_columns_before_bytes_that_are_kept_must_say_the_same(house):
    asyncio.run(house.pack_all(make_records(20)))
    raw = encode_record(make_records(6)[5])[1].hex()
    hidden = """{"user": {uid: 'spiffe://example.org/nobody', "type": 'identity'}} AS actor"""
    bytes_too = replace_place(raw=f"from_hex('{raw}')")
    forge(house, _replace(f"{hidden}, {bytes_too}"))
    words = judge(house)[0]
    assert "Rows of segment 1 of server a1b2c3d4 say something else than their records: 5." in words


@pytest.mark.parametrize(
    "column",
    [
        "2::INTEGER AS severity_id",
        "{ip: '10.9.9.9'} AS src_endpoint",
        replace_place(task="'t-1'"),
        '1::BIGINT AS "time"',
        "[{decision: 'Deny', policy: {uid: 'role:orders-reader'}}] AS authorizations",
    ],
)
def test_columns_that_the_record_isn_t_made_of_must_be_right_too(house, column):
    asyncio.run(house.pack_all(make_records(20)))
    forge(house, _replace(column))
    words = judge(house)[0]
    assert "than their records: 5" in words


def test_rows_of_a_segment_that_no_label_names_are_found(house):
    asyncio.run(house.pack_all(make_records(20)))
    both = f"WITH a AS (SELECT * {ALL}) SELECT * FROM a UNION ALL SELECT * REPLACE ("
    forge(house, f"{both}{replace_place(segment='777::BIGINT')}) FROM a WHERE {HIT}")
    words = judge(house)[0]
    assert "rows of other segments than it says" in words


def test_a_record_that_is_missing_or_there_twice_is_named(house):
    asyncio.run(house.pack_all(make_records(20)))
    forge(house, f"SELECT * {ALL} WHERE NOT {HIT}")
    words = judge(house)
    assert words[0] == "Record 5 of segment 1 of server a1b2c3d4 is missing."
    forge(house, f"WITH a AS (SELECT * {ALL}) SELECT * FROM a UNION ALL SELECT * FROM a")
    assert "Record 0 of segment 1 of server a1b2c3d4 is there twice." in judge(house)


def test_rows_on_the_wrong_day_are_found(house):
    asyncio.run(house.pack_all(make_records(5)))
    (path,) = house.list_paths()
    other = path.parent.with_name("day=2026-01-02")
    path.parent.rename(other)
    assert any("It has rows of another day" in words for words in judge(house))


def test_a_label_that_hides_a_caller_is_found(house):
    asyncio.run(house.pack_all(make_records(5)))
    forge(house, f"SELECT * {ALL}", relabel=lambda one: msgspec.structs.replace(one, callers=()))
    (words,) = judge(house)
    assert "a search misses some" in words


def test_other_columns_are_told(house):
    asyncio.run(house.pack_all(make_records(5)))
    forge(house, f"SELECT *, 1 AS more {ALL}")
    (words,) = judge(house)
    assert "has other columns than this version of troth writes" in words


@pytest.mark.parametrize("table", [Table.TOUCHED, Table.IDS, Table.MONTHS])
@pytest.mark.parametrize("rows", ["OFFSET 1", "UNION ALL SELECT * FROM a LIMIT 20"])
def test_what_stands_beside_decisions_must_follow_from_them(house, table, rows):
    for day in range(2):
        asyncio.run(house.pack_all([make_record(n, at=NOON + day * DAY) for n in range(9)]))
    assert house.compactor.roll_month(house.log.server, NOON.date().replace(day=1)) == 2
    forge(house, f"WITH a AS (SELECT * {ALL}) SELECT * FROM a {rows}", table)
    found = judge(house)
    assert any(words.startswith(f"{table}/") and "something else" in words for words in found)


def _replace(column: str) -> str:
    return (
        f"WITH a AS (SELECT * {ALL}) SELECT * REPLACE ({column}) FROM a WHERE {HIT} "
        f"UNION ALL SELECT * FROM a WHERE NOT {HIT}"
    )
