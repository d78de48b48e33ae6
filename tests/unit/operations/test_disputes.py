"""A witness that says that the log was another before is told of: once, and until it cosigns."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from structlog.testing import capture_logs

from tests.fakes.circle import Circle
from tests.fakes.house import FakeHouse, in_house
from tests.fakes.witnesses import DeskWitness, SayingWitness, make_desk
from troth.audit.witness import Cosigned, Declined, Reason
from troth.operations.log import PATIENCE
from troth.operations.witnessing import GatherCosignatures
from troth.store.checkpoints import StoredCheckpoint


async def fork(circle: Circle, size: int) -> DeskWitness:
    """A witness that has cosigned another history of this log, signed with its very keys."""
    signer = circle.house.parts.signer
    note = signer.sign(size, bytes(32), circle.house.clock.now()).encode()
    witness = circle.seat()
    assert isinstance(witness, DeskWitness)
    body = b"old 0\n\n" + note
    assert not hasattr(await asyncio.to_thread(witness.desk.submit, body), "reason")
    return witness


@in_house
async def test_a_fork_is_told_once(house: FakeHouse) -> None:
    circle = Circle(house, quorum=1)
    await circle.grow()
    newest = await circle.newest()
    witness = await fork(circle, 3)
    gather = circle.gather()
    with capture_logs() as lines:
        for _ in range(4):
            await gather()
            house.clock.advance(timedelta(seconds=60))
    alarms = [one for one in lines if one["event"] == "log.disputed"]
    assert [one["log_level"] for one in alarms] == ["error"]
    (told,) = await circle.disputes()
    assert told == {
        "subject": "witness.example/w1",
        "why": "inconsistent",
        "size": 3,
        "own_size": newest.size,
        "own_root": newest.root.hex(),
        "detail": "It has cosigned 3 entries that this log doesn't continue.",
    }
    assert circle.meter.disputing == 1
    assert not (await circle.newest()).published
    assert len(witness.asked) == 5  # the size is asked for once
    # A restart tells the operator again, but not the journal.
    with capture_logs() as lines:
        await circle.gather()()
    assert any(one["event"] == "log.disputed" for one in lines)
    assert len(await circle.disputes()) == 1


@in_house
async def test_another_root_of_the_same_size_is_told(house: FakeHouse) -> None:
    circle = Circle(house)
    await circle.grow()
    newest = await circle.newest()
    await fork(circle, newest.size)
    await circle.gather()()
    (told,) = await circle.disputes()
    assert (told["why"], told["size"]) == ("forked", newest.size)


@in_house
async def test_it_may_be_told_in_three_ways(house: FakeHouse) -> None:
    """A 409 without a size, one with the very size that was sent, or a 422: witnesses differ."""
    circle = Circle(house)
    await circle.grow()
    size = (await circle.newest()).size
    stale = Declined(Reason.STALE, size)
    for last in (Declined(Reason.FORKED), stale, Declined(Reason.INCONSISTENT)):
        circle.seat(SayingWitness([stale, last]))
    await circle.gather()()
    told = await circle.disputes()
    assert [(one["why"], one["size"]) for one in told] == [("forked", size)] * 3


@in_house
async def test_who_has_cosigned_nothing_disputes_nothing(house: FakeHouse) -> None:
    """From size 0 on there is nothing that a log may contradict: such an answer is rubbish."""
    circle = Circle(house)
    for reason in (Reason.FORKED, Reason.INCONSISTENT, Reason.STALE):
        circle.seat(SayingWitness([Declined(reason)]))
    forgot = circle.seat(SayingWitness([Declined(Reason.STALE, 3), Declined(Reason.STALE, 0)]))
    await circle.grow()
    with capture_logs() as lines:
        await circle.gather()()
    assert isinstance(forgot, SayingWitness)
    assert len(forgot.asked) == 3
    assert await circle.disputes() == []
    assert circle.meter.disputing == 0
    assert sum(one["event"] == "witness.failed" for one in lines) == 4


@in_house
async def test_a_witness_that_forgot_is_told_of(house: FakeHouse) -> None:
    circle = Circle(house)
    witness = circle.seat()
    assert isinstance(witness, DeskWitness)
    gather = circle.gather()
    await circle.grow()
    await gather()
    had = (await circle.newest()).size
    signer = circle.signers[0]
    folder = house.directory / "again"
    witness.desk = make_desk(folder, *house.parts.signer.keys, signer=signer)
    await circle.grow()
    with capture_logs() as lines:
        await gather()
    (told,) = [one for one in lines if one["event"] == "witness.forgot"]
    assert (told["log_level"], told["had"], told["has"]) == ("warning", had, 0)


@in_house
async def test_a_rollback_is_told(house: FakeHouse) -> None:
    circle = Circle(house)
    await circle.grow()
    newest = await circle.newest()
    await fork(circle, newest.size + 10)
    await circle.gather()()
    (told,) = await circle.disputes()
    assert (told["why"], told["size"]) == ("rolled_back", newest.size + 10)


@in_house
async def test_what_another_server_signed_meanwhile_is_no_rollback(house: FakeHouse) -> None:
    circle = Circle(house)
    await circle.grow()
    p = house.parts
    newest = await circle.newest()

    class Racing:
        """While it is asked, another server signs and shows it more."""

        async def add_checkpoint(self, submission: object) -> Cosigned | Declined:
            later = StoredCheckpoint(
                newest.size + 1, bytes(32), newest.note, house.clock.now(), False
            )
            await p.store.transact(lambda tx: tx.checkpoints.add(later))
            return Declined(Reason.STALE, newest.size + 1)

    circle.seat(Racing())
    await circle.gather()()
    assert await circle.disputes() == []


@in_house
async def test_a_dispute_ends_when_the_witness_cosigns(house: FakeHouse) -> None:
    circle = Circle(house)
    await circle.grow()
    changing = SayingWitness([Declined(Reason.STALE, 1 << 40)])
    circle.seat(changing)
    gather = circle.gather()
    await gather()
    assert circle.meter.disputing == 1
    house.clock.advance(timedelta(seconds=60))
    signer = circle.signers[0]
    changing.answers = [Cosigned(signer.cosign(*await circle.read(), 1_700_000_000))]
    await gather()
    assert circle.meter.disputing == 0
    assert (await circle.newest()).published
    await circle.grow()
    changing.answers = [Declined(Reason.STALE, 1 << 40)]
    await gather()
    assert len(await circle.disputes()) == 2


@in_house
async def test_each_reason_is_told_once(house: FakeHouse) -> None:
    """A witness that says now one thing and now the other doesn't fill the journal."""
    circle = Circle(house)
    await circle.grow()
    size = (await circle.newest()).size
    more, same = Declined(Reason.STALE, size + 9), Declined(Reason.STALE, size)
    changing = SayingWitness([more])
    circle.seat(changing)
    gather = circle.gather()
    with capture_logs() as lines:
        for answers in ([more], [same, Declined(Reason.FORKED)]) * 3:
            changing.answers = [*answers]
            await gather()
            house.clock.advance(timedelta(seconds=60))
    assert [one["why"] for one in await circle.disputes()] == ["rolled_back", "forked"]
    assert sum(one["event"] == "log.disputed" for one in lines) == 2
    assert circle.meter.disputing == 1


@in_house
async def test_what_another_server_heard_meanwhile_counts(house: FakeHouse) -> None:
    """Two servers take turns: neither relies on what the witness said to it the last time."""
    circle = Circle(house)
    await circle.grow()
    changing = SayingWitness([])
    circle.seat(changing)
    signer = circle.signers[0]
    one, other = circle.gather(), circle.gather()

    async def cosign(gather: GatherCosignatures) -> None:
        await circle.grow()
        house.clock.advance(timedelta(seconds=60))
        changing.answers = [Cosigned(signer.cosign(*await circle.read(), 1_700_000_000))]
        await gather()
        assert circle.meter.disputing == 0

    async def dispute(gather: GatherCosignatures) -> None:
        await circle.grow()
        house.clock.advance(timedelta(seconds=60))
        changing.answers = [Declined(Reason.STALE, 1 << 40)]
        await gather()
        assert circle.meter.disputing == 1

    await cosign(one)
    await dispute(other)
    house.clock.advance(PATIENCE)
    await cosign(one)  # which never heard of the dispute
    await dispute(other)  # so that this is a new one
    assert len(await circle.disputes()) == 2
    await one()
    assert circle.meter.disputing == 1
