"""Checkpoints for clients, and what they hold against the log."""

from __future__ import annotations

import pytest

from tests.fakes.house import FakeHouse, in_house
from tests.unit.operations.test_log import Works, note
from troth.audit.pin import begin_pin, renew_pin
from troth.core.errors import Invalid, Unavailable
from troth.operations.call import ANONYMOUS
from troth.wire.api.checkpoints import DisputeCheckpoint, ShowCheckpoint


@in_house
async def test_anybody_sees_that_the_log_goes_on(house: FakeHouse) -> None:
    with pytest.raises(Unavailable):
        await house.call("checkpoint.show", ShowCheckpoint(), ANONYMOUS)
    works = Works(house)
    await works.run()
    first = await house.call("checkpoint.show", ShowCheckpoint(), ANONYMOUS)
    pin = begin_pin(first.keys, first.note)
    await note(house, 300)
    await works.run()
    later = await house.call("checkpoint.show", ShowCheckpoint(since=pin.size), ANONYMOUS)
    assert renew_pin(pin, later.note, [bytes.fromhex(one) for one in later.proof]).size > 300
    beyond = await house.call("checkpoint.show", ShowCheckpoint(since=10**6), ANONYMOUS)
    assert beyond.proof == []


@in_house
async def test_a_dispute_is_recorded_if_the_log_signed_what_it_doesnt_continue(
    house: FakeHouse,
) -> None:
    works, p = Works(house), house.parts
    await note(house, 5)
    await works.run()
    shown = await house.call("checkpoint.show", ShowCheckpoint())
    answer = await house.call("checkpoint.dispute", DisputeCheckpoint(note=shown.note))
    assert answer.continued
    assert await house.events("log.disputed") == []

    size = p.log.size
    for entries, root in ((size, b"\1" * 32), (size + 1000, b"\2" * 32)):
        forged = p.signer.sign(entries, root, p.clock.now())  # with the log's own keys
        answer = await house.call("checkpoint.dispute", DisputeCheckpoint(note=forged))
        assert not answer.continued
    await works.run()
    found = await house.events("log.disputed")
    assert [event.body["size"] for event in found] == [size, size + 1000]
    with pytest.raises(Invalid):
        await house.call("checkpoint.dispute", DisputeCheckpoint(note=shown.note.replace("A", "B")))
