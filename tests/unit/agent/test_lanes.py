"""Turns for each uid."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.source import in_loop
from troth.agent.lanes import Lanes
from troth.core.errors import Limited


async def turn():
    for _ in range(5):
        await asyncio.sleep(0)


@in_loop
async def test_so_many_go_so_many_wait_and_others_do_not_notice():
    lanes = Lanes(2, 1)
    await lanes.enter(1)
    await lanes.enter(1)
    waiting = asyncio.ensure_future(lanes.enter(1))
    await turn()
    assert not waiting.done()
    with pytest.raises(Limited, match="wait already"):
        await lanes.enter(1)
    await lanes.enter(2)
    lanes.leave(1)
    await waiting
    for uid in (1, 1, 2):
        lanes.leave(uid)
    assert not lanes._lanes


@in_loop
async def test_the_first_who_waits_is_the_first_to_go():
    lanes = Lanes(1, 10)
    await lanes.enter(1)
    gone = []

    async def go(number):
        await lanes.enter(1)
        gone.append(number)
        lanes.leave(1)

    tasks = [asyncio.ensure_future(go(number)) for number in range(5)]
    await turn()
    lanes.leave(1)
    await asyncio.gather(*tasks)
    assert gone == [0, 1, 2, 3, 4]


@in_loop
@pytest.mark.parametrize("given", [False, True], ids=["waiting", "just-given"])
async def test_who_gives_up_leaves_no_turn_behind(given):
    lanes = Lanes(1, 1)
    await lanes.enter(1)
    waiting = asyncio.ensure_future(lanes.enter(1))
    await turn()
    if given:
        lanes.leave(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not given:
        lanes.leave(1)
    assert not lanes._lanes
