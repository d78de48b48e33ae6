"""Packing: what comes out is byte for byte what went in, whatever happened on the way."""

from __future__ import annotations

import asyncio
import errno
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.archivehouse import ArchiveHouse, make_event
from tests.fakes.decisions import EVER, NOON, make_record, make_records, verify_proof
from troth.archive import packing, workshop
from troth.archive.decisionrows import KEPT, read_row
from troth.archive.depot import open_depot
from troth.archive.engine import locate
from troth.archive.layout import ArchiveFile, Table, choose_current
from troth.archive.packing import find_uncovered
from troth.archive.record import encode_record
from troth.archive.segment import HEADER_SIZE, DamagedSegment, Segment
from troth.archive.writing import OpenSegment
from troth.core.errors import NotFound, Refused, Unavailable

DAY = timedelta(days=1)
TEXT = st.text(max_size=20)
NUMBER = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=True) | st.booleans() | st.none()
FACTS = st.dictionaries(
    TEXT | st.sampled_from(["request.ip", "task.id"]),
    TEXT | NUMBER | st.lists(TEXT | NUMBER, max_size=3) | st.dictionaries(TEXT, NUMBER, max_size=2),
    max_size=4,
)
RECORDS = st.builds(
    make_record,
    st.integers(0, 99),
    id=TEXT,
    request_id=TEXT,
    caller=TEXT,
    point=TEXT,
    subject_type=TEXT,
    subject=TEXT,
    action=TEXT,
    resource=TEXT,
    resource_type=TEXT,
    resource_id=TEXT,
    allowed=st.booleans(),
    policies=st.lists(TEXT, max_size=3).map(tuple),
    reason=TEXT,
    epoch=st.integers(0, 2**64 - 1),
    facts=FACTS,
    at=st.integers(-(10**6), 10**6).map(lambda s: NOON + timedelta(seconds=s, microseconds=s % 7)),
)


@pytest.fixture
def house(tmp_path: Path) -> Any:
    made = ArchiveHouse(tmp_path)
    yield made
    made.close()


def read_entries(house: ArchiveHouse) -> list[bytes]:
    """The bytes that the archive's rows stand for, in the order of writing."""
    sql = f'SELECT {KEPT} FROM read_parquet(?) ORDER BY unmapped.segment, unmapped."index"'
    with house.workshop.engine.connect() as link:
        return [read_row(row).data for row in link.run(sql, [locate(house.list_files())])]


def test_a_segment_comes_back_byte_for_byte(house):
    records = make_records(300)
    packed = asyncio.run(house.pack_all(records))
    assert packed.rows == 300
    assert packed.files == ("decisions/day=2026-01-01/a1b2c3d4-0000000001-0000000001-0.parquet",)
    assert read_entries(house) == [encode_record(record)[1] for record in records]
    assert list(house.archive.scan(*EVER)) == records


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(RECORDS, min_size=1, max_size=8))
def test_whatever_a_record_holds_comes_back(tmp_path, records):
    house = ArchiveHouse(tmp_path / uuid4().hex)
    try:
        packed = asyncio.run(house.pack_all(records))
        assert packed.rows == len(records)
        entries = [encode_record(record)[1] for record in records]
        assert read_entries(house) == entries
        by_id = {record.id: record for record in records if record.id}
        for record in list(by_id.values())[:2]:
            found, proof = house.archive.find(record.id)
            assert proof is not None
            assert proof.entry in entries
            assert encode_record(found)[1] == proof.entry
    finally:
        house.close()


def test_an_entry_of_a_later_version_keeps_its_bytes(house):
    shape = msgspec.msgpack.decode(encode_record(make_record(1))[1])
    later = msgspec.msgpack.encode([*shape, "more"])
    strange = msgspec.msgpack.encode({"of": "another shape"})
    plain = encode_record(make_record(2))
    segment = asyncio.run(house.close_with(make_records(1)))
    header = Segment(house.log.find_path(segment)).header
    house.log.remove(segment)
    opened = OpenSegment(house.log.folder, header, house.log._disk)
    opened.write([(plain[0], later), (plain[0], strange), plain])
    opened.finish(house.clock)
    house.pack(segment)
    assert read_entries(house) == [later, strange, plain[1]]
    assert list(house.archive.scan(*EVER)) == [make_record(1), make_record(2)]


def test_days_have_files_of_their_own_and_a_segment_may_reach_over_many(house):
    records = [make_record(n, at=NOON - n * DAY) for n in range(5)]
    packed = asyncio.run(house.pack_all(records))
    assert len(packed.files) == 5
    assert sorted(house.archive.scan(*EVER), key=lambda one: one.id) == records
    for record in records:
        assert house.archive.find(record.id)[0] == record


def test_packing_again_changes_nothing(house):
    number = asyncio.run(house.close_with(make_records(20)))
    path = house.log.find_path(number)
    first = house.packer.pack_segment(path)
    before = [one.read_bytes() for one in house.list_paths()]
    assert house.packer.pack_segment(path) == first
    assert [one.read_bytes() for one in house.list_paths()] == before


@pytest.mark.parametrize("broken", ["COPY", "read back", "put", "check"])
def test_a_crash_anywhere_leaves_what_can_be_done_again(house, monkeypatch, broken):
    number = asyncio.run(house.close_with([make_record(n, at=NOON + n * DAY) for n in range(3)]))
    path = house.log.find_path(number)
    calls = []

    class Crash(BaseException):
        pass

    def fail_second(function: Any) -> Any:
        def call(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == 2:
                raise Crash
            return function(*args)

        return call

    where, name = {
        "COPY": (packing, "write_parquet"),
        "read back": (packing, "hash_leaf"),
        "put": (house.depot, "put"),
        "check": (workshop, "check_whole"),
    }[broken]
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fail_second(getattr(where, name)))
        with pytest.raises(Crash):
            house.packer.pack_segment(path)
    assert path.exists()
    # What is there of a segment that isn't packed isn't counted twice, nor is it missed.
    assert len(list(house.archive.scan(*EVER))) == 3
    house.workshop.empty()
    house.pack(number)
    assert len(list(house.archive.scan(*EVER))) == 3
    assert len(house.list_files()) == 3


def test_what_a_crash_left_is_swept_and_nothing_else(house):
    work = house.workshop.work
    for name in (".lock", "x.parquet", "x.ndjson", "duckdb_temp_1_storage_0.tmp", "notes"):
        (work / name).write_text("x")
    house.workshop.empty()
    assert sorted(one.name for one in work.iterdir()) == [".lock", "notes"]


def test_a_damaged_segment_stays_as_it_is_and_is_named(house):
    number = asyncio.run(house.close_with(make_records(50)))
    path = house.log.find_path(number)
    data = bytearray(path.read_bytes())
    data[HEADER_SIZE + 1500] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedSegment, match=r"0000000001.decisions is damaged.*don't lead"):
        house.packer.pack_segment(path)
    assert path.read_bytes() == data
    assert house.list_files() == []


def test_an_open_segment_isn_t_packed(house):
    asyncio.run(house.log.append(make_records(1)))
    with pytest.raises(DamagedSegment, match="isn't closed"):
        house.packer.pack_segment(house.log.find_path(1))


def test_a_file_that_the_disk_changed_while_it_was_written_is_not_kept(house, monkeypatch):
    number = asyncio.run(house.close_with(make_records(10)))
    put = house.depot.put

    def put_altered(local: Path, file: Any) -> None:
        data = bytearray(local.read_bytes())
        data[100] ^= 1
        local.write_bytes(data)
        put(local, file)

    with monkeypatch.context() as patch:
        patch.setattr(house.depot, "put", put_altered)
        with pytest.raises(Refused, match="is damaged"):
            house.packer.pack_segment(house.log.find_path(number))
    assert house.list_files() == []
    house.pack(number)
    assert len(list(house.archive.scan(*EVER))) == 10


def test_a_full_disk_is_told_and_the_segment_stays(house, monkeypatch):
    number = asyncio.run(house.close_with(make_records(10)))

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("troth.archive.depot.os.rename", fail)
        with pytest.raises(Unavailable, match="No space left"):
            house.packer.pack_segment(house.log.find_path(number))
    assert house.log.find_path(number).exists()
    house.pack(number)


def test_another_segment_of_the_same_number_is_never_overwritten(tmp_path):
    first = ArchiveHouse(tmp_path / "one")
    asyncio.run(first.pack_all(make_records(3)))
    first.close()
    second = ArchiveHouse(tmp_path / "two", first.depot)
    number = asyncio.run(second.close_with(make_records(3, 10)))
    before = first.list_paths()[0].read_bytes()
    with pytest.raises(Refused, match=r"another segment 1 of this server.*from one backup"):
        second.packer.pack_segment(second.log.find_path(number))
    assert first.list_paths()[0].read_bytes() == before
    second.close()


def test_a_segment_that_a_wider_file_hides_is_refused_and_stays(house):
    for part in range(3):
        asyncio.run(house.close_with(make_records(5, part * 5)))
    for number in (1, 3):
        house.pack(number)
    house.compactor._merge(house.list_files())  # as an earlier version did
    with pytest.raises(Refused, match=r"0000000001-0000000003-0.parquet was put together without"):
        house.pack(2)
    assert house.log.unpacked.list_numbers() == [2]
    house.compact()
    assert len(list(house.archive.scan(*EVER))) == 15


def test_an_object_store_has_the_same(tmp_path):
    depot = open_depot(f"memory://{uuid4().hex}")
    house = ArchiveHouse(tmp_path, depot)
    records = make_records(40)
    asyncio.run(house.pack_all(records[:20]))
    asyncio.run(house.pack_all(records[20:]))
    assert list(house.archive.scan(*EVER)) == records
    assert house.compact() == 2
    assert len(house.list_files()) == 1
    assert list(house.archive.scan(*EVER)) == records
    found, proof = house.archive.find(records[7].id)
    assert found == records[7]
    assert proof is not None
    house.close()


# Proofs


def test_a_packed_decision_is_proved_by_the_root_of_its_segment(house):
    number = asyncio.run(
        house.close_with([make_record(n, at=NOON + n * DAY / 3) for n in range(7)])
    )
    footer = Segment(house.log.find_path(number)).footer
    assert footer is not None
    house.pack(number)
    for record in make_records(7):
        proof = house.archive.find_proof(record.id)
        assert verify_proof(proof, footer.root).id == record.id
        assert (proof.server, proof.segment, proof.size) == ("a1b2c3d4", number, 7)


def test_a_proof_holds_no_more_than_some_records_at_a_time(house):
    facts = {"note": "x" * 2_000}
    records = [make_record(n, facts=facts) for n in range(8_000)]
    asyncio.run(house.pack_all(records))
    tracemalloc.start()
    try:
        assert house.archive.find_proof(records[4_000].id).index == 4_000
        assert tracemalloc.get_traced_memory()[1] < 16 << 20  # all of them are twice as much
    finally:
        tracemalloc.stop()


def test_what_is_left_of_a_segment_is_told(house):
    records = [make_record(n, at=NOON + n * DAY) for n in range(3)]
    asyncio.run(house.pack_all(records))
    house.workshop.remove(house.list_files()[:1])
    with pytest.raises(Refused, match=r"has 2 of the 3 records of segment 1 .*archive.removed"):
        house.archive.find(records[1].id)


def test_what_is_nowhere_is_told(house):
    asyncio.run(house.pack_all(make_records(2)))
    for name in ("", "dec_nowhere", "\ud800", "x" * 1000, "' OR 1=1 --"):
        with pytest.raises(NotFound):
            house.archive.find(name)
        with pytest.raises(NotFound):
            house.archive.find_proof(name)


# Events


def test_events_come_back_as_they_were_but_for_their_salt(house):
    events = [
        make_event(1, NOON),
        make_event(2, NOON + DAY, body='{"a":"\\u0000","é":[1.50,null]}', subject="=cmd|'/c'!A0"),
        make_event(3, NOON, salt=None, digest=b"d" * 32, body="{}", subject="", actor=""),
    ]
    house.pack_events(events)
    house.pack_events(events)  # as after a crash
    assert [one.name for one in house.list_files(Table.EVENTS)] == [
        "events/day=2026-01-01/journal-0000000001-0000000003-0.parquet",
        "events/day=2026-01-02/journal-0000000001-0000000003-0.parquet",
    ]
    found = house.archive.search(_everything(), 10).found
    assert [one.id for one in found] == ["2", "3", "1"]
    assert [one.redacted for one in found] == [False, True, False]
    assert found[0].detail == {"a": "\x00", "é": [1.5, None]}
    assert found[0].subject == "=cmd|'/c'!A0"


def test_a_longer_batch_after_a_crash_counts_instead(house):
    events = [make_event(n, NOON) for n in range(1, 6)]
    house.pack_events(events[:3])
    house.pack_events(events)
    assert [one.id for one in house.archive.search(_everything(), 10).found] == list("54321")
    house.compact(Table.EVENTS)
    assert len(house.list_files(Table.EVENTS)) == 1


def test_events_are_there_once_when_a_cursor_was_set_back(house):
    """As by a database that was restored: batches partly overlap what was put together."""
    events = [make_event(n, NOON + (n > 23) * DAY) for n in range(1, 41)]
    house.pack_events(events[:10])
    house.pack_events(events[10:20])
    house.compact(Table.EVENTS)
    for first, last in ((15, 25), (0, 22), (18, 20), (9, 40)):
        house.pack_events(events[first:last])
    assert _list_ids(house) == sorted(range(1, 41), reverse=True)
    house.compact(Table.EVENTS)
    assert _list_ids(house) == sorted(range(1, 41), reverse=True)
    assert len(house.list_files(Table.EVENTS)) == 2


@pytest.mark.parametrize("other", [{"body": '{"name":"other"}'}, {"at": 1_767_261_600_000_000}])
def test_other_events_of_the_same_positions_are_refused_and_nothing_goes(house, other):
    house.pack_events([make_event(n, NOON) for n in range(1, 11)])
    before = [one.read_bytes() for one in house.list_paths(Table.EVENTS)]
    mine = [make_event(n, NOON) for n in range(5, 16)]
    with pytest.raises(Refused, match=r"another event 10.*from one backup"):
        house.pack_events([*mine[:5], mine[5]._replace(**other), *mine[6:]])
    assert [one.read_bytes() for one in house.list_paths(Table.EVENTS)] == before


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 20)), max_size=6))
def test_files_of_batches_cover_each_position_once(batches):
    held: list[ArchiveFile] = []
    for first, more in batches:
        left = find_uncovered(held, first, first + more)
        if left:
            made = ArchiveFile(Table.EVENTS, NOON.date(), "journal", left[0], left[-1])
            held, _ = choose_current([*held, made])
            assert made in held
    found = [n for one in held for n in range(one.first, one.last + 1)]
    wanted = {n for first, more in batches for n in range(first, first + more + 1)}
    assert sorted(found) == sorted(wanted)


def _list_ids(house: ArchiveHouse) -> list[int]:
    return [int(one.id) for one in house.archive.search(_everything(), 100).found]


def _everything() -> Any:
    from troth.audit.query import Query

    return Query(*EVER)
