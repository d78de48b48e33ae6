from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.issuer import NOW
from tests.fakes.source import in_loop
from tests.fakes.virtualtime import VirtualTime
from troth.agent.timing import (
    Agenda,
    Backoff,
    Broadcast,
    place_renewal,
    sleep_until,
    wait_first,
)
from troth.core.entropy import SeededEntropy
from troth.core.errors import Denied, Limited, Unavailable


def test_backoff_starts_fast_doubles_and_is_capped():
    bounds = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30)
    taken = []
    for seed in range(200):
        backoff = Backoff(SeededEntropy(seed), first=0.1, cap=30)
        taken.append([backoff.take() for _ in bounds])
        backoff.reset()
        assert backoff.take() <= 0.1
    for delays, bound in zip(zip(*taken, strict=True), bounds, strict=True):
        assert min(delays) >= 0.05 * bound
        assert max(delays) <= bound
        # Full jitter: every part of the time up to the bound is used.
        assert min(delays) < 0.15 * bound
        assert max(delays) > 0.9 * bound
        assert 0.4 < sum(delays) / len(delays) / bound < 0.65


def test_who_is_told_when_to_come_back_comes_later_than_that():
    backoff = Backoff(SeededEntropy(), first=1, cap=4)
    assert 7 < backoff.take(Unavailable("later", 7)) <= 8
    assert 7 < backoff.take(Limited("later", 7)) <= 9
    assert backoff.take(Unavailable("whenever")) <= 4
    assert backoff.take(Denied("no")) <= 4


@given(st.integers(), st.integers(min_value=1, max_value=10**6))
def test_renewal_lies_within_ten_percent_of_half_life(seed, seconds):
    moment = place_renewal(NOW, NOW + timedelta(seconds=seconds), SeededEntropy(seed))
    share = (moment - NOW).total_seconds() / seconds
    assert 0.449 <= share <= 0.551


@in_loop
async def test_a_change_between_looking_and_waiting_is_not_missed():
    broadcast = Broadcast()
    seen = broadcast.version
    broadcast.announce()
    assert await broadcast.wait_beyond(seen) == 1


@in_loop
async def test_everybody_who_waits_is_woken_and_cancelled_waits_leave_nothing():
    broadcast = Broadcast()
    waits = [asyncio.ensure_future(broadcast.wait_beyond(0)) for _ in range(3)]
    await asyncio.sleep(0)
    waits[0].cancel()
    broadcast.announce()
    assert await asyncio.gather(*waits[1:]) == [1, 1]
    assert not broadcast._waiting


@in_loop
async def test_wait_first_cancels_the_others_and_passes_errors_on():
    never = asyncio.get_running_loop().create_future()
    await wait_first(asyncio.sleep(0), never)
    assert never.cancelled()

    async def fail():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await wait_first(fail(), asyncio.get_running_loop().create_future())


@in_loop
async def test_sleeping_until_a_moment_notices_that_the_clock_was_set():
    time = VirtualTime(NOW)
    task = asyncio.ensure_future(sleep_until(NOW + timedelta(hours=1), time.clock, time.sleep))
    await time.advance(40)
    assert not task.done()
    time.clock.jump(NOW + timedelta(hours=2))
    await time.advance(31)
    assert task.done()


@in_loop
async def test_the_agenda_handles_each_key_when_due_and_once():
    time = VirtualTime(NOW)
    agenda = Agenda(time.clock, time.sleep)
    handled: list[tuple[str, float]] = []
    task = asyncio.ensure_future(
        agenda.run(lambda key: handled.append((key, time.clock.monotonic())))
    )
    agenda.plan("late", NOW + timedelta(seconds=100))
    await time.advance(1)
    agenda.plan("soon", NOW + timedelta(seconds=10))
    agenda.plan("moved", NOW + timedelta(seconds=20))
    agenda.plan("moved", NOW + timedelta(seconds=50))
    agenda.plan("dropped", NOW + timedelta(seconds=30))
    agenda.plan("dropped", None)
    await time.advance(200)
    assert handled == [("soon", 10), ("moved", 50), ("late", 100)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
