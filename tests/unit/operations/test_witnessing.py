"""Cosignatures are gathered: enough publish, who fails holds up nobody, and forks are told."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.fakes.circle import Circle
from tests.fakes.house import FakeHouse, in_house
from tests.fakes.witnesses import (
    DeskWitness,
    HangingWitness,
    SayingWitness,
    SlowWitness,
    make_signer,
)
from troth.audit.checkpoint import open_checkpoint, parse_checkpoint
from troth.audit.note import parse_note, verify_note
from troth.audit.witness import Cosigned, Declined, Reason
from troth.core.errors import Unavailable
from troth.operations import witnessing
from troth.operations.log import PATIENCE


@in_house
async def test_two_of_three_are_enough_and_one_is_down(house: FakeHouse) -> None:
    circle = Circle(house, quorum=2)
    circle.seat()
    down = SayingWitness([Unavailable("w2 can't be reached.")])
    circle.seat(down)
    circle.seat()
    await circle.grow()
    assert not (await circle.newest()).published
    gather = circle.gather()
    with capture_logs() as lines:
        await gather()
    assert (await circle.newest()).published
    assert await circle.cosigners() == {"witness.example/w1", "witness.example/w3"}
    assert [one["event"] for one in lines] == ["witness.cosigned", "witness.cosigned"] or any(
        one["event"] == "witness.failed" and one["witness"] == "witness.example/w2" for one in lines
    )
    assert (circle.meter.cosigned, circle.meter.disputing) == (2, 0)
    await circle.write()
    shown = house.parts.log.read("checkpoint")
    checkpoint, _, signers = open_checkpoint(shown, house.parts.signer.keys)
    assert checkpoint.size == house.parts.log.size
    assert signers == house.parts.signer.keys
    assert await circle.disputes() == []


@in_house
async def test_whatever_one_makes_break_the_others_are_heard(house: FakeHouse) -> None:
    circle = Circle(house, quorum=1)
    circle.seat(SayingWitness([ValueError("Nobody thought of this.")]))
    circle.seat()
    await circle.grow()
    with capture_logs() as lines:
        await circle.gather()()
    assert (await circle.newest()).published
    told = [one["witness"] for one in lines if one["event"] == "witness.broke"]
    assert told == ["witness.example/w1"]


@in_house
async def test_one_of_three_isnt_enough(house: FakeHouse) -> None:
    circle = Circle(house, quorum=2)
    circle.seat()
    for _ in range(2):
        circle.seat(SayingWitness([Unavailable("It can't be reached.")]))
    await circle.grow()
    await circle.gather()()
    assert not (await circle.newest()).published
    assert await circle.cosigners() == {"witness.example/w1"}


@in_house
async def test_each_is_asked_from_where_it_was(house: FakeHouse) -> None:
    circle = Circle(house)
    witness = circle.seat()
    assert isinstance(witness, DeskWitness)
    gather = circle.gather()
    sizes = []
    for _ in range(3):
        await circle.grow()
        await gather()
        sizes.append((await circle.newest()).size)
        assert (await circle.newest()).published
    assert [one.old_size for one in witness.asked] == [0, *sizes[:2]]
    await gather()
    assert len(witness.asked) == 3  # it has signed this one
    await circle.grow()
    await circle.gather()()  # a server that was started anew, and knows nothing
    assert [one.old_size for one in witness.asked[3:]] == [0, sizes[-1]]
    assert await circle.cosigners() == {"witness.example/w1"}


@in_house
async def test_witnesses_get_the_logs_signatures_alone(house: FakeHouse) -> None:
    circle = Circle(house)
    first, second = circle.seat(), circle.seat(SayingWitness([Unavailable("Not yet.")]))
    assert isinstance(first, DeskWitness)
    await circle.grow()
    gather = circle.gather()
    await gather()
    assert isinstance(second, SayingWitness)
    house.clock.advance(timedelta(seconds=2))
    await gather()
    for asked in (*first.asked, *second.asked):
        assert {one.name for one in asked.note.signatures} == {house.parts.signer.origin}


@in_house
async def test_who_hangs_holds_up_nobody(house: FakeHouse) -> None:
    circle = Circle(house, quorum=2, seconds=30.0)
    hanging = circle.seat(HangingWitness())
    circle.seat()
    circle.seat()
    await circle.grow()
    gather = circle.gather()
    running = asyncio.create_task(gather())
    async with asyncio.timeout(10):
        while not (await circle.newest()).published:  # each look gives it a turn
            assert not running.done()
    assert isinstance(hanging, HangingWitness)
    assert hanging.asked == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gather()
    assert hanging.asked == 1  # it isn't asked again at once


def test_who_hangs_is_waited_for_a_moment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnessing, "LINGER", 0.05)

    @in_house
    async def check(house: FakeHouse) -> None:
        circle = Circle(house, quorum=1, seconds=30.0)
        circle.seat(HangingWitness())
        circle.seat()
        await circle.grow()
        async with asyncio.timeout(10):
            await circle.gather()()
        assert await circle.cosigners() == {"witness.example/w2"}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    check(tmp_path)


def test_who_is_slow_is_waited_for_once_it_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment is for those who are late when enough have signed, and for this once alone."""
    monkeypatch.setattr(witnessing, "LINGER", 0.05)

    @in_house
    async def check(house: FakeHouse) -> None:
        circle = Circle(house, quorum=1, seconds=30.0)
        circle.seat()
        slow = SlowWitness()
        circle.seat(slow)
        await circle.grow()
        async with asyncio.timeout(10):
            gather = circle.gather()
            await gather()
            assert await circle.cosigners() == {"witness.example/w1"}
            house.clock.advance(timedelta(seconds=60))
            running = asyncio.create_task(gather())
            await slow.wait_until_asked(2)
            done, _ = await asyncio.wait([running], timeout=0.3)
            assert not done
            slow.answer(Cosigned(circle.signers[1].cosign(*await circle.read(), 1_700_000_000)))
            await running
        assert await circle.cosigners() == {"witness.example/w1", "witness.example/w2"}

    check(tmp_path)


def test_who_is_slow_holds_up_no_newer_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnessing, "LINGER", 0.05)

    @in_house
    async def check(house: FakeHouse) -> None:
        circle = Circle(house, quorum=1, seconds=30.0)
        circle.seat()
        slow = SlowWitness()
        circle.seat(slow)
        await circle.grow()
        async with asyncio.timeout(10):
            gather = circle.gather()
            await gather()
            house.clock.advance(timedelta(seconds=60))
            running = asyncio.create_task(gather())
            await slow.wait_until_asked(2)
            await circle.grow()
            await running
        assert asyncio.all_tasks() == {asyncio.current_task()}

    check(tmp_path)


@in_house
async def test_who_is_away_for_days_holds_up_nobody(house: FakeHouse) -> None:
    circle = Circle(house, quorum=1)
    circle.seat()
    away = SayingWitness([Unavailable("It can't be reached.")])
    circle.seat(away)
    await circle.grow()
    gather = circle.gather()
    for _ in range(1100):
        await gather()
        house.clock.advance(timedelta(seconds=60))
    assert len(away.asked) == 1100
    await circle.grow()
    await gather()
    assert (await circle.newest()).published


@in_house
async def test_of_two_servers_at_once_no_cosignature_is_lost(house: FakeHouse) -> None:
    """One stands still while it asks, until its lease has run out and the other has published."""
    circle = Circle(house, quorum=2, seconds=30.0)
    first, second = SlowWitness(), SlowWitness()
    circle.seat(first)
    circle.seat(second)
    await circle.grow()
    running = asyncio.create_task(circle.gather()())
    await first.wait_until_asked(1)
    await second.wait_until_asked(1)
    made = [one.cosign(*await circle.read(), 1_700_000_000) for one in circle.signers]
    for number, seat in enumerate(circle.seats):
        witness = SayingWitness([Cosigned(made[number])])
        circle.seats[number] = replace(seat, witness=witness)
    await circle.gather()()
    assert (await circle.newest()).published
    first.answer(Declined(Reason.MALFORMED))
    second.answer(Cosigned(made[1]))
    await running
    assert await circle.cosigners() == {"witness.example/w1", "witness.example/w2"}


@in_house
async def test_without_enough_each_has_its_time(house: FakeHouse) -> None:
    circle = Circle(house, seconds=0.05)
    circle.seat(HangingWitness())
    circle.seat()
    await circle.grow()
    with capture_logs() as lines:
        await circle.gather()()
    assert [one["witness"] for one in lines if one["event"] == "witness.silent"] == [
        "witness.example/w1"
    ]
    assert await circle.cosigners() == {"witness.example/w2"}


@in_house
async def test_who_fails_is_asked_less_and_less_often(house: FakeHouse) -> None:
    circle = Circle(house)
    failing = SayingWitness([Unavailable("It can't be reached.")])
    circle.seat(failing)
    await circle.grow()
    gather = circle.gather()
    for _ in range(300):
        await gather()
        house.clock.advance(timedelta(seconds=1))
    assert 8 <= len(failing.asked) <= 12
    signer = circle.signers[0]
    failing.answers = [Cosigned(signer.cosign(*await circle.read(), 1_700_000_000))]
    house.clock.advance(timedelta(seconds=60))
    await gather()
    assert (await circle.newest()).published
    asked = len(failing.asked)
    await circle.grow()
    failing.answers = [Cosigned(signer.cosign(*await circle.read(), 1_700_000_000))]
    await gather()
    assert len(failing.asked) == asked + 1  # all is forgotten


@in_house
async def test_who_lies_adds_nothing(house: FakeHouse) -> None:
    """Cosignatures of others, of another checkpoint, without a time, altered, or none."""
    circle = Circle(house)
    await circle.grow()
    tree, text = await circle.read()
    stranger = make_signer("witness.example/w9", 99)
    other = circle.house.parts.signer.keys[0].name
    liars = [
        stranger.cosign(tree, text, 1_700_000_000),
        make_signer("witness.example/w2", 2).cosign(tree, text, 0),
        make_signer("witness.example/w3", 98).cosign(tree, text, 1_700_000_000),
        make_signer("witness.example/w4", 4).cosign(
            parse_checkpoint(text.replace(f"\n{tree.size}\n", "\n1\n")),
            text.replace(f"\n{tree.size}\n", "\n1\n"),
            1_700_000_000,
        ),
        (),
    ]
    assert other != "witness.example/w9"
    for made in liars:
        circle.seat(SayingWitness([Cosigned(made)]))
    circle.seat()
    circle.quorum = 2
    before = parse_note((await circle.newest()).note.encode())
    with capture_logs() as lines:
        await circle.gather()()
    assert not (await circle.newest()).published
    assert await circle.cosigners() == {"witness.example/w6"}
    after = parse_note((await circle.newest()).note.encode())
    assert len(after.signatures) == len(before.signatures) + 2
    assert sum(one["event"] == "witness.failed" for one in lines) == len(liars)
    assert await circle.disputes() == []


@in_house
async def test_who_runs_in_circles_is_left(house: FakeHouse) -> None:
    circle = Circle(house)
    sizes = [Declined(Reason.STALE, size) for size in (3, 2, 1, 3)]
    running = SayingWitness([*sizes])
    circle.seat(running)
    same = SayingWitness([Declined(Reason.STALE, 0)])
    circle.seat(same)
    await circle.grow()
    await circle.gather()()
    assert (len(running.asked), len(same.asked)) == (3, 1)
    assert await circle.disputes() == []


@in_house
async def test_what_to_do_is_told_where_the_log_is_unknown(house: FakeHouse) -> None:
    circle = Circle(house)
    for reason in (Reason.UNKNOWN_LOG, Reason.UNSIGNED, Reason.MALFORMED):
        circle.seat(SayingWitness([Declined(reason)]))
    await circle.grow()
    with capture_logs() as lines:
        await circle.gather()()
    details = [one["detail"] for one in lines if one["event"] == "witness.failed"]
    assert len(details) == 3
    assert any("give its operator the log's vkeys" in one for one in details)


@in_house
async def test_a_key_of_one_kind_is_enough(house: FakeHouse) -> None:
    circle = Circle(house)
    circle.seat(keys=1)
    await circle.grow()
    await circle.gather()()
    newest = await circle.newest()
    assert newest.published
    note = parse_note(newest.note.encode())
    assert verify_note(note, circle.seats[0].keys) == circle.seats[0].keys
    assert len(note.signatures) == 3  # the one that nobody asked for is passed over


@in_house
async def test_when_fewer_are_asked_for_what_is_there_is_published(house: FakeHouse) -> None:
    circle = Circle(house, quorum=2)
    circle.seat()
    circle.seat(SayingWitness([Unavailable("It can't be reached.")]))
    await circle.grow()
    await circle.gather()()
    assert not (await circle.newest()).published
    circle.quorum = 1
    await circle.gather()()
    assert (await circle.newest()).published


@in_house
async def test_another_servers_turn_is_left_to_it(house: FakeHouse) -> None:
    circle = Circle(house)
    witness = circle.seat()
    await circle.grow()
    now = house.clock.now()
    await house.parts.store.transact(
        lambda tx: tx.leases.take(witnessing.LEASE, "other", now, timedelta(seconds=60))
    )
    await circle.gather()()
    assert isinstance(witness, DeskWitness)
    assert witness.asked == []
    house.clock.advance(timedelta(seconds=61))
    await circle.gather()()
    assert len(witness.asked) == 1


# Signing waits for witnesses


@in_house
async def test_a_checkpoint_isnt_signed_over_while_witnesses_are_asked(house: FakeHouse) -> None:
    circle = Circle(house)
    circle.seat(SayingWitness([Unavailable("It can't be reached.")]))
    await circle.grow()
    first = await circle.newest()
    await circle.grow()
    assert await circle.newest() == first
    house.clock.advance(PATIENCE)
    await circle.grow()
    second = await circle.newest()
    assert second.size > first.size
    circle.seats.clear()
    circle.signers.clear()
    circle.seat()
    await circle.gather()()
    await circle.grow()
    assert (await circle.newest()).size > second.size  # at once, since that one is published
