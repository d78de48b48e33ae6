"""Evidence from a whole server: an event and a decision, each checked with the log's key alone."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from tests.fakes.decisions import make_records
from tests.fakes.house import FakeHouse, in_house
from tests.unit.operations.test_log import Works, note
from troth.audit.bundle import Outcome, parse_bundle, verify_bundle
from troth.audit.proof import Trust
from troth.audit.tile import DamagedTile, name_tile
from troth.core.errors import Denied, NotFound, Unavailable
from troth.operations.call import Caller
from troth.operations.decisionlog import CloseSegments
from troth.operations.proving import REST
from troth.operations.trimming import TrimJournal
from troth.wire.api import auditproofs as wire

AUDITOR = Caller("uid:7", frozenset({"auditor"}), source="test")
VIEWER = Caller("uid:8", frozenset({"workload"}), source="test")


async def prove(house: FakeHouse, entry: str, caller: Caller = AUDITOR) -> list[Outcome]:
    """The outcomes of the steps that a verifier takes with the evidence."""
    found = await house.call("audit.prove", wire.ProveEntry(entry=entry), caller)
    bundle = parse_bundle(msgspec.json.encode(found))
    return [step.outcome for step in verify_bundle(bundle, Trust(house.parts.signer.keys)).steps]


@in_house
async def test_an_event_is_proved(house: FakeHouse) -> None:
    works = Works(house)
    with pytest.raises(Unavailable, match="no checkpoint yet"):
        await prove(house, "1")
    await note(house, 300)
    await works.run()
    for position in (1, 256, 257, house.parts.log.size):
        assert await prove(house, str(position)) == [Outcome.SHOWN] * 4
    with pytest.raises(NotFound, match="no event"):
        await prove(house, str(house.parts.log.size + 1))
    house.parts.log.redact(100)
    assert await prove(house, "100") == [Outcome.SHOWN] * 3 + [Outcome.ABSENT]


@in_house
async def test_who_may_not_read_the_journal_gets_no_evidence(house: FakeHouse) -> None:
    works = Works(house)
    await note(house, 3)
    await works.run()
    with pytest.raises(Denied):
        await prove(house, "1", VIEWER)


@in_house
async def test_a_decision_of_this_hour_has_its_segment_closed_for_it(house: FakeHouse) -> None:
    works, decisions = Works(house), house.parts.decisions
    records = make_records(9)
    await works.run()
    await decisions.append(records[:5])
    with pytest.raises(Unavailable, match="in a second"):
        await prove(house, records[4].id)
    await works.run()
    assert await prove(house, records[4].id) == [Outcome.SHOWN] * 6
    with pytest.raises(NotFound):
        await prove(house, "dec_00")

    await decisions.append(records[5:])
    with pytest.raises(Unavailable, match="a moment ago") as refused:
        await prove(house, records[8].id)
    assert refused.value.retry_after == REST
    house.clock.advance(timedelta(seconds=REST))
    with pytest.raises(Unavailable, match="in a second"):
        await prove(house, records[8].id)
    await works.run()
    assert await prove(house, records[8].id) == [Outcome.SHOWN] * 6
    assert len(await house.events("decisions.closed")) == 2


@in_house
async def test_a_segment_that_the_log_doesnt_tell_of_proves_nothing(house: FakeHouse) -> None:
    works, decisions = Works(house), house.parts.decisions
    records = make_records(2)
    await decisions.append(records)
    await decisions.close_segment()
    await note(house)
    await works.run()
    with pytest.raises(Unavailable, match="doesn't tell yet of segment 1"):
        await prove(house, records[0].id)


@in_house
async def test_a_decision_is_proved_after_the_journal_was_trimmed(house: FakeHouse) -> None:
    works, decisions, p = Works(house), house.parts.decisions, house.parts
    records = make_records(9)
    await note(house, 260)
    await decisions.append(records)
    await decisions.close_segment()
    await CloseSegments(p.store, house.clock, decisions)()
    await note(house, 300)
    await works.run()
    house.clock.advance(timedelta(days=91))
    await TrimJournal(p.store, p.clock, p.log, lambda tx: 10**9, timedelta(days=90))()
    assert len(await house.events("test.noted")) < 300, "the rows before the segment's are gone"
    assert await prove(house, records[0].id) == [Outcome.SHOWN] * 6


@in_house
async def test_a_damaged_log_gives_no_evidence(house: FakeHouse) -> None:
    works = Works(house)
    await note(house, 600)
    await works.run()
    place, name = house.parts.log.place, name_tile(0, 0)
    place.write(name, bytes(32) + place.read(name)[32:])
    with pytest.raises(DamagedTile, match="troth audit verify"):
        await prove(house, "2")
