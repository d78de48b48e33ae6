"""A log that was seen before: it may grow, and do nothing else."""

from __future__ import annotations

import pytest

from tests.fakes.logs import FakeLog, make_event, make_events, make_log, show_log
from troth.audit.checkpoint import Checkpoint
from troth.audit.continuity import Forked, RolledBack, verify_growth
from troth.audit.merkle import EMPTY_ROOT, HASH_SIZE
from troth.audit.tile import DamagedTile
from troth.core.errors import Invalid, NotFound


def checkpoint(log: FakeLog) -> Checkpoint:
    return Checkpoint("example.org/log", log.size, log.root)


def rewrite(size: int, position: int) -> FakeLog:
    events = make_events(size)
    events[position - 1] = make_event(position, actor="uid:0")
    return make_log(events)


@pytest.mark.parametrize(("old", "new"), [(1, 2), (100, 1000), (256, 257), (999, 1000), (5, 5)])
def test_a_log_grows(old, new):
    log = show_log(new)
    verify_growth(log.read, checkpoint(show_log(old)), checkpoint(log))


def test_from_nothing_every_log_grows():
    log = show_log(5)
    empty = Checkpoint("example.org/log", 0, EMPTY_ROOT)
    verify_growth(log.read, empty, checkpoint(log))
    verify_growth(log.read, empty, empty)


def test_a_log_with_fewer_entries_was_rolled_back():
    with pytest.raises(RolledBack, match="it had 1000 entries, and now its checkpoint says 100"):
        verify_growth(show_log(100).read, checkpoint(show_log(1000)), checkpoint(show_log(100)))


def test_one_size_and_two_roots_are_a_fork():
    other = rewrite(1000, 3)
    with pytest.raises(Forked, match="forked") as caught:
        verify_growth(other.read, checkpoint(show_log(1000)), checkpoint(other))
    assert show_log(1000).root.hex() in caught.value.detail
    assert other.root.hex() in caught.value.detail


@pytest.mark.parametrize("position", [1, 300, 600])
def test_a_larger_log_with_another_past_is_a_fork(position):
    other = rewrite(1000, position)
    with pytest.raises(Forked):
        verify_growth(other.read, checkpoint(show_log(600)), checkpoint(other))


def test_what_comes_after_may_be_anything():
    other = rewrite(1000, 601)
    verify_growth(other.read, checkpoint(show_log(600)), checkpoint(other))


def test_damaged_tiles_are_no_fork():
    log = show_log(1000).copy()
    log.flip("tile/0/003.p/232", 100 * HASH_SIZE)
    with pytest.raises(DamagedTile, match="can't be told"):
        verify_growth(log.read, checkpoint(show_log(900)), checkpoint(log))
    del log.files["tile/0/003.p/232"]
    with pytest.raises(NotFound, match="is missing"):
        verify_growth(log.read, checkpoint(show_log(900)), checkpoint(log))


def test_two_logs_are_not_compared():
    other = Checkpoint("other.org/log", 1000, show_log(1000).root)
    with pytest.raises(Invalid, match="two logs"):
        verify_growth(show_log(1000).read, checkpoint(show_log(100)), other)
