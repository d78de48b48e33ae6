"""``audit.trace``: what happened because of a request, link by link."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.archive import FakeArchive
from tests.fakes.decisions import make_record
from tests.fakes.delegation import ARCHIVE, found_company
from tests.fakes.house import FakeHouse, in_house
from tests.fakes.town import open_town
from tests.fakes.transactions import begin, found_transactions, read_transaction, replace_token
from troth.audit.found import present_event
from troth.core.errors import Invalid, NotFound
from troth.core.jose.jws import parse_token
from troth.operations import audittrace
from troth.wire.api import auditsearch as wire
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.tokens import RevokeTokens
from troth.wire.api.trust import AddEvidence, WithdrawEvidence

SECOND = timedelta(seconds=1)


async def trace(house: FakeHouse, id_: str, **fields: Any) -> wire.Trace:
    await house.settle()
    found: wire.Trace = await house.call("audit.trace", wire.TraceRequest(id=id_, **fields))
    return found


def outline(steps: list[wire.Step]) -> list[Any]:
    """Links and actions, nested as they are."""
    return [(one.link, one.record.action, outline(one.steps)) for one in steps]


def read_jti(text: str) -> str:
    return str(parse_token(text).claims["jti"])


class Requests:
    """Has each call made in a request of its own."""

    def __init__(self, house: FakeHouse) -> None:
        self._house = house

    def begin(self, name: str) -> None:
        self._house.clock.advance(SECOND)
        self._house.request_id = f"req_{name}"


@in_house
async def test_a_chain_of_tokens_is_followed_to_its_end(house: FakeHouse) -> None:
    company = await found_company(house)
    requests = Requests(house)
    requests.begin("first")
    first = (await company.request("billing")).access_token
    requests.begin("second")
    second = (await company.exchange("helper", first)).access_token
    requests.begin("third")
    await company.exchange("ledger-api", second, resource=ARCHIVE)
    requests.begin("end")
    await house.call("token.revoke", RevokeTokens(jti=read_jti(second), reason="stolen"))
    requests.begin("look")
    found = await trace(house, "req_first")
    assert found.complete
    assert found.causes == []
    assert outline(found.steps) == [
        (
            "request",
            "token.issued",
            [
                (
                    "exchange",
                    "token.exchanged",
                    [("exchange", "token.exchanged", []), ("revocation", "token.revoked", [])],
                )
            ],
        )
    ]
    step = found.steps[0].steps[0]
    assert step.why == f"gave another token for {read_jti(first)}"
    assert step.record.request_id == "req_second"
    last = await trace(house, "req_third")
    assert outline(last.steps) == [("request", "token.exchanged", [])]
    assert [one.record.request_id for one in last.causes] == ["req_second", "req_first"]
    ended = await trace(house, "req_end")
    assert [one.record.request_id for one in ended.causes] == ["req_second", "req_first"]


@in_house
async def test_decisions_belong_to_their_transaction(house: FakeHouse) -> None:
    company = await found_transactions(house)
    requests = Requests(house)
    requests.begin("token")
    token = (await company.request("billing")).access_token
    requests.begin("txn")
    opened = (await begin(company, "ledger-api", token)).access_token
    txn = (await read_transaction(house, opened))["txn"]
    requests.begin("passed")
    await replace_token(company, "archive-api", opened)
    requests.begin("decision")
    record = make_record(
        1, at=house.clock.now(), request_id="req_asked", facts={"task.id": txn}, allowed=False
    )
    await house.parts.decisions.append([record])
    found = await trace(house, "req_token")
    assert outline(found.steps) == [
        (
            "request",
            "token.issued",
            [
                (
                    "exchange",
                    "token.exchanged",
                    [("exchange", "token.exchanged", []), ("transaction", "orders:read", [])],
                )
            ],
        )
    ]
    asked = await trace(house, "req_asked")
    assert {one.record.request_id for one in asked.causes} >= {"req_txn", "req_token"}
    by_decision = await trace(house, record.id)
    assert by_decision.request_id == "req_asked"
    assert by_decision.steps == asked.steps


@in_house
async def test_what_one_call_does_stands_side_by_side(house: FakeHouse) -> None:
    identity = await house.register()
    node = await house.join()
    house.request_id = "req_issue"
    await house.issue(node, identity.id)
    house.clock.advance(SECOND)
    house.request_id = "req_cut"
    await house.call("identity.quarantine", MoveIdentity(name="payments", reason="it scans"))
    found = await trace(house, "req_issue")
    links = [(one.link, one.record.action) for one in found.steps]
    assert links == [("request", "certificate.intended"), ("request", "certificate.issued")]
    cut = await trace(house, "req_cut")
    assert "identity.quarantined" in {one.record.action for one in cut.steps}


@in_house
async def test_evidence_and_joining_are_tied(house: FakeHouse) -> None:
    house.request_id = "req_join"
    await house.join()
    found = await trace(house, "req_join")
    assert {one.record.action for one in found.steps} >= {"token.created", "node.attested"}
    await house.register()
    house.request_id = "req_add"
    body = AddEvidence(name="payments", weight=-60, half_life=604_800, reason="it scans")
    added = await house.call("trust.add", body)
    house.clock.advance(SECOND)
    house.request_id = "req_back"
    await house.call("trust.withdraw", WithdrawEvidence(id=added.id, reason="a mistake"))
    assert outline((await trace(house, "req_add")).steps) == [
        ("request", "evidence.added", [("withdrawal", "evidence.withdrawn", [])])
    ]
    back = await trace(house, "req_back")
    assert [one.why for one in back.causes] == [f"added the evidence {added.id}"]


@in_house
async def test_archived_events_belong_to_the_chain(house: FakeHouse) -> None:
    company = await found_company(house)
    house.request_id = "req_first"
    first = (await company.request("billing")).access_token
    house.clock.advance(SECOND)
    house.request_id = "req_second"
    await company.exchange("helper", first)
    expected = await trace(house, "req_first")
    rows = await house.parts.store.read(lambda tx: tx.journal.list_stored(0, 10_000))
    archive = house.parts.archive
    assert isinstance(archive, FakeArchive)
    archive.events = [present_event(row) for row in rows]
    assert (await trace(house, "req_first")).steps == expected.steps
    archive.damage = ("A file is damaged.",)
    damaged = await trace(house, "req_first")
    assert (damaged.complete, damaged.notes) == (False, ["A file is damaged."])


@in_house
async def test_a_trace_is_bounded(house: FakeHouse) -> None:
    company = await found_company(house)
    house.request_id = "req_first"
    token = (await company.request("billing")).access_token
    for number in range(8):
        house.clock.advance(SECOND)
        house.request_id = f"req_{number}"
        await company.exchange("helper", token)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audittrace, "MOST_STEPS", 4)
        found = await trace(house, "req_first")
        assert not found.complete
        assert len(found.steps[0].steps) == 3
        assert found.notes == ["Only the first 4 things are shown."]
        patch.undo()
        patch.setattr(audittrace, "MOST_LOOKS", 1)
        assert not (await trace(house, "req_first")).complete
        patch.undo()
        patch.setattr(audittrace, "DEEPEST", 1)
        shallow = await trace(house, "req_first")
        assert shallow.notes == ["What followed after 1 steps is left out."]


@in_house
async def test_requests_that_nobody_knows(house: FakeHouse) -> None:
    await open_town(house)
    for id_ in ("req_0", "x' OR '1'='1", "%", "🦊", "a" * 128):
        with pytest.raises(NotFound, match="Nothing is recorded"):
            await trace(house, id_)
    with pytest.raises(NotFound):
        await trace(house, "dec_00")
    with pytest.raises(Invalid, match="by itself"):
        await trace(house, "background")
    house.clock.advance(timedelta(days=40))
    with pytest.raises(NotFound, match="--since"):
        await trace(house, "req_test")
    since = house.clock.now() - timedelta(days=60)
    assert (await trace(house, "req_test", since=since)).steps
    record = make_record(1, at=house.clock.now(), request_id="")
    await house.parts.decisions.append([record])
    assert outline((await trace(house, record.id)).steps) == [("named", "orders:read", [])]
    whole = await trace(house, "req_test", since=since)
    assert (await trace(house, whole.steps[0].record.id)).steps == whole.steps
    assert outline((await trace(house, "1")).steps) == [("named", "authority.intended", [])]
    with pytest.raises(NotFound, match="position 99999"):
        await trace(house, "99999")
