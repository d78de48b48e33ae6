"""``decision.report``: what services say they decided, checked and written down once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fakes.house import FakeHouse, in_house
from tests.fakes.town import open_town
from troth.archive.record import DecisionRecord
from troth.core.errors import Denied
from troth.operations.call import Caller
from troth.wire.api.rules import ReportDecisions, ReportedDecision

LEDGER = Caller("spiffe://example.org/ledger", frozenset({"workload"}))
EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC))


def make(house: FakeHouse, number: int = 1, **fields: Any) -> ReportedDecision:
    values: dict[str, Any] = {
        "id": f"dec_{number:036x}",
        "at": house.clock.now(),
        "request_id": "req_1",
        "subject_type": "identity",
        "subject": "till",
        "action": "read",
        "resource": "ledger",
        "resource_type": "ledger",
        "resource_id": "b1",
        "allowed": True,
        "policies": ["role/reader/1"],
        "epoch": 3,
        "facts": {"trust.score": 70},
    }
    return ReportedDecision(**values | fields)


async def report(house: FakeHouse, *decisions: ReportedDecision, **more: Any) -> Any:
    caller = more.pop("caller", LEDGER)
    body = ReportDecisions(decisions=list(decisions), **more)
    return await house.call("decision.report", body, caller)


def read(house: FakeHouse) -> list[DecisionRecord]:
    found = house.parts.decisions.scan(*EVER)
    return [one for one in found if one.point == "sdk"]


@in_house
async def test_a_report_is_kept_as_what_its_caller_says(house: FakeHouse) -> None:
    await open_town(house)
    answer = await report(house, make(house))
    assert (answer.kept, answer.known, answer.refused) == (1, 0, [])
    (record,) = read(house)
    assert (record.caller, record.point) == (LEDGER.principal, "sdk")
    assert (record.subject, record.action, record.resource) == ("till", "read", "ledger")
    assert record.facts == {"trust.score": 70}
    assert record.at == house.clock.now()


@in_house
async def test_what_was_reported_before_is_not_kept_twice(house: FakeHouse) -> None:
    await open_town(house)
    one, two = make(house, 1), make(house, 2)
    await report(house, one)
    answer = await report(house, one, two, two)
    assert (answer.kept, answer.known) == (1, 2)
    assert [record.id for record in read(house)] == [one.id, two.id]


@in_house
async def test_what_nobody_can_have_decided_is_refused_alone(house: FakeHouse) -> None:
    await open_town(house)
    now = house.clock.now()
    odd = [
        make(house, 1, resource="vault"),
        make(house, 2, resource="", allowed=True),
        make(house, 3, at=now + timedelta(minutes=6)),
        make(house, 4, at=now - timedelta(days=31)),
        make(house, 5, at=now.replace(tzinfo=None)),
        make(house, 6, facts={"long": "x" * (256 << 10)}),
        make(house, 7, facts={"big": 2**70}),
    ]
    answer = await report(house, *odd, make(house, 8), make(house, 9, resource="", allowed=False))
    assert [one.id for one in answer.refused] == [one.id for one in odd]
    assert answer.kept == 2


@in_house
async def test_a_loss_is_written_down(house: FakeHouse) -> None:
    await open_town(house)
    assert (await report(house, lost=7)).kept == 0
    (record,) = read(house)
    assert record.reason.startswith("7 decisions of 'ledger' were lost")
    assert not record.allowed


@in_house
async def test_who_serves_nothing_reports_nothing(house: FakeHouse) -> None:
    await open_town(house)
    for name in ("till", "nobody"):
        caller = Caller(f"spiffe://example.org/{name}", frozenset({"workload"}))
        with pytest.raises(Denied):
            await report(house, make(house), caller=caller)
    assert read(house) == []
