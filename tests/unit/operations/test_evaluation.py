"""Decisions asked for: recorded before they are given, explained, and only for who may ask."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.fakes.authzen import ALICE, ARCHIVED, BOB, READ, RECORD, WRITE, ask, submit_examples
from tests.fakes.clients import apply, render_manifest
from tests.fakes.decisions import EVER, verify_proof
from tests.fakes.house import ADMIN, FakeHouse, in_house
from troth.archive.record import DecisionRecord
from troth.core.errors import Denied, NotFound, Unavailable
from troth.core.ids import RequestId
from troth.drivers.geo.table import open_locator
from troth.operations.call import Call, Caller
from troth.operations.decisionhistory import SAME_MOMENT
from troth.operations.entitysearch import MOST_CANDIDATES
from troth.operations.evaluation import EvaluateDecisions
from troth.operations.places import Places
from troth.policy.permissions import GRANTABLE
from troth.wire.api import decisions as wire
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.trust import AddEvidence
from troth.wire.authzen.answer import Verdict
from troth.wire.authzen.question import Evaluations, Question, parse_evaluation, parse_evaluations
from troth.wire.authzen.search import Found, Results, parse_search

GATE = Caller("spiffe://example.org/gate", frozenset({"workload"}), source="test")
VAULT = render_manifest(
    "Resource",
    "vault",
    servers=["gate"],
    actions={"open": "Look inside", "fill": "Put something in"},
)


async def evaluate(house: FakeHouse, body: Any, caller: Caller = ADMIN) -> list[Verdict]:
    """What an Access Evaluations request gets."""
    request = parse_evaluations(msgspec.json.encode(body))
    verdicts: list[Verdict] = (await house.call("decision.evaluate", request, caller)).evaluations
    return verdicts


def list_records(house: FakeHouse) -> list[DecisionRecord]:
    return list(house.parts.decisions.scan(*EVER))


async def declare_vault(house: FakeHouse, **condition: Any) -> None:
    """A vault that `gate` serves, and that `payments` may open on a condition."""
    permission = {"resource": "vault", "actions": ["open"], **condition}
    await apply(house, VAULT, render_manifest("Role", "opener", permissions=[permission]))
    for name, roles in (("payments", ["opener"]), ("gate", []), ("stranger", [])):
        identity = {
            "apiVersion": "troth/v1",
            "kind": "Identity",
            "metadata": {"name": name},
            "spec": {
                "kind": "service",
                "owner": "team@example.org",
                "purpose": "For tests",
                "selectors": [f"unix:path:/{name}"],
                "expires": "30d",
                "roles": roles,
            },
        }
        await apply(house, identity)


def ask_vault(subject: str = "payments", action: str = "open", **more: Any) -> Any:
    return ask(
        {"type": "identity", "id": subject}, {"name": action}, {"type": "vault", "id": "1"}, **more
    )


@in_house
async def test_an_answer_is_recorded_with_what_it_came_from(house: FakeHouse) -> None:
    await declare_vault(house, when={"request.ip": {"in": "10.0.0.0/8"}})
    question = ask_vault(context={"ip": "::ffff:10.1.2.3", "time": "1999-01-01T00:00:00Z"})
    (verdict,) = await evaluate(house, question, GATE)
    assert verdict.decision
    assert verdict.context.policies == ("role/opener/1",)
    (record,) = list_records(house)
    assert (record.id, record.allowed) == (verdict.context.id, True)
    assert (record.caller, record.point) == (GATE.principal, "authzen")
    assert (record.subject, record.action, record.resource) == ("payments", "open", "vault")
    assert record.facts["request.ip"] == "10.1.2.3"
    assert record.at == house.clock.now()


@in_house
async def test_what_is_missing_flips_the_answer(house: FakeHouse) -> None:
    await declare_vault(house, when={"trust.score": {"atLeast": 60}, "request.transport": "mtls"})
    body = AddEvidence(name="payments", weight=-60, half_life=604_800, reason="it scans")
    await house.call("trust.add", body)
    await house.settle()
    (verdict,) = await evaluate(house, ask_vault())
    assert not verdict.decision
    assert {one.fact for one in verdict.context.missing} == {"trust.score", "request.transport"}
    assert verdict.context.advice is not None
    assert verdict.context.advice.obtain == verdict.context.missing
    assert verdict.context.advice.kind == "step_up"
    await house.call(
        "trust.add", AddEvidence(name="payments", weight=30, half_life=604_800, reason="mended")
    )
    await house.settle()
    (still,) = await evaluate(house, ask_vault(context={"transport": "plain"}))
    assert not still.decision


@in_house
async def test_no_advice_where_the_asker_can_do_nothing(house: FakeHouse) -> None:
    await declare_vault(house, when={"identity.environment": "prod"})
    (verdict,) = await evaluate(house, ask_vault())
    assert [one.fact for one in verdict.context.missing] == ["identity.environment"]
    assert verdict.context.advice is None


@in_house
async def test_an_explanation_is_found_out_once(house: FakeHouse) -> None:
    await declare_vault(house, when={"request.transport": "mtls"})
    first = await evaluate(house, ask_vault())
    second = await evaluate(house, ask_vault())
    assert first[0].context.missing == second[0].context.missing
    assert first[0].context.id != second[0].context.id
    assert len(list_records(house)) == 2
    # A rule that comes between is felt at once.
    await declare_vault(house)
    assert [one.decision for one in await evaluate(house, ask_vault())] == [True]


@in_house
async def test_who_may_ask(house: FakeHouse) -> None:
    await declare_vault(house)
    for role in GRANTABLE:
        caller = Caller("uid:7", frozenset({role}), source="test")
        assert (await evaluate(house, ask_vault(), caller))[0].decision
    assert (await evaluate(house, ask_vault(), GATE))[0].decision
    stranger = Caller("spiffe://example.org/stranger", frozenset({"workload"}))
    nobody = Caller("spiffe://example.org/nobody", frozenset({"workload"}))
    unknown = ask(resource={"type": "ship", "id": "1"})
    before = len(list_records(house))
    words = set()
    for caller, question in ((stranger, ask_vault()), (nobody, ask_vault()), (GATE, unknown)):
        with pytest.raises(Denied) as refused:
            await evaluate(house, question, caller)
        words.add(refused.value.detail)
    assert len(words) == 1
    assert len(list_records(house)) == before
    for role in ("node", "anyone"):
        with pytest.raises(Denied):
            await evaluate(house, ask_vault(), Caller("somebody", frozenset({role})))


@in_house
async def test_all_of_a_request_or_nothing(house: FakeHouse) -> None:
    """One append; and where it fails there is no answer."""
    await declare_vault(house)
    groups: list[int] = []
    decisions = house.parts.decisions
    append = decisions.append

    async def count(records: Any) -> None:
        groups.append(len(records))
        await append(records)

    decisions.append = count  # type: ignore[method-assign]
    items = [ask_vault(), {}, ask_vault(action="fill"), {"resource": {"type": "ship", "id": "1"}}]
    body = ask_vault(evaluations=items)
    found = await evaluate(house, body, GATE)
    assert [one.decision for one in found] == [True, True, False, False]
    assert groups == [3]

    async def fail(records: Any) -> None:
        raise Unavailable("The disk is full.")

    decisions.append = fail  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await evaluate(house, body, GATE)


@in_house
async def test_nobody_is_permitted_what_is_cut_off(house: FakeHouse) -> None:
    await declare_vault(house)
    await house.call("identity.quarantine", MoveIdentity(name="payments", reason="odd"))
    await house.settle()
    (verdict,) = await evaluate(house, ask_vault())
    assert not verdict.decision
    assert "quarantined" in verdict.context.reason
    (unknown,) = await evaluate(house, ask_vault("nobody"))
    assert not unknown.decision


@in_house
async def test_declared_properties_win(house: FakeHouse) -> None:
    await house.call("manifest.apply", submit_examples("authzen-certification"))
    await house.settle()
    archived = {**RECORD, "properties": {"status": "archived"}}
    told = ask(action=WRITE, resource=archived)
    assert (await evaluate(house, told))[0].decision, "record-1 is declared to be active"
    for value in (7, None, ["archived"], {"a": 1}, True, "active"):
        odd = {"type": "record", "id": "record-2", "properties": {"status": value}}
        assert not (await evaluate(house, ask(action=WRITE, resource=odd)))[0].decision
    fresh = {"type": "record", "id": "new", "properties": {"status": ["active"]}}
    assert not (await evaluate(house, ask(action=WRITE, resource=fresh)))[0].decision


@in_house
async def test_a_question_of_the_api_is_the_same(house: FakeHouse) -> None:
    await house.call("manifest.apply", submit_examples("authzen-certification"))
    await house.settle()
    (question,) = parse_evaluation(msgspec.json.encode(ask(BOB, WRITE, ARCHIVED))).items
    assert isinstance(question, Question)
    body = wire.EvaluateDecisions(questions=[question])
    found = await house.call("decision.evaluate", body)
    assert [one.decision for one in found.evaluations] == [True]
    assert list_records(house)[-1].point == "api"


# Searches


async def search(house: FakeHouse, target: str, caller: Caller = ADMIN, **body: Any) -> Results:
    request = parse_search(target, msgspec.json.encode(body))
    results: Results = await house.call("decision.search", request, caller)
    return results


@in_house
async def test_identities_are_found_in_pages(house: FakeHouse) -> None:
    await declare_vault(house)
    body: dict[str, Any] = {
        "subject": {"type": "identity"},
        "action": {"name": "open"},
        "resource": {"type": "vault", "id": "1"},
    }
    found = await search(house, "subject", GATE, **body)
    names = {"spiffe_id": "spiffe://example.org/payments"}
    assert found.results == [Found("identity", "payments", properties=names)]
    await apply(house, render_manifest("Role", "opener", permissions=[
        {"resource": "vault", "actions": ["open"]}
    ]))  # fmt: skip
    for number in range(5):
        await house.register(f"more-{number}", selectors=[f"unix:uid:{3000 + number}"])
    await apply(house, render_manifest("Policy", "all", effect="permit", actions=["open"],
                subjects={"anyone": True}, resources=["vault"]))  # fmt: skip
    seen: list[str] = []
    token = ""
    for _ in range(20):
        page = await search(house, "subject", **body, page={"limit": 3, "token": token})
        seen += [one.id for one in page.results]
        assert len(page.results) <= 3
        token = page.page.next_token
        if not token:
            break
    everybody = ["gate", *(f"more-{n}" for n in range(5)), "payments", "stranger"]
    assert seen == everybody
    assert list_records(house) == []


@in_house
async def test_resources_without_instances_are_found_too(house: FakeHouse) -> None:
    await declare_vault(house)
    body: dict[str, Any] = {
        "subject": {"type": "identity", "id": "payments"},
        "action": {"name": "open"},
        "resource": {"type": "vault"},
    }
    assert (await search(house, "resource", GATE, **body)).results == [Found("vault", "vault")]
    stranger = Caller("spiffe://example.org/stranger", frozenset({"workload"}))
    assert (await search(house, "resource", stranger, **body)).results == []
    with pytest.raises(Denied):
        await search(
            house, "action", stranger, **{**body, "resource": {"type": "vault", "id": "1"}}
        )


@in_house
async def test_a_page_looks_at_so_many_and_no_more(house: FakeHouse) -> None:
    ids = [f"{number:05}" for number in range(MOST_CANDIDATES + 10)]
    instances = [{"id": one, "properties": {"size": 1}} for one in ids[:-1]]
    box = render_manifest(
        "Resource",
        "boxes",
        type="box",
        actions={"open": "Look inside"},
        attributes={"size": "number"},
        instances=[*instances, {"id": ids[-1], "properties": {"size": 9}}],
    )
    big = render_manifest("Policy", "big", effect="permit", actions=["open"],
                          subjects={"anyone": True}, resources=["boxes"],
                          when={"resource.size": {"atLeast": 5}})  # fmt: skip
    await apply(house, box, big)
    body: dict[str, Any] = {
        "subject": {"type": "user", "id": "a"},
        "action": {"name": "open"},
        "resource": {"type": "box"},
    }
    page = await search(house, "resource", **body)
    assert page.results == []
    assert page.page.next_token
    page = await search(house, "resource", **body, page={"token": page.page.next_token})
    assert page.results == [Found("box", ids[-1])]
    assert page.page.next_token == ""


# What was recorded


@in_house
async def test_decisions_are_listed_and_shown(house: FakeHouse) -> None:
    await house.call("manifest.apply", submit_examples("authzen-certification"))
    await house.settle()
    for number in range(6):
        await evaluate(house, ask([ALICE, BOB][number % 2], WRITE))
        house.clock.advance(timedelta(seconds=2))
        await house.settle()
    await evaluate(house, ask(resource=None, evaluations=[{"resource": RECORD}] * 4))

    async def ls(**filters: Any) -> wire.DecisionPage:
        page: wire.DecisionPage = await house.call("decision.ls", wire.ListDecisions(**filters))
        return page

    everything = (await ls()).items
    assert len(everything) == 10
    assert [one.at for one in everything] == sorted((o.at for o in everything), reverse=True)
    assert (await ls(oldest=True)).items == everything[::-1]
    denied = (await ls(allowed=False)).items
    assert {one.subject for one in denied} == {"bob"}
    assert len(denied) == 3
    assert len((await ls(subject="alice")).items) == 7
    assert len((await ls(resource="records", since=everything[3].at)).items) == 4
    # Pages: those of one moment stay together, and nothing is left out or comes twice.
    for oldest in (False, True):
        seen: list[str] = []
        edge: dict[str, Any] = {}
        while True:
            page = await ls(limit=2, oldest=oldest, **edge)
            seen += [one.id for one in page.items]
            if page.next is None:
                break
            edge = {"since" if oldest else "until": page.next}
        assert sorted(seen) == sorted(one.id for one in everything)
        assert len(seen) == 10
    assert SAME_MOMENT > 256

    newest = everything[0]
    shown = await house.call("decision.show", wire.NameDecision(id=newest.id))
    assert shown.decision == newest
    assert shown.proof is None, "its segment is open"
    segment = await house.parts.decisions.close_segment()
    assert segment is not None
    shown = await house.call("decision.show", wire.NameDecision(id=newest.id))
    assert shown.proof.root == segment.footer.root.hex()
    proof = house.parts.decisions.find_proof(newest.id)
    assert verify_proof(proof, bytes.fromhex(shown.proof.root)).id == newest.id
    with pytest.raises(NotFound):
        await house.call("decision.show", wire.NameDecision(id="dec_00"))
    assert timedelta(0) < house.clock.now() - everything[-1].at


def test_a_single_question_says_so() -> None:
    assert parse_evaluation(msgspec.json.encode(ask())).single
    assert parse_evaluations(msgspec.json.encode(ask())).single
    many = parse_evaluations(msgspec.json.encode(ask(evaluations=[{}])))
    assert isinstance(many, Evaluations)
    assert not many.single
    assert READ == {"name": "read"}


@in_house
async def test_where_an_address_is_counts_here_too(house: FakeHouse) -> None:
    await declare_vault(house, when={"request.country": "CH"})
    table = house.directory / "places.csv"
    table.write_text("192.0.2.0/25,CH,cloud\n192.0.2.128/25,DE,cloud\n")
    places = Places(open_locator(table))
    for known, ip, expected in (
        (places, "192.0.2.7", True),
        (places, "192.0.2.200", False),
        (Places(), "192.0.2.7", False),
    ):
        body = parse_evaluation(msgspec.json.encode(ask_vault(context={"ip": ip})))
        evaluate_here = EvaluateDecisions(house.parts.decider, known)
        made = await evaluate_here(Call(ADMIN, RequestId("req_test"), body))
        assert made.evaluations[0].decision is expected


@in_house
async def test_a_role_of_a_manifest_lets_somebody_ask_about_what_others_serve(
    house: FakeHouse,
) -> None:
    await declare_vault(house)
    looker = render_manifest(
        "Role",
        "looker",
        permissions=[
            {
                "resource": "troth.decision",
                "actions": ["inquire"],
                "when": {"resource.id": {"is": "vault"}},
            }
        ],
    )
    await apply(house, looker)
    watcher = Caller("uid:7", frozenset({"workload"}), source="test", declared=("looker",))
    stranger = Caller("uid:8", frozenset({"workload"}), source="test")
    (verdict,) = await evaluate(house, ask_vault(), watcher)
    assert verdict.decision
    other = ask({"type": "identity", "id": "payments"}, READ, {"type": "other", "id": "1"})
    for caller, body in ((stranger, ask_vault()), (watcher, other)):
        request = parse_evaluation(msgspec.json.encode(body))
        with pytest.raises(Denied):
            await house.call("decision.evaluate", request, caller)
