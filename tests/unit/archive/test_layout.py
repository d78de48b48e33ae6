"""Names of the archive's files: which of several count."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.archive.layout import (
    ArchiveFile,
    Table,
    choose_current,
    find_day,
    list_span,
    parse_name,
)

DAY = date(2026, 1, 2)


def make_file(first: int, last: int, revision: int = 0, writer: str = "a1b2") -> ArchiveFile:
    return ArchiveFile(Table.DECISIONS, DAY, writer, first, last, revision)


@given(
    st.sampled_from(Table),
    st.dates(),
    st.from_regex(r"[A-Za-z0-9_]{1,16}", fullmatch=True),
    st.integers(0, 2**62),
    st.integers(0, 10**6),
    st.integers(0, 99),
)
def test_a_name_tells_all_about_a_file(table, day, writer, first, more, revision):
    file = ArchiveFile(table, day, writer, first, first + more, revision)
    assert parse_name(file.name) == file


@pytest.mark.parametrize(
    "name",
    [
        "",
        "decisions/day=2026-01-02/a1b2-0000000001-0000000001-0.parquet.new",
        "decisions/day=2026-01-02/../a1b2-0000000001-0000000001-0.parquet",
        "decisions/day=2026-02-30/a1b2-0000000001-0000000001-0.parquet",
        "decisions/day=2026-01-02/a1b2-0000000002-0000000001-0.parquet",
        "decisions/day=2026-01-02/a1b2-1-1-0.parquet",
        "decisions/day=2026-01-02/a1b2-00000000001-0000000001-0.parquet",
        "decisions/day=2026-01-02/a1b2-0000000001-0000000001-00.parquet",
        "decisions/day=2026-01-02/a1/b2-0000000001-0000000001-0.parquet",
        "decisions/day=2026-01-02/a1b2-0000000001-0000000001-0.parquet\n",
        "secrets/day=2026-01-02/a1b2-0000000001-0000000001-0.parquet",
        "decisions/day=2026-01-02/*-0000000001-0000000001-0.parquet",
        "decisions/day=2026-01-02/a1b2-٠٠٠٠٠٠٠٠٠١-0000000001-0.parquet",
    ],
)
def test_other_names_are_none_of_ours(name):
    assert parse_name(name) is None


def test_a_wider_file_replaces_what_is_in_it_and_a_higher_revision_the_same():
    piece, other, wide = make_file(2, 2), make_file(5, 5), make_file(1, 4)
    again, elsewhere = make_file(1, 4, 1), make_file(2, 2, writer="c3d4")
    touched = piece.beside(Table.TOUCHED)
    files = [piece, other, wide, again, elsewhere, touched]
    for given_ in permutations(files):
        current, replaced = choose_current(given_)
        assert current == sorted([other, again, elsewhere, touched])
        assert replaced == sorted([piece, wide])


def test_days_are_those_of_utc():
    late = datetime(2026, 1, 1, 23, 30, tzinfo=UTC).astimezone()
    assert find_day(late) == date(2026, 1, 1)
    begin = datetime(2026, 1, 2, tzinfo=UTC)
    assert list_span(begin, begin + timedelta(days=1)) == (DAY, DAY)
    assert list_span(begin, begin + timedelta(days=1, microseconds=1))[1] == date(2026, 1, 3)
