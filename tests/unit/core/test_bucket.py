"""Token buckets and the pacer: how much passes, and when the others are told to come back."""

from __future__ import annotations

import pytest

from troth.core.bucket import Bucket, Buckets, Pacer


def test_a_bucket_starts_full_and_grows_back() -> None:
    bucket = Bucket(10, 2, 0.0)
    assert [bucket.take(5, 0.0), bucket.take(5, 0.0), bucket.take(1, 0.0)] == [True, True, False]
    assert bucket.measure_wait(4, 0.0) == 2.0
    assert bucket.take(4, 2.0)
    assert not bucket.take(11, 1e6)  # never more than a full one


def test_each_key_has_its_own_bucket() -> None:
    buckets = Buckets(10, 1)
    assert [buckets.take("a", 10, 0.0), buckets.take("b", 10, 0.0)] == [0.0, 0.0]
    assert buckets.take("a", 5, 0.0) == 5.0
    assert buckets.take("c", 1000, 0.0) == 0.0  # more than a whole bucket costs a whole bucket
    assert buckets.take("c", 1000, 4.0) == 6.0


def test_the_longest_unused_is_forgotten() -> None:
    buckets = Buckets(1, 0.001, limit=2)
    for key in ("a", "b", "a", "c"):
        buckets.take(key, 1, 0.0)
    assert buckets.take("b", 1, 0.0) == 0.0
    assert len(buckets._known) == 2


def test_those_sent_away_are_promised_one_time_after_another() -> None:
    pacer = Pacer(burst=10, per_second=10, horizon=5, now=0.0)
    waits = [pacer.take(0.0) for _ in range(40)]
    assert waits[:10] == [0.0] * 10
    assert waits[10:] == pytest.approx([0.1 * (n + 1) for n in range(30)])
    assert [pacer.take(1.0) for _ in range(11)] == [*[0.0] * 10, pytest.approx(2.1)]
    for _ in range(1000):
        assert pacer.take(1.0) <= 5.0


def test_who_keeps_to_the_promise_passes() -> None:
    pacer = Pacer(burst=20, per_second=10, horizon=60, now=0.0)
    waiting = sorted((pacer.take(0.0), n) for n in range(300))
    tries, last = 0, 0.0
    while waiting:
        moment, number = waiting.pop(0)
        if moment == 0.0:
            continue
        tries, last = tries + 1, moment
        wait = pacer.take(moment)
        if wait:
            waiting.append((moment + wait, number))
            waiting.sort()
    assert last < 1.2 * 300 / 10
    assert tries < 2 * 300
