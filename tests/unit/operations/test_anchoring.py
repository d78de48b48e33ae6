"""Anchors get the newest published checkpoint: when it is due, once, and never an older one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.fakes.house import FakeHouse, in_house
from troth.core.errors import Unavailable
from troth.drivers.anchors import Anchor
from troth.operations import anchoring
from troth.operations.anchoring import LEASE, AnchorCheckpoints, Mooring
from troth.store.checkpoints import StoredCheckpoint


@dataclass
class FakeAnchor:
    """Remembers what it was given; broken while told so."""

    held: list[str] = field(default_factory=list)
    broken: bool = False
    asked: int = 0

    async def deliver(self, note: bytes) -> None:
        self.asked += 1
        if self.broken:
            raise Unavailable("It can't be reached.")
        self.held.append(note.decode())


async def publish(house: FakeHouse, size: int, *, published: bool = True) -> None:
    made = StoredCheckpoint(size, bytes(32), f"note {size}", house.clock.now(), published)
    await house.parts.store.transact(lambda tx: tx.checkpoints.add(made))


@dataclass
class HangingAnchor:
    """Never says that it has it."""

    asked: int = 0

    async def deliver(self, note: bytes) -> None:
        self.asked += 1
        await asyncio.Event().wait()


def make(house: FakeHouse, *anchors: tuple[Anchor, float]) -> AnchorCheckpoints:
    moorings = tuple(
        Mooring(f"anchor {number}", anchor, every, f"target {number}")
        for number, (anchor, every) in enumerate(anchors)
    )
    return AnchorCheckpoints(house.parts.store, house.parts.clock, moorings)


@in_house
async def test_each_gets_the_newest_after_its_own_time(house: FakeHouse) -> None:
    often, seldom = FakeAnchor(), FakeAnchor()
    run = make(house, (often, 10), (seldom, 60))
    await run()
    assert often.held == seldom.held == []
    for size in range(1, 122):
        await publish(house, size)
        await run()
        house.clock.advance(timedelta(seconds=1))
    assert often.held == [f"note {size}" for size in range(1, 122, 10)]
    assert seldom.held == ["note 1", "note 61", "note 121"]


@in_house
async def test_what_it_has_it_doesnt_get_again(house: FakeHouse) -> None:
    anchor = FakeAnchor()
    run = make(house, (anchor, 10))
    await publish(house, 5)
    for _ in range(30):
        await run()
        house.clock.advance(timedelta(seconds=7))
    assert anchor.held == ["note 5"]
    await make(house, (anchor, 10))()  # nor after a restart
    assert anchor.held == ["note 5"]
    await publish(house, 6)
    await run()
    assert anchor.held == ["note 5", "note 6"]


@in_house
async def test_what_isnt_published_isnt_anchored(house: FakeHouse) -> None:
    anchor = FakeAnchor()
    run = make(house, (anchor, 10))
    await publish(house, 5)
    await publish(house, 6, published=False)
    await run()
    assert anchor.held == ["note 5"]


@in_house
async def test_one_that_fails_is_tried_again_and_holds_up_no_other(house: FakeHouse) -> None:
    broken, sound = FakeAnchor(broken=True), FakeAnchor()
    run = make(house, (broken, 60), (sound, 60))
    await publish(house, 5)
    with capture_logs() as lines:
        await run()
    assert [(one["event"], one["anchor"]) for one in lines] == [("log.unanchored", "anchor 0")]
    assert sound.held == ["note 5"]
    broken.broken = False
    await run()
    assert broken.held == []  # not at once
    house.clock.advance(timedelta(seconds=1))
    await run()
    assert broken.held == ["note 5"]
    assert sound.held == ["note 5"]


@in_house
async def test_another_servers_turn_is_left_to_it(house: FakeHouse) -> None:
    anchor = FakeAnchor()
    await publish(house, 5)
    now = house.clock.now()
    await house.parts.store.transact(
        lambda tx: tx.leases.take(LEASE, "other", now, timedelta(seconds=60))
    )
    run = make(house, (anchor, 10))
    await run()
    assert anchor.held == []
    house.clock.advance(timedelta(seconds=61))
    await run()
    assert anchor.held == ["note 5"]


@in_house
async def test_a_log_that_was_set_back_doesnt_reach_it(house: FakeHouse) -> None:
    anchor = FakeAnchor()
    run = make(house, (anchor, 1))
    await publish(house, 9)
    await run()
    await house.parts.store.transact(lambda tx: tx.checkpoints.remove_all())
    for size in (4, 9, 10):
        await publish(house, size)
        house.clock.advance(timedelta(seconds=5))
        await run()
    assert anchor.held == ["note 9", "note 10"]


@in_house
async def test_one_that_fails_is_tried_less_and_less_often(house: FakeHouse) -> None:
    broken = FakeAnchor(broken=True)
    run = make(house, (broken, 10))
    await publish(house, 5)
    for _ in range(300):
        await run()
        house.clock.advance(timedelta(seconds=1))
    assert 8 <= broken.asked <= 12
    broken.broken = False
    house.clock.advance(timedelta(seconds=60))
    await run()
    assert broken.held == ["note 5"]


def test_one_that_hangs_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchoring, "PATIENCE", 0.1)

    @in_house
    async def check(house: FakeHouse) -> None:
        hanging, sound = HangingAnchor(), FakeAnchor()
        run = make(house, (hanging, 10), (hanging, 10), (sound, 10))
        await publish(house, 5)
        running = asyncio.create_task(run())
        async with asyncio.timeout(10):
            with capture_logs() as lines:
                await running
        assert sound.held == ["note 5"]
        assert hanging.asked == 2
        assert [one["anchor"] for one in lines] == ["anchor 0", "anchor 1"]
        await run()
        assert hanging.asked == 2

    check(tmp_path)


@in_house
async def test_two_on_one_host_are_two(house: FakeHouse) -> None:
    first, second = FakeAnchor(), FakeAnchor()
    moorings = tuple(
        Mooring("https://a.example/in", anchor, 10, f"https://a.example/in?box={number}")
        for number, anchor in enumerate((first, second))
    )
    assert "box" not in repr(moorings)
    await publish(house, 5)
    await AnchorCheckpoints(house.parts.store, house.parts.clock, moorings)()
    assert first.held == second.held == ["note 5"]


@in_house
async def test_several_servers_give_no_more_than_one_would(house: FakeHouse) -> None:
    anchor = FakeAnchor()
    runs = [make(house, (anchor, 60)) for _ in range(3)]
    for size in range(1, 122):
        await publish(house, size)
        for run in runs:
            await run()
        house.clock.advance(timedelta(seconds=1))
    assert anchor.held == ["note 1", "note 61", "note 121"]
    house.clock.jump(house.clock.now() - timedelta(days=1))
    await publish(house, 200)
    await make(house, (anchor, 60))()
    assert anchor.held[-1] == "note 200"  # a clock that was set back stops nothing
