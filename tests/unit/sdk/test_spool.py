"""The spool: what waits to be reported, in files and in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from troth.core.entropy import SeededEntropy
from troth.core.errors import Invalid
from troth.sdk import spool as module
from troth.sdk.spool import FileSpool, MemorySpool, Spool

MIB = 1 << 20


def make(folder: Path, seed: int = 1, most: int = MIB) -> FileSpool:
    return FileSpool(folder, SeededEntropy(seed), most)


def lines(start: int, end: int) -> list[bytes]:
    return [f'{{"n":{number}}}'.encode() for number in range(start, end)]


def drain(spool: Spool, most: int = 7) -> list[bytes]:
    found: list[bytes] = []
    while (batch := spool.read(most, MIB)).entries:
        found += batch.entries
        spool.remove(batch)
    return found


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_what_goes_in_comes_out_once_and_in_order(kind: str, tmp_path: Path) -> None:
    spool: Spool = make(tmp_path / "s") if kind == "file" else MemorySpool()
    spool.append(lines(0, 10))
    assert spool.read(3, MIB).entries == lines(0, 3)
    assert spool.read(3, MIB).entries == lines(0, 3)  # until it is removed
    assert spool.read(3, 1).entries == lines(0, 1)  # one at least
    assert drain(spool) == lines(0, 10)
    spool.append(lines(10, 12))
    assert drain(spool) == lines(10, 12)
    assert spool.lost == 0
    spool.close()


def test_what_a_process_left_the_next_one_takes_over(tmp_path: Path) -> None:
    first, second = make(tmp_path, 1), make(tmp_path, 2)
    first.append(lines(0, 5))
    second.append(lines(5, 6))
    assert drain(second) == lines(5, 6)  # the first one lives
    first.close()
    third = make(tmp_path, 3)
    assert drain(third) == lines(0, 5)
    third.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    first = make(tmp_path, 1)
    first.append(lines(0, 3))
    first.close()
    (path,) = tmp_path.glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"n":3')
    second = make(tmp_path, 2)
    second.append(lines(4, 5))
    assert drain(second) == [*lines(0, 3), *lines(4, 5)]
    second.close()


def test_the_oldest_go_when_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 100)
    spool = make(tmp_path, most=250)
    for start in range(0, 100, 5):
        spool.append(lines(start, start + 5))
    left = drain(spool)
    assert left == lines(100 - len(left), 100)
    assert spool.lost == 100 - len(left)
    spool.close()
    memory = MemorySpool(10)
    memory.append(lines(0, 8))
    batch = memory.read(5, MIB)
    memory.append(lines(8, 16))
    assert memory.lost == 6
    memory.remove(batch)  # some of it is gone already
    assert drain(memory) == lines(6, 16)


def test_a_folder_that_others_see_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(Invalid, match="chmod 700"):
        make(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(Invalid):
        make(tmp_path / "file")
