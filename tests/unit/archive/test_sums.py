"""Checksums in Parquet: nothing that was altered is given out, and every reader reads on."""

from __future__ import annotations

import random
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troth.archive.sums import BLOCK, CheckedFile, DamagedFile, add_sums


class Memory:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, start: int, size: int) -> bytes:
        return self.data[start : start + size]


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sums") / "some.parquet"
    with duckdb.connect() as engine:
        engine.execute(
            f"COPY (SELECT n, md5(n::VARCHAR) AS word FROM range(9000) AS r(n)) TO '{path}' "
            "(FORMAT parquet)"
        )
    add_sums(path, b'{"label":1}')
    return path


def test_every_reader_of_parquet_reads_it(parquet):
    with duckdb.connect() as engine:
        found = engine.execute(
            "SELECT count(*), sum(n), min(word) FROM read_parquet(?)", [str(parquet)]
        ).fetchall()
        assert found[0][:2] == (9000, 9000 * 8999 // 2)


def test_reads_are_those_of_the_file(parquet):
    data = parquet.read_bytes()
    file = CheckedFile(Memory(data), "it")
    assert file.size == len(data) > 3 * BLOCK
    assert file.label == b'{"label":1}'
    assert file.read(0, len(data)) == data
    chance = random.Random(1)
    for _ in range(300):
        start = chance.randrange(len(data) + 10)
        size = chance.choice([0, 1, 9, BLOCK, 3 * BLOCK, chance.randrange(len(data))])
        assert file.read(start, size) == data[start : start + size]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_never_given_out(parquet, data):
    whole = parquet.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[place] ^= 1 << data.draw(st.integers(0, 7))
    blob = Memory(bytes(altered))
    with pytest.raises(DamagedFile, match=r"the-file is damaged.*Restore it from a backup"):
        CheckedFile(blob, "the-file").read(place, 1)


@pytest.mark.parametrize("kept", [0, 3, 8, 100, BLOCK, 2 * BLOCK + 17, -1, -8, -200])
def test_a_file_that_was_cut_off_is_told(parquet, kept):
    with pytest.raises(DamagedFile):
        CheckedFile(Memory(parquet.read_bytes()[:kept]), "it")


def test_a_file_that_shrinks_while_it_is_read_is_told(parquet):
    blob = Memory(parquet.read_bytes())
    file = CheckedFile(blob, "it")
    blob.data = blob.data[:BLOCK]
    assert file.read(0, 100) == blob.data[:100]
    with pytest.raises(DamagedFile, match="was cut off"):
        file.read(BLOCK + 5, 1)


def test_parquet_of_others_has_no_checksums(tmp_path):
    path = tmp_path / "plain.parquet"
    with duckdb.connect() as engine:
        engine.execute(f"COPY (SELECT 1 AS a) TO '{path}' (FORMAT parquet)")
    with pytest.raises(DamagedFile, match="checksums are missing"):
        CheckedFile(Memory(path.read_bytes()), "it")


def test_what_is_no_parquet_gets_none(tmp_path):
    path = tmp_path / "text.parquet"
    path.write_bytes(b"no Parquet at all")
    with pytest.raises(DamagedFile, match="isn't Parquet"):
        add_sums(path, b"")
