"""What is read ahead: what follows, once, and nothing that isn't wanted."""

from __future__ import annotations

import threading

import pytest

from tests.fakes.logs import show_log
from troth.audit.verification import Scope, verify_log
from troth.cli.readahead import AHEAD, read_ahead
from troth.core.errors import NotFound


class Source:
    """Counts what is asked of a log, from whichever thread."""

    def __init__(self, size: int) -> None:
        self.log = show_log(size).copy()
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        with self._lock:
            self.asked.append(name)
        return self.log.read(name)


def test_every_file_is_read_once_and_the_findings_are_the_same():
    source = Source(10_000)
    size, root = source.log.size, source.log.root
    with read_ahead(source.read, size) as read:
        found = verify_log(read, size, root, Scope(details=False))
    assert found == verify_log(source.log.read, size, root, Scope(details=False))
    assert found.intact
    assert len(source.asked) == len(set(source.asked)) == found.tiles + 40


def test_nothing_beyond_the_end_is_read():
    source = Source(10_000)
    size, root = source.log.size, source.log.root
    with read_ahead(source.read, 1000) as read:
        verify_log(read, size, root, Scope(0, 1000, details=False))
    assert {int(name[-3:]) for name in source.asked if name.startswith("tile/entries/")} == {
        0,
        1,
        2,
        3,
    }


def test_what_is_missing_is_told_where_it_is_wanted():
    source = Source(10_000)
    del source.log.files["tile/entries/007"]
    with read_ahead(source.read, 10_000) as read:
        assert read("checkpoint") == source.log.checkpoint
        read("tile/entries/000")
        with pytest.raises(NotFound):
            read("tile/entries/007")
        assert read("tile/entries/008") == source.log.files["tile/entries/008"]
    assert len([name for name in source.asked if "entries" in name]) <= 2 * AHEAD + 2
