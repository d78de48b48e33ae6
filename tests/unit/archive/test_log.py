"""The decision log as its callers see it."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.decisions import EVER, NOON, FailingDisk, make_record, make_records
from troth.archive.log import QUEUE, SEGMENT_SPAN, DecisionLog
from troth.archive.segment import HEADER_SIZE, DamagedSegment
from troth.archive.writing import Disk
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Conflict, Invalid, NotFound, Refused, TooLarge, Unavailable


@contextmanager
def open_log(
    folder: Path, clock: VirtualClock | None = None, **given: Any
) -> Iterator[DecisionLog]:
    entropy = SeededEntropy(given.pop("seed", 1))
    log = DecisionLog(folder / "decisions", clock or VirtualClock(NOON), entropy, "a1b2", **given)
    try:
        yield log
    finally:
        log.close()


def list_ids(log: DecisionLog, **wanted: Any) -> list[str]:
    return [record.id for record in log.scan(*EVER, **wanted)]


def ids_of(*numbers: int) -> list[str]:
    return [make_record(number).id for number in numbers]


def files(folder: Path) -> list[Path]:
    return sorted((folder / "decisions").iterdir())


def test_what_was_appended_is_there_and_after_a_restart_too(tmp_path):
    async def work(log: DecisionLog) -> None:
        await log.append(make_records(3))
        await log.append([])
        await log.append([make_record(3)])

    with open_log(tmp_path) as log:
        asyncio.run(work(log))
        assert list(log.scan(*EVER)) == make_records(4)
        assert log.list_closed() == []
    assert (tmp_path / "decisions").stat().st_mode & 0o777 == 0o700
    with open_log(tmp_path) as log:
        assert list(log.scan(*EVER)) == make_records(4)
        assert [(one.number, one.footer.count) for one in log.list_closed()] == [(1, 4)]


def test_many_appends_share_a_sync(tmp_path):
    disk = FailingDisk()

    async def work(log: DecisionLog) -> None:
        await asyncio.gather(*(log.append(make_records(2, 2 * n)) for n in range(500)))

    with open_log(tmp_path, disk=disk) as log:
        asyncio.run(work(log))
        # One for the header, then groups: the first of few, the rest of what came meanwhile.
        assert disk.syncs < 50
        found = list_ids(log)
    assert found == ids_of(*range(1000))


def test_two_event_loops_may_append(tmp_path):
    with open_log(tmp_path) as log:

        async def work(start: int) -> None:
            for number in range(start, start + 20):
                await log.append([make_record(number)])

        async def both() -> None:
            await asyncio.gather(work(0), asyncio.to_thread(asyncio.run, work(20)))

        asyncio.run(both())
        assert sorted(list_ids(log)) == ids_of(*range(40))


def test_a_scan_takes_times_subject_and_resource(tmp_path):
    records = [
        make_record(0),
        make_record(1, subject="spiffe://example.org/other"),
        make_record(2, resource="invoices"),
        make_record(3, subject="spiffe://example.org/payments-2"),
        make_record(4, facts={"other": "spiffe://example.org/other"}),
    ]

    async def work(log: DecisionLog) -> None:
        for record in records:
            await log.append([record])
            await log.close_segment()

    with open_log(tmp_path) as log:
        asyncio.run(work(log))
        assert list_ids(log, subject="spiffe://example.org/other") == ids_of(1)
        assert list_ids(log, subject="spiffe://example.org/payments") == ids_of(0, 2, 4)
        assert list_ids(log, resource="invoices") == ids_of(2)
        since, until = records[1].at, records[3].at
        assert [one.id for one in log.scan(since, until)] == ids_of(1, 2)
        assert list(log.scan(EVER[1], EVER[1])) == []


def test_a_late_record_is_found_by_its_own_time(tmp_path):
    late = make_record(1, at=NOON - timedelta(days=3))

    async def work(log: DecisionLog) -> None:
        await log.append([make_record(0), late, make_record(2)])
        await log.close_segment()

    with open_log(tmp_path) as log:
        asyncio.run(work(log))
        assert list(log.scan(late.at, late.at + timedelta(seconds=1))) == [late]


def test_a_scan_sees_what_was_durable_when_it_came_to_the_segment(tmp_path):
    async def work(log: DecisionLog) -> list[str]:
        await log.append(make_records(2))
        scan = log.scan(*EVER)
        found = [next(scan).id]
        await log.append(make_records(2, 2))
        await log.close_segment()
        await log.append(make_records(2, 4))
        return found + [record.id for record in scan]

    with open_log(tmp_path) as log:
        assert asyncio.run(work(log)) == ids_of(0, 1)


def test_segments_end_by_size_and_by_age(tmp_path):
    clock = VirtualClock(NOON)

    async def work(log: DecisionLog) -> None:
        for number in range(10):
            await log.append([make_record(number)])
        assert [one.footer.count for one in log.list_closed()] == [4, 4]
        clock.advance(SEGMENT_SPAN - timedelta(seconds=1))
        await log.append([make_record(10)])
        due = [log.is_due]
        clock.advance(timedelta(seconds=1))
        due.append(log.is_due)
        await log.append([make_record(11)])
        assert [*due, log.is_due] == [False, True, False]

    with open_log(tmp_path, clock, largest=1500) as log:
        asyncio.run(work(log))
        assert [one.footer.count for one in log.list_closed()] == [4, 4, 3]
        assert list_ids(log) == ids_of(*range(12))
        assert log.size == sum(path.stat().st_size for path in files(tmp_path))
        assert all(one.size <= 1500 + 96 for one in log.list_closed())


def test_nothing_is_opened_before_there_is_something_to_keep(tmp_path):
    with open_log(tmp_path) as log:
        assert asyncio.run(log.close_segment()) is None
        assert not log.is_due
        assert log.size == 0
    assert files(tmp_path) == []


def test_numbers_go_on_where_files_are_gone(tmp_path):
    async def work(log: DecisionLog) -> int:
        await log.append([make_record()])
        closed = await log.close_segment()
        assert closed is not None
        log.remove(closed.number)
        log.remove(closed.number)
        assert log.size == 0
        return closed.number

    with open_log(tmp_path, after=41) as log:
        assert [asyncio.run(work(log)) for _ in range(2)] == [42, 43]
    with open_log(tmp_path, after=43) as log:
        assert asyncio.run(work(log)) == 44


def test_the_open_segment_is_not_removed(tmp_path):
    with open_log(tmp_path) as log:
        asyncio.run(log.append([make_record()]))
        with pytest.raises(Refused):
            log.remove(1)
        assert list_ids(log) == ids_of(0)


def test_one_folder_has_one_process(tmp_path):
    refused = pytest.raises(Conflict, match="Another process writes decisions to")
    with open_log(tmp_path), refused:
        DecisionLog(tmp_path / "decisions", VirtualClock(), SeededEntropy(), "b")
    with open_log(tmp_path):
        pass


def test_a_closed_log_takes_nothing(tmp_path):
    with open_log(tmp_path) as log:
        log.close()
        with pytest.raises(Unavailable, match="stopping"):
            asyncio.run(log.append([make_record()]))


def test_a_record_that_cannot_be_kept_is_refused_before_anything_is_written(tmp_path):
    with open_log(tmp_path) as log:
        for facts, kind in (({"n": 10**40}, Invalid), ({"t": "x" * 300_000}, TooLarge)):
            with pytest.raises(kind, match="isn't answered"):
                asyncio.run(log.append([make_record(0), make_record(1, facts=facts)]))
        assert list_ids(log) == []


class SlowDisk(Disk):
    """Stands still in each sync until it may go on."""

    def __init__(self) -> None:
        self.begun, self.may_go = threading.Event(), threading.Event()

    def sync(self, handle: int) -> None:
        self.begun.set()
        self.may_go.wait()


def test_too_many_waiting_appends_are_told_to_come_back(tmp_path):
    disk = SlowDisk()

    async def work(log: DecisionLog) -> list[Any]:
        first = asyncio.create_task(log.append([make_record(0)]))
        await asyncio.to_thread(disk.begun.wait)
        waiting = [asyncio.create_task(log.append([make_record(n)])) for n in range(1, QUEUE + 3)]
        await asyncio.sleep(0)
        assert log.waiting == QUEUE
        disk.may_go.set()
        return await asyncio.gather(first, *waiting, return_exceptions=True)

    with open_log(tmp_path, disk=disk) as log:
        outcomes = asyncio.run(work(log))
        assert len(list_ids(log)) == QUEUE + 1
    assert outcomes[:-2] == [None] * (QUEUE + 1)
    assert all("Too many decisions wait" in one.detail for one in outcomes[-2:])


def attempt(log: DecisionLog, number: int) -> Unavailable | None:
    try:
        asyncio.run(log.append(make_records(2, number)))
    except Unavailable as error:
        return error
    return None


def break_disk(disk: FailingDisk, how: str) -> Callable[[], None]:
    setattr(disk, how, True)
    return lambda: setattr(disk, how, False)


@pytest.mark.parametrize("how", ["full", "broken_sync"])
def test_a_failing_disk_fails_those_appends_alone(tmp_path, how):
    disk = FailingDisk()
    with open_log(tmp_path, disk=disk) as log:
        assert attempt(log, 0) is None
        size = files(tmp_path)[0].stat().st_size
        mend = break_disk(disk, how)
        for _ in range(3):
            error = attempt(log, 2)
            assert error is not None
            assert error.retryable
            assert "so none is given" in error.detail
            assert files(tmp_path)[0].stat().st_size == size
        mend()
        assert attempt(log, 4) is None
        assert list_ids(log) == ids_of(0, 1, 4, 5)
    with open_log(tmp_path) as log:
        assert list_ids(log) == ids_of(0, 1, 4, 5)
        assert [(one.footer.count, one.footer.cut) for one in log.list_closed()] == [(4, 0)]


@pytest.mark.parametrize("how", ["full", "broken_sync"])
def test_a_disk_that_fails_from_the_start(tmp_path, how):
    disk = FailingDisk()
    mend = break_disk(disk, how)
    with open_log(tmp_path, disk=disk) as log:
        assert attempt(log, 0) is not None
        assert attempt(log, 0) is not None
        mend()
        assert attempt(log, 2) is None
        assert list_ids(log) == ids_of(2, 3)


def test_nothing_is_written_until_a_failed_write_is_taken_back(tmp_path):
    disk = FailingDisk()
    with open_log(tmp_path, disk=disk) as log:
        assert attempt(log, 0) is None
        disk.full = disk.broken_truncate = True
        assert attempt(log, 2) is not None
        disk.full = False
        assert attempt(log, 4) is not None
        assert list_ids(log) == ids_of(0, 1)
        disk.broken_truncate = False
        assert attempt(log, 6) is None
        assert list_ids(log) == ids_of(0, 1, 6, 7)


def test_a_footer_that_finds_no_room_comes_later(tmp_path):
    disk = FailingDisk()
    with open_log(tmp_path, disk=disk) as log:
        assert attempt(log, 0) is None
        disk.full = True
        with pytest.raises(Unavailable, match="no room"):
            asyncio.run(log.close_segment())
        disk.full = False
        closed = asyncio.run(log.close_segment())
    assert closed is not None
    assert closed.footer.count == 2


def test_a_limit_of_the_kernel_is_a_full_disk(tmp_path):
    with open_log(tmp_path) as log:
        assert attempt(log, 0) is None
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (files(tmp_path)[0].stat().st_size + 100, hard))
        try:
            error = attempt(log, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert error is not None
        assert "there is no room for them: make some" in error.detail
        assert attempt(log, 4) is None
        assert list_ids(log) == ids_of(0, 1, 4, 5)


def test_what_a_crash_left_open_is_closed(tmp_path):
    with open_log(tmp_path) as log:
        asyncio.run(log.append(make_records(3)))
        data = files(tmp_path)[0].read_bytes()
    (tmp_path / "decisions" / "0000000001.decisions").write_bytes(data[:-10])
    (tmp_path / "decisions" / "0000000002.decisions").write_bytes(data[:HEADER_SIZE])
    (tmp_path / "decisions" / "0000000003.decisions.new").write_bytes(b"TROT")
    with open_log(tmp_path) as log:
        assert [(one.number, one.footer.count) for one in log.list_closed()] == [(1, 2)]
        assert log.list_closed()[0].footer.cut > 250
        assert list_ids(log) == ids_of(0, 1)
        assert len(files(tmp_path)) == 1


def test_damage_ends_a_scan_or_is_told_and_left_out(tmp_path):
    async def work(log: DecisionLog) -> None:
        for number in range(3):
            await log.append(make_records(2, 2 * number))
        await log.close_segment()
        await log.append([make_record(6)])
        await log.close_segment()
        await log.append([make_record(7)])

    with open_log(tmp_path) as log:
        asyncio.run(work(log))
        first, second, _ = files(tmp_path)
        data = bytearray(first.read_bytes())
        data[data.index(make_record(2).id.encode())] ^= 1
        first.write_bytes(data)
        second.write_bytes(b"X" + second.read_bytes()[1:])
        words: list[str] = []
        assert list_ids(log, on_damage=words.append) == ids_of(0, 1, 4, 5, 7)
        assert len(words) == 2
        assert str(first) in words[0]
        assert "from byte" in words[0]
        assert str(second) in words[1]
        with pytest.raises(DamagedSegment, match=r"0000000001.*damaged from byte"):
            list_ids(log)
        with pytest.raises(DamagedSegment, match="don't lead to the root"):
            log.prove(1, 0)
    with open_log(tmp_path) as log:
        # What can't be read is left alone, and its number isn't taken again.
        assert [one.number for one in log.list_closed()] == [1, 3]
        assert attempt(log, 8) is None
        assert files(tmp_path)[-1].name == "0000000004.decisions"
        assert second.exists()


def test_a_number_that_is_not_there(tmp_path):
    with open_log(tmp_path) as log, pytest.raises(NotFound):
        log.prove(1, 0)
