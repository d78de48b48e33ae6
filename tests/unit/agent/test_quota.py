"""What each uid may take."""

from __future__ import annotations

from datetime import timedelta

import pytest

from troth.agent.quota import Limits, Quota
from troth.core.clock import VirtualClock


@pytest.fixture
def clock():
    return VirtualClock()


def test_uids_do_not_share_their_limits(clock):
    quota = Quota(Limits(connections=1, streams=1), clock)
    assert quota.open_connection(1)
    assert not quota.open_connection(1)
    assert quota.open_connection(2)
    assert quota.open_stream(1)
    assert not quota.open_stream(1)
    assert quota.open_stream(2)
    quota.close_connection(1)
    quota.close_stream(1)
    assert quota.open_connection(1)
    assert quota.open_stream(1)


def test_all_uids_together_have_a_limit_too(clock):
    quota = Quota(Limits(connections=2, connections_total=3), clock)
    assert [quota.open_connection(uid) for uid in (1, 1, 2, 2)] == [True, True, True, False]


def test_no_uid_gets_more_than_half_of_all_connections(clock):
    quota = Quota(Limits(connections=1_000, connections_total=10), clock)
    assert sum(quota.open_connection(1) for _ in range(20)) == 5
    assert sum(quota.open_connection(2) for _ in range(20)) == 5


def test_an_allowance_grows_back_with_time_and_never_beyond_its_burst(clock):
    quota = Quota(Limits(frames_burst=2, frames_per_second=1), clock)
    assert [quota.take_frame(1, 1) for _ in range(3)] == [True, True, False]
    clock.advance(timedelta(seconds=1))
    assert [quota.take_frame(1, 1) for _ in range(2)] == [True, False]
    clock.advance(timedelta(days=1))
    assert [quota.take_frame(1, 1) for _ in range(3)] == [True, True, False]


def test_coming_back_does_not_refill_an_allowance(clock):
    quota = Quota(Limits(frames_burst=2, frames_per_second=1), clock)
    assert quota.open_connection(1)
    quota.close_connection(1)
    assert quota.open_connection(1)
    quota.close_connection(1)
    assert not quota.open_connection(1)


def test_idle_uids_are_forgotten_and_busy_ones_are_not(clock):
    quota = Quota(Limits(connections=1), clock)
    assert quota.open_connection(0)
    for uid in range(1, 5_000):
        quota.take_frame(uid, 1)
    assert len(quota._accounts) <= 1_025
    assert not quota.open_connection(0)
