from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.messages import make_messages, read_number
from troth.core.clock import VirtualClock
from troth.core.errors import Invalid
from troth.drivers.sinks import Away, Target
from troth.drivers.sinks.file import Disk, FileSink, list_rotated, parse_path

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


class FailingDisk(Disk):
    def __init__(self) -> None:
        self.full = self.broken = False

    def write(self, handle: int, data: bytes, place: int) -> None:
        if self.full:
            super().write(handle, data[: len(data) // 2], place)
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(handle, data, place)

    def sync(self, handle: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(handle)


class Desk:
    def __init__(self, folder: Path, **fields: Any) -> None:
        self.path = folder / "events.jsonl"
        self.clock = VirtualClock(NOON)
        self.disk = FailingDisk()
        self.target = Target("copy", self.path.as_uri(), **fields)
        self.sink = self.open()

    def open(self) -> FileSink:
        return FileSink(self.target, self.clock, self.disk)

    def deliver(self, count: int, start: int = 1) -> None:
        if self.path.is_file() and self.path.stat().st_mtime > NOON.timestamp() + 86_400 * 30:
            self.touch()  # the kernel's clock isn't the test's
        asyncio.run(self.sink.deliver(make_messages(count, start)))

    def close(self) -> None:
        asyncio.run(self.sink.close())

    def reopen(self) -> None:
        self.close()
        self.sink = self.open()

    def numbers(self, path: Path | None = None) -> list[int]:
        return [read_number(line) for line in (path or self.path).read_bytes().splitlines()]

    def touch(self) -> None:
        """The file was last written at the clock's time."""
        moment = self.clock.now().timestamp()
        os.utime(self.path, (moment, moment))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def test_the_file_is_ours_alone(desk):
    desk.deliver(2)
    assert desk.path.stat().st_mode & 0o777 == 0o600
    assert desk.numbers() == [1, 2]


@pytest.mark.parametrize("fault", ["full", "broken"])
def test_a_full_disk_leaves_no_torn_line_and_nothing_is_lost(desk, fault):
    desk.deliver(3)
    setattr(desk.disk, fault, True)
    for _ in range(3):
        with pytest.raises(Away, match=r"No space left|Input/output"):
            desk.deliver(3, 4)
        assert desk.numbers() == [1, 2, 3]
    setattr(desk.disk, fault, False)
    desk.deliver(3, 4)
    assert desk.numbers() == [1, 2, 3, 4, 5, 6]


def test_what_a_crash_cut_off_is_taken_away(desk):
    desk.deliver(2)
    desk.close()
    whole = desk.path.read_bytes()
    third = make_messages(1, 3)[0].content
    for cut in (1, 20, len(third)):
        desk.path.write_bytes(whole + third[:cut])
        desk.touch()
        desk.reopen()
        desk.deliver(1, 3)
        assert desk.numbers() == [1, 2, 3]
        desk.close()


@pytest.mark.parametrize("torn", [b"{", b"C", b"CE", b"CEF", b"CEF:0|troth"])
def test_however_little_a_crash_left_it_is_ours(desk, torn):
    desk.deliver(1)
    desk.close()
    with desk.path.open("ab") as file:
        file.write(torn)
    desk.touch()
    desk.reopen()
    desk.deliver(1, 2)
    assert desk.numbers() == [1, 2]


def test_who_empties_the_file_or_adds_to_it_makes_no_holes(desk):
    desk.deliver(3)
    os.truncate(desk.path, 0)
    desk.deliver(1, 4)
    assert desk.numbers() == [4]
    with desk.path.open("ab") as file:
        file.write(make_messages(1, 5)[0].content + b"\n")
    desk.deliver(1, 6)
    assert desk.numbers() == [4, 5, 6]


def test_a_long_torn_line_is_found_too(desk):
    desk.deliver(1)
    desk.close()
    with desk.path.open("ab") as file:
        file.write(b"{" + b"x" * 200_000)
    desk.touch()
    desk.reopen()
    desk.deliver(1, 2)
    assert desk.numbers() == [1, 2]


@pytest.mark.parametrize("content", [b"root:x:0:0", b"line\nroot:x:0:0", b"\x7fELF"])
def test_a_file_of_somebody_else_isn_t_touched(desk, content):
    desk.path.write_bytes(content)
    with pytest.raises(Away, match="no file of this sink"):
        desk.deliver(1)
    assert desk.path.read_bytes() == content


def test_a_link_or_a_folder_is_no_file(tmp_path):
    for number, make in enumerate((lambda p: p.symlink_to("/dev/null"), lambda p: p.mkdir())):
        folder = tmp_path / str(number)
        folder.mkdir()
        desk = Desk(folder)
        make(desk.path)
        with pytest.raises(Away):
            desk.deliver(1)


def test_a_pipe_is_no_file(desk):
    os.mkfifo(desk.path)
    with pytest.raises(Away, match="no plain file"):
        desk.deliver(1)


def test_two_processes_don_t_share_a_file(desk):
    desk.deliver(1)
    other = desk.open()
    with pytest.raises(Away, match="Another process"):
        asyncio.run(other.deliver(make_messages(1)))
    desk.close()
    desk.touch()
    asyncio.run(other.deliver(make_messages(1, 2)))
    asyncio.run(other.close())
    assert desk.numbers() == [1, 2]


def test_a_file_that_is_full_is_renamed(tmp_path):
    desk = Desk(tmp_path, rotate_bytes=1500)
    for number in range(1, 40):
        desk.deliver(1, number)
        desk.touch()
    desk.close()
    old = list_rotated(desk.path)
    assert len(old) > 2
    assert old[0].name == "events-20260131T120000Z-1.jsonl"
    assert all(path.stat().st_size <= 1500 for path in old)
    numbers = [number for path in [*old, desk.path] for number in desk.numbers(path)]
    assert numbers == list(range(1, 40))


def test_a_batch_that_is_larger_than_a_file_may_be_is_written_all_the_same(tmp_path):
    desk = Desk(tmp_path, rotate_bytes=1000)
    desk.deliver(50)
    assert desk.numbers() == list(range(1, 51))
    desk.close()


def test_a_new_day_begins_a_new_file(desk):
    desk.deliver(1)
    desk.touch()
    desk.clock.advance(timedelta(hours=11))
    desk.deliver(1, 2)
    desk.touch()
    desk.clock.advance(timedelta(hours=1, seconds=5))
    desk.deliver(1, 3)
    assert [path.name for path in list_rotated(desk.path)] == ["events-20260201T000005Z-1.jsonl"]
    assert desk.numbers() == [3]
    desk.touch()
    desk.clock.advance(timedelta(days=2))
    desk.reopen()
    desk.deliver(1, 4)
    assert desk.numbers() == [4], "also if it was closed meanwhile"
    assert len(list_rotated(desk.path)) == 2


def test_so_many_old_files_are_kept_as_was_said(tmp_path):
    desk = Desk(tmp_path, rotate_bytes=400, keep_files=3)
    (tmp_path / "events-notes.jsonl").write_text("mine")
    for number in range(1, 30):
        desk.deliver(1, number)
        desk.touch()
    desk.close()
    assert len(list_rotated(desk.path)) == 3
    assert (tmp_path / "events-notes.jsonl").exists()
    left = [number for path in list_rotated(desk.path) for number in desk.numbers(path)]
    assert left + desk.numbers() == list(range(min(left), 30))


def test_a_file_that_somebody_moved_away_is_made_anew(desk):
    desk.deliver(1)
    desk.path.rename(desk.path.with_name("taken"))
    desk.deliver(1, 2)
    assert desk.numbers() == [2]
    desk.path.unlink()
    desk.deliver(1, 3)
    assert desk.numbers() == [3]


def test_a_delivery_that_is_given_up_is_over_before_the_next(desk):
    async def main() -> None:
        task = asyncio.create_task(desk.sink.deliver(make_messages(50)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await desk.sink.deliver(make_messages(1, 51))

    asyncio.run(main())
    assert desk.numbers()[-1] == 51


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///var/log/troth/events.jsonl", "/var/log/troth/events.jsonl"),
        ("file://localhost/a%20b", "/a b"),
    ],
)
def test_a_path_is_read_from_the_url(url, path):
    assert parse_path(url) == Path(path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/a",
        "file:a",
        "file://host/a",
        "file:///",
        "file:///a/",
        "file:///a?b",
        "http:///a",
        "file://[a",
    ],
)
def test_another_url_names_no_file(url):
    with pytest.raises(Invalid, match="file:///PATH"):
        parse_path(url)
