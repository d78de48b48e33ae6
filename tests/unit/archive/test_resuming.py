from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.decisions import make_records
from troth.archive.log import DecisionLog
from troth.archive.record import decode_record
from troth.archive.resuming import DecisionReader, make_place, split_place
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    made = DecisionLog(tmp_path / "decisions", VirtualClock(), SeededEntropy(), "here")
    yield made
    made.close()


def fill(log: DecisionLog, *sizes: int, start: int = 0) -> None:
    """A closed segment of each size; the last one stays open."""

    async def write() -> None:
        number = start
        for place, size in enumerate(sizes):
            await log.append(make_records(size, number))
            number += size
            if place < len(sizes) - 1:
                await log.close_segment()

    asyncio.run(write())


def read_all(
    reader: DecisionReader, place: int = 0, most: int = 7, most_bytes: int = 1 << 20
) -> tuple[list[str], int]:
    ids: list[str] = []
    while True:
        found, end = reader.read(place, most, most_bytes)
        assert len(found) <= most
        if end == place:
            return ids, place
        ids += [decode_record(one.entry).id for one in found if not one.damage]
        place = end


def ids(count: int, start: int = 0) -> list[str]:
    return [one.id for one in make_records(count, start)]


def test_all_is_read_once_in_order_across_segments(log):
    fill(log, 20, 1, 30)
    found, place = read_all(DecisionReader(log))
    assert found == ids(51)
    assert split_place(place) == (3, 30)


def test_it_goes_on_where_it_was_in_another_process(log):
    fill(log, 20, 10, 5)
    for cut in range(36):
        reader = DecisionReader(log)
        place = 0
        first: list[str] = []
        while len(first) < cut:
            found, place = reader.read(place, 1, 1 << 20)
            first += [decode_record(one.entry).id for one in found]
        rest, _ = read_all(DecisionReader(log), place)
        assert first + rest == ids(35), cut


def test_what_is_appended_later_follows(log):
    reader = DecisionReader(log)
    assert reader.read(0, 10, 1000) == ([], 0)
    fill(log, 3)
    found, place = read_all(reader)
    fill(log, 4, start=3)
    more, place = read_all(reader, place)
    asyncio.run(log.close_segment())
    assert reader.read(place, 10, 1 << 20) == ([], place)
    fill(log, 2, start=7)
    last, _ = read_all(reader, place)
    assert found + more + last == ids(9)


def test_a_batch_is_bounded_in_bytes(log):
    fill(log, 50)
    found, _ = DecisionReader(log).read(0, 1000, 2000)
    assert 1 < len(found) < 20
    assert read_all(DecisionReader(log), most=1000, most_bytes=2000)[0] == ids(50)


def test_packed_segments_are_read_too(log):
    fill(log, 5, 6, 7)
    reader = DecisionReader(log)
    found, place = reader.read(0, 3, 1 << 20)
    log.mark_packed(1)
    log.mark_packed(2)
    rest, _ = read_all(reader, place)
    assert [decode_record(one.entry).id for one in found] + rest == ids(18)
    assert reader.list_numbers() == [1, 2, 3]


def test_a_segment_that_is_packed_while_it_is_read_isn_t_missed(log, monkeypatch):
    fill(log, 5, 6)
    reader = DecisionReader(log)
    listed = reader._list_files()
    log.mark_packed(1)
    monkeypatch.setattr(reader, "_list_files", lambda: listed)
    assert read_all(reader)[0] == ids(11)


def test_removed_segments_are_passed_over(log):
    fill(log, 5, 6, 7)
    log.remove(1)
    assert read_all(DecisionReader(log))[0] == ids(13, 5)


def test_the_end_is_behind_all_that_is_durable(log):
    reader = DecisionReader(log)
    assert reader.find_end() == 0
    fill(log, 5, 6)
    assert reader.find_end() == make_place(2, 6)
    assert read_all(reader, reader.find_end()) == ([], make_place(2, 6))


def test_damage_is_told_and_what_is_whole_around_it_is_read(log):
    async def write() -> None:
        for start in (0, 3, 6):
            await log.append(make_records(3, start))  # a group each, with a mark before it
        await log.close_segment()
        await log.append(make_records(2, 9))

    asyncio.run(write())
    path = log.folder / "0000000001.decisions"
    data = bytearray(path.read_bytes())
    data[data.index(make_records(1, 4)[0].id.encode())] ^= 1
    path.write_bytes(data)
    found, place = DecisionReader(log).read(0, 100, 1 << 20)
    damage = [one.damage for one in found if one.damage]
    assert len(damage) == 1
    assert str(path) in damage[0]
    read = [decode_record(one.entry).id for one in found if not one.damage]
    assert read == ids(4) + ids(5, 6)
    assert split_place(place) == (2, 2)


def test_a_file_that_is_no_segment_is_told(log):
    fill(log, 3, 2)
    (log.folder / "0000000001.decisions").write_bytes(b"nothing of the kind")
    found, _ = DecisionReader(log).read(0, 100, 1 << 20)
    assert "can't be read" in found[0].damage
    assert [decode_record(one.entry).id for one in found[1:]] == ids(2, 3)


def test_a_place_holds_what_was_put_into_it():
    assert split_place(make_place(2**34, 2**26 - 1)) == (2**34, 2**26 - 1)
    assert make_place(2**34, 2**26 - 1) < 2**63
