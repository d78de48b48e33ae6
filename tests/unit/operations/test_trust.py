"""Scores of identities: what adds to them, who may, and what tokens say of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.clients import (
    add_client,
    apply,
    introspect,
    render_identity,
    request_token,
)
from tests.fakes.delegation import found_company
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from tests.fakes.transactions import begin, found_transactions, read_transaction, replace_token
from tests.unit.operations.test_introspection import meet
from tests.unit.operations.test_svid_clients import ask_with, fetch_jwt
from troth.core.errors import Denied, Invalid, NotFound, Refused, TrothError
from troth.core.jose.jws import parse_token
from troth.core.tier import Tier
from troth.operations import trust as operations
from troth.operations.call import Caller
from troth.operations.purge import PurgeRecords
from troth.operations.standing import find_standing, read_lowest_tier, read_standing
from troth.wire.api import trust as wire
from troth.wire.api.identities import MoveIdentity


async def add(
    house: FakeHouse, name: str = "billing", weight: int = -40, caller: Caller = ADMIN, **more: Any
) -> wire.EvidenceAdded:
    body = wire.AddEvidence(name=name, weight=weight, reason="it scanned the subnet", **more)
    added: wire.EvidenceAdded = await house.call("trust.add", body, caller)
    await house.settle()
    return added


async def show(house: FakeHouse, name: str = "billing") -> wire.TrustView:
    view: wire.TrustView = await house.call("trust.show", wire.NameTrust(name=name))
    return view


async def withdraw(house: FakeHouse, evidence: str, caller: Caller = ADMIN) -> wire.TrustView:
    body = wire.WithdrawEvidence(id=evidence, reason="the scan was ours")
    view: wire.TrustView = await house.call("trust.withdraw", body, caller)
    await house.settle()
    return view


def tier_of(token: str) -> str:
    found: str = parse_token(token).claims["troth_tier"]
    return found


@in_house
async def test_evidence_counts_fades_and_ends(house: FakeHouse) -> None:
    await house.register("billing")
    before = await show(house)
    assert (before.score, before.tier, before.assurance) == (50, "medium", "medium")
    assert [reason.points for reason in before.reasons] == [35, 5, 5, 5]
    added = await add(house, kind="intrusion", origin="suricata", half_life=3600)
    assert (added.trust.score, added.trust.tier) == (10, "low")
    assert added.trust.reasons[-1].evidence == added.id
    assert added.trust == await show(house)
    (evidence,) = added.trust.evidence
    assert (evidence.origin, evidence.kind, evidence.weight) == ("suricata", "intrusion", -40)
    assert (evidence.half_life, evidence.left, evidence.added_by) == (3600, -40, "uid:0")
    assert added.trust.valid_until == house.clock.now() + timedelta(seconds=3600 / 64)
    house.clock.advance(timedelta(hours=1))
    half = await show(house)
    assert (half.score, half.evidence[0].left, half.evidence[0].weight) == (30, -20, -40)
    house.clock.advance(evidence.ends_at - house.clock.now())
    after = await show(house)
    assert (after.reasons, after.evidence) == (before.reasons, [])


@in_house
async def test_both_stand_in_the_journal_with_all_that_a_score_is_made_from(
    house: FakeHouse,
) -> None:
    identity = await house.register("billing")
    added = await add(house, kind="intrusion")
    view = await withdraw(house, added.id)
    assert (view.score, view.evidence) == (50, [])
    first, last = await house.events("evidence.")
    assert (first.type, last.type) == ("evidence.added", "evidence.withdrawn")
    assert first.subject == last.subject == identity.spiffe_id
    common = {
        "id": added.id,
        "identity_id": identity.id,
        "name": "billing",
        "spiffe_id": identity.spiffe_id,
        "origin": "operator",
        "kind": "intrusion",
        "weight": -40,
        "half_life": 7 * 86_400,
        "added_at": house.clock.now().isoformat(),
        "ends_at": added.trust.evidence[0].ends_at.isoformat(),
        "source": "test",
    }
    assert first.body == {**common, "reason": "it scanned the subnet"}
    assert last.body == {**common, "reason": "the scan was ours"}
    with pytest.raises(NotFound, match="withdrawn"):
        await withdraw(house, added.id)


@in_house
async def test_what_is_refused_changes_nothing(house: FakeHouse) -> None:
    await house.register("billing")
    await house.register("old", selectors=["unix:uid:1002"])
    await house.call("identity.retire", MoveIdentity(name="old", reason="over"))
    refusals: list[tuple[type[TrothError], str, dict[str, Any]]] = [
        (Invalid, "0 changes nothing", {"weight": 0}),
        (Refused, "retired", {"name": "old"}),
        (NotFound, "nobody", {"name": "nobody"}),
    ]
    for kind, words, fields in refusals:
        with pytest.raises(kind, match=words):
            await add(house, **fields)
    assert not await house.events("evidence.")


@in_house
async def test_there_is_an_end_to_it(house: FakeHouse) -> None:
    await house.register("billing")
    for number in range(operations.MOST_EVIDENCE):
        await add(house, weight=-1, half_life=3600 if number else 60)
    with pytest.raises(Refused, match="quarantine billing"):
        await add(house)
    house.clock.advance(timedelta(minutes=3))  # one of them counts no more
    await add(house)


@in_house
async def test_operators_add_auditors_look_and_workloads_do_neither(house: FakeHouse) -> None:
    await house.register("billing")
    callers = {
        role: Caller(f"uid:{n}", frozenset({role}), source="test")
        for n, role in enumerate(("operator", "auditor", "node", "workload", "device"), 1)
    }
    added = await add(house, caller=callers["operator"])
    assert added.trust.evidence[0].added_by == "uid:1"
    await house.call("trust.show", wire.NameTrust(name="billing"), callers["auditor"])
    await house.call("trust.ls", wire.ListTrust(), callers["auditor"])
    for role in ("auditor", "node", "workload", "device"):
        with pytest.raises(Denied):
            await add(house, caller=callers[role])
        with pytest.raises(Denied):
            await withdraw(house, added.id, callers[role])
    for role in ("node", "workload", "device"):
        with pytest.raises(Denied):
            await house.call("trust.ls", wire.ListTrust(), callers[role])


@in_house
async def test_the_least_trusted_come_first_page_by_page(house: FakeHouse) -> None:
    for number in range(5):
        await house.register(f"w{number}", selectors=[f"unix:uid:{2000 + number}"])
    await house.register("gone", selectors=["unix:uid:3000"])
    await house.call("identity.retire", MoveIdentity(name="gone", reason="over"))
    await add(house, "w3", -30)
    await add(house, "w1", 20)
    whole = await house.call("trust.ls", wire.ListTrust())
    assert [(one.name, one.score) for one in whole.items] == [
        ("w3", 20),
        ("w0", 50),
        ("w2", 50),
        ("w4", 50),
        ("w1", 70),
    ]
    assert [one.evidence for one in whole.items] == [1, 0, 0, 0, 1]
    assert whole.next is None
    names: list[str] = []
    after: str | None = None
    while True:
        page = await house.call("trust.ls", wire.ListTrust(after=after, limit=2))
        names += [one.name for one in page.items]
        after = page.next
        if after is None:
            break
        assert len(page.items) == 2
    assert names == [one.name for one in whole.items]


def test_more_than_one_batch_is_looked_through(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(operations, "BATCH", 2)

    async def run(house: FakeHouse) -> None:
        for number in range(4):
            await house.register(f"w{number}", selectors=[f"unix:uid:{2000 + number}"])
        await add(house, "w3")
        page = await house.call("trust.ls", wire.ListTrust(limit=2))
        assert [one.name for one in page.items] == ["w3", "w0"]

    in_house(run)(tmp_path)


@in_house
async def test_what_counts_no_more_is_purged(house: FakeHouse) -> None:
    identity = await house.register("billing")
    added = await add(house, half_life=60)
    parts = house.parts
    purge = PurgeRecords(parts.store, house.clock, parts.snapshot, "test")
    await purge()
    assert len(await parts.store.read(lambda tx: tx.evidence.list(identity.id))) == 1
    house.clock.advance(added.trust.evidence[0].ends_at - house.clock.now())
    await purge()
    assert not await parts.store.read(lambda tx: tx.evidence.list(identity.id))


@in_house
async def test_a_standing_is_read_once_and_found_in_memory_from_then_on(house: FakeHouse) -> None:
    await house.register("billing")
    parts, clock = house.parts, house.clock
    identity = await parts.store.read(lambda tx: tx.identities.get_named("billing"))
    await house.settle()
    assert find_standing(parts.snapshot, clock, identity) is None
    read = await read_standing(parts.store, parts.snapshot, clock, identity)
    assert (read.value, read.tier) == (50, Tier.MEDIUM)
    assert find_standing(parts.snapshot, clock, identity) is read
    assert await read_standing(parts.store, parts.snapshot, clock, identity) is read
    await add(house)
    assert find_standing(parts.snapshot, clock, identity) is None
    fallen = await read_standing(parts.store, parts.snapshot, clock, identity)
    assert fallen.value == 10
    clock.advance(timedelta(days=7))
    assert find_standing(parts.snapshot, clock, identity) is not fallen
    risen = find_standing(parts.snapshot, clock, identity)
    assert risen is not None
    assert risen.value == 50 - 20 + 2
    both = await read_lowest_tier(parts.store, parts.snapshot, clock, [identity])
    assert both is Tier.LOW
    assert await read_lowest_tier(parts.store, parts.snapshot, clock, []) is Tier.HIGH


@in_house
async def test_a_fall_shows_in_old_and_new_tokens_and_in_their_lives(house: FakeHouse) -> None:
    client, server, token = await meet(house)
    assert (await introspect(house, server, token))["trust_tier"] == "medium"
    added = await add(house)
    assert tier_of(token) == "medium"  # it says what was true when it was issued
    assert (await introspect(house, server, token))["trust_tier"] == "low"
    fallen = await request_token(house, client.ask())
    assert tier_of(fallen.access_token) == "low"
    (_, event) = await house.events("token.issued")
    assert event.body["troth_tier"] == "low"
    await withdraw(house, added.id)
    assert (await introspect(house, server, token))["trust_tier"] == "medium"
    assert (await introspect(house, server, fallen.access_token))["trust_tier"] == "low"
    assert tier_of((await request_token(house, client.ask())).access_token) == "medium"


@in_house
async def test_the_score_caps_what_an_svid_proves(house: FakeHouse) -> None:
    client = await add_client(house, client=None)
    node = await house.join()
    identity = await house.parts.store.read(lambda tx: tx.identities.get_named("billing"))
    assert client.spiffe_id == str(identity.spiffe_id)

    async def request() -> str:
        assertion = await fetch_jwt(house, node, identity)
        return tier_of((await request_token(house, ask_with(assertion))).access_token)

    assert (await show(house)).score == 60
    assert await request() == "medium"
    await add(house, weight=10)
    assert await request() == "high"


@in_house
async def test_a_chain_is_as_good_as_its_weakest_link_now(house: FakeHouse) -> None:
    company = await found_company(house)
    mine = (await company.request("billing")).access_token
    server = company.clients["ledger-api"]
    passed = await company.exchange("helper", mine)
    assert tier_of(passed.access_token) == "medium"
    for who in ("billing", "helper"):
        added = await add(house, who)
        assert tier_of((await company.exchange("helper", mine)).access_token) == "low"
        answer = await introspect(house, server, passed.access_token)
        assert answer["trust_tier"] == "low", who
        await withdraw(house, added.id)
    assert tier_of((await company.exchange("helper", mine)).access_token) == "medium"


@in_house
async def test_transaction_tokens_carry_it(house: FakeHouse) -> None:
    company = await found_transactions(house)
    mine = (await company.request("billing")).access_token

    async def read(token: str) -> str:
        tier: str = (await read_transaction(house, token))["troth_tier"]
        return tier

    begun = (await begin(company, "ledger-api", mine)).access_token
    assert await read(begun) == "medium"
    added = await add(house, "ledger-api")
    assert await read((await begin(company, "ledger-api", mine)).access_token) == "low"
    replaced = (await replace_token(company, "archive-api", begun)).access_token
    assert await read(replaced) == "low"  # it began with who has fallen
    await withdraw(house, added.id)
    low = (await replace_token(company, "archive-api", replaced)).access_token
    assert await read(low) == "low"  # and what was said once isn't taken back
    assert await read((await replace_token(company, "archive-api", begun)).access_token) == (
        "medium"
    )


@in_house
async def test_who_takes_over_a_name_starts_anew(house: FakeHouse) -> None:
    await house.register("billing")
    await add(house)
    await house.call("identity.retire", MoveIdentity(name="billing", reason="over"))
    await house.register("billing")
    await house.settle()
    assert (await show(house)).score == 50


@in_house
async def test_a_manifest_that_declares_more_earns_more(house: FakeHouse) -> None:
    key = make_private_key(41)
    unit = ["systemd:unit:billing.service", "unix:uid:1001"]
    await apply(house, render_identity("billing", key, selectors=unit, client=None))
    assert ((await show(house)).score, (await show(house)).tier) == (75, "high")
    await apply(house, render_identity("billing", key, selectors=[], client=None))
    assert ((await show(house)).score, (await show(house)).tier) == (25, "low")
