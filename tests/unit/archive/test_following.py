"""Decisions followed as they are recorded: none is missed, none is twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.decisions import NOON, make_record, make_records
from troth.archive.following import DecisionFollower
from troth.archive.log import DecisionLog
from troth.archive.record import DecisionRecord
from troth.archive.segment import name_segment
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy


def open_log(folder: Path) -> DecisionLog:
    return DecisionLog(folder / "decisions", VirtualClock(NOON), SeededEntropy(1), "a1b2")


def read_ids(follower: DecisionFollower, most: int = 100) -> list[str]:
    found: list[DecisionRecord] = []
    while follower.is_behind:
        read = follower.read(most)
        assert len(read) <= most
        found += read
    return [one.id for one in found]


def test_only_what_comes_later_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        first = DecisionFollower(log)
        assert not first.is_behind
        await log.append(make_records(3))
        second = DecisionFollower(log)
        assert read_ids(second) == []
        await log.append([make_record(3)])
        assert read_ids(first) == [one.id for one in make_records(4)]
        assert read_ids(second) == [make_record(3).id]
        await log.close_segment()
        third = DecisionFollower(log)
        assert read_ids(first) == read_ids(second) == read_ids(third) == []
        await log.append([make_record(4)])
        for follower in (first, second, third):
            assert read_ids(follower) == [make_record(4).id]
        log.close()

    asyncio.run(main())


def test_what_is_gone_or_damaged_is_passed_over(tmp_path: Path) -> None:
    async def main() -> None:
        log = open_log(tmp_path)
        follower = DecisionFollower(log)
        for number in range(4):
            await log.append([make_record(number)])
            await log.close_segment()
        log.remove(2)
        path = tmp_path / "decisions" / name_segment(3)
        data = bytearray(path.read_bytes())
        data[2] ^= 1
        path.write_bytes(data)
        assert read_ids(follower) == [make_record(0).id, make_record(3).id]
        log.close()

    asyncio.run(main())


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.sampled_from(["append", "close", "read", "many"]), max_size=12))
def test_however_it_is_read_all_comes_once(steps: list[str]) -> None:
    async def main(folder: Path) -> None:
        log = open_log(folder)
        follower = DecisionFollower(log)
        written = 0
        told: list[str] = []
        for step in steps:
            count = {"append": 1, "many": 7}.get(step, 0)
            await log.append(make_records(count, written))
            written += count
            if step == "close":
                await log.close_segment()
            if step == "read":
                told += [one.id for one in follower.read(3)]
        told += read_ids(follower, 2)
        assert told == [one.id for one in make_records(written)]
        log.close()

    with TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))
