"""What a disk, somebody else, or another process did to the archive's files."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.fakes.archivehouse import ArchiveHouse
from tests.fakes.decisions import EVER, NOON, make_record, make_records
from troth.archive.engine import Bounds, Engine
from troth.archive.layout import Table
from troth.archive.parquetarchive import ParquetArchive
from troth.archive.reading import Damages
from troth.archive.roots import RootReader
from troth.archive.sums import CheckedFile, DamagedFile, add_sums
from troth.audit.query import Query
from troth.core.errors import NotFound

DAY = timedelta(days=1)
EVERYTHING = Query(*EVER)


class Whole:
    """A file's bytes."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    def read(self, start: int, size: int) -> bytes:
        return self._data[start : start + size]


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


@pytest.mark.parametrize("table", [Table.DECISIONS, Table.TOUCHED, Table.IDS])
def test_a_flipped_byte_is_named_and_the_rest_answers(house, table):
    records = fill(house)
    path = house.list_paths(table)[1]
    for place in (100, path.stat().st_size - 20):
        flip(path, place)
        archive = ParquetArchive(
            house.depot, Engine(house.depot, Bounds()), house.clock, house.log, lambda _: False
        )
        answers: list[Any] = [
            archive.search(EVERYTHING, 100),
            archive.search(Query(*EVER, resource="orders"), 100),
            archive.who_touched("orders", *EVER),
        ]
        for wanted in (records[3], records[23]):
            assert archive.find(wanted.id)[0] == wanted
        named = [words for answer in answers for words in answer.damage]
        if table is Table.IDS:
            assert named == []  # nobody needed it so far
            assert archive.find(records[13].id)[0] == records[13]
            answers.append(archive.search(Query(*EVER, request_id=records[13].request_id), 100))
            named = list(answers[-1].damage)
        assert named
        assert all(f"{path} is damaged" in words for words in named)
        if table is Table.DECISIONS:
            assert {one.id for one in answers[0].found} == {
                one.id for one in records[:10] + records[20:]
            }
        else:  # decisions tell the same
            assert len(answers[0].found) == 30
            assert sum(one.times for one in answers[2].found) == 30
        flip(path, place)


@pytest.mark.parametrize("kept", [0, 8, 1000, -1])
def test_a_file_that_was_cut_off_is_named_and_the_rest_answers(house, kept):
    records = fill(house)
    path = house.list_paths()[1]
    path.write_bytes(path.read_bytes()[:kept])
    answer = house.archive.search(EVERYTHING, 100)
    assert len(answer.found) == 20
    assert len(answer.damage) == 1
    assert f"{path} is damaged" in answer.damage[0]
    with pytest.raises(NotFound, match="is damaged"):
        house.archive.find(records[13].id)
    told: list[str] = []
    assert len(list(house.archive.scan(*EVER, on_damage=told.append))) == 20
    assert told == list(answer.damage)
    with pytest.raises(DamagedFile):
        list(house.archive.scan(*EVER))


def test_parquet_of_somebody_else_is_named(house):
    fill(house, days=2)
    path = house.list_paths()[1]
    with duckdb.connect() as engine:
        engine.execute(f"COPY (SELECT 1 AS a) TO '{path}' (FORMAT parquet)")
    answer = house.archive.search(EVERYTHING, 100)
    assert len(answer.found) == 10
    assert "checksums are missing" in answer.damage[0]


PART = (
    b'{"layout":"1","rows":1,"segments":[{"number":%b,"count":1,"root":"","rows":1,'
    b'"first":"%b","last":"2026-01-01T00:00:00Z","closed_at":"2026-01-01T00:00:00Z"}]}'
)


@pytest.mark.parametrize(
    "label",
    [
        *(b'{"layout":"2"}', b"[]", b"", b"\xff", b'{"layout":1}'),
        PART % (b"1", b"2026-01-01T00:00:00"),  # in which zone?
        PART % (b"1" * 30, b"2026-01-01T00:00:00Z"),
        PART % (b"-1", b"2026-01-01T00:00:00Z"),
    ],
)
def test_a_label_of_another_shape_is_named(house, label):
    fill(house, days=2)
    path = house.list_paths()[0]
    data = path.read_bytes()
    checked = CheckedFile(Whole(data), "it")
    path.write_bytes(data[: checked._body] + checked._footer)
    add_sums(path, label)
    answer = house.archive.search(Query(*EVER, identity="spiffe://example.org/gateway"), 100)
    assert len(answer.found) == 10
    (words,) = answer.damage
    assert "isn't what this version of troth writes" in words
    assert path.name in words
    reader, damages = RootReader(house.root), Damages()
    assert len(reader.list_files(damages)) == 1
    reader.close()
    assert damages.tell() == (words,)


def test_altered_records_lead_to_no_proof(house, monkeypatch):
    """Somebody who can write files can write checksums as well: the root tells."""
    records = fill(house, days=1)
    path = house.list_paths()[0]
    label = CheckedFile(Whole(path.read_bytes()), "it").label
    with duckdb.connect() as engine:
        engine.execute(
            f"COPY (SELECT * REPLACE ('altered' AS status_detail) FROM read_parquet('{path}', "
            f"hive_partitioning = false)) TO '{path}.new' (FORMAT parquet)"
        )
    Path(f"{path}.new").rename(path)
    add_sums(path, label)
    assert house.archive.search(EVERYTHING, 1).found[0].reason == "altered"
    with pytest.raises(DamagedFile, match="don't lead to its root"):
        house.archive.find_proof(records[0].id)


def test_files_that_are_put_together_meanwhile_are_looked_for_again(house, monkeypatch):
    for part in range(3):
        asyncio.run(house.pack_all(make_records(5, part * 5)))
    look = ParquetArchive._look
    times: list[Any] = []

    def look_and_compact(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = look(self, *args, **kwargs)
        if not times:
            house.compact()
        times.append(found)
        return found

    monkeypatch.setattr(ParquetArchive, "_look", look_and_compact)
    assert len(house.archive.search(EVERYTHING, 100).found) == 15
    assert len(times) == 2


def test_a_segment_that_is_packed_during_a_search_is_found_once(house, monkeypatch):
    number = asyncio.run(house.close_with(make_records(10)))
    look = ParquetArchive._look

    def pack_and_look(self: Any, *args: Any, **kwargs: Any) -> Any:
        if house.log.find_path(number).exists():
            house.pack(number)
            house.compact()
        return look(self, *args, **kwargs)

    monkeypatch.setattr(ParquetArchive, "_look", pack_and_look)
    assert len(house.archive.search(EVERYTHING, 100).found) == 10


def test_a_mistake_of_the_engine_is_no_end(house):
    fill(house, days=1)
    engine = house.archive._engine
    assert len(house.archive.search(EVERYTHING, 100).found) == 10
    engine.reopen()
    assert len(house.archive.search(EVERYTHING, 100).found) == 10
