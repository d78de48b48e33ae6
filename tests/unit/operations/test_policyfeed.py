"""``policy.follow``: the rules about what a service serves, then what changes of them."""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.house import FakeHouse, in_house
from tests.fakes.town import apply, identity, open_town, policy, resource, role
from troth.core.errors import Denied, NotFound, Unauthenticated, Unavailable
from troth.core.ids import RequestId
from troth.live.policies import Policies
from troth.operations import policyfeed
from troth.operations.call import ANONYMOUS, Caller
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.rules import (
    AskParty,
    FollowPolicies,
    PolicyChange,
    PolicyHeartbeat,
    PolicySnapshot,
)
from troth.wire.api.trust import AddEvidence

LEDGER = Caller("spiffe://example.org/ledger", frozenset({"workload"}))
TILL = "spiffe://example.org/till"


def follow(
    house: FakeHouse,
    last: Any = None,
    caller: Caller = LEDGER,
    known: Policies | None = None,
    **body: Any,
) -> Any:
    if last is not None:
        body |= {"after": last.epoch, "mark": last.mark}
    if known is not None:
        body["rules"] = known.digest
    opened = house.dispatcher.open("policy.follow", caller, RequestId("r"), FollowPolicies(**body))
    return aclosing(opened)


@in_house
async def test_a_service_is_told_its_own_rules_and_who_can_matter(house: FakeHouse) -> None:
    await open_town(house)
    async with follow(house) as values:
        first = await anext(values)
    assert isinstance(first, PolicySnapshot)
    assert first.rules.served == ("ledger",)
    assert [one["name"] for one in first.rules.resources] == ["ledger"]
    assert [one.id for one in first.rules.rules] == ["role/reader/1"]
    assert first.rules.roles == {"clerk": ["reader"], "reader": []}
    assert [one.name for one in first.parties] == ["till"]
    assert first.complete
    assert (first.lease, first.trust_domain) == (15.0, "example.org")


@in_house
async def test_who_serves_nothing_is_told_nothing(house: FakeHouse) -> None:
    await open_town(house)
    for caller in (
        Caller(TILL, frozenset({"workload"})),
        Caller("spiffe://example.org/none", frozenset({"workload"})),
    ):
        async with follow(house, caller=caller) as values:
            with pytest.raises(Denied):
                await anext(values)
    async with follow(house, resources="vault") as values:
        with pytest.raises(Denied, match="vault"):
            await anext(values)
    with pytest.raises(Unauthenticated):
        async with follow(house, caller=ANONYMOUS) as values:
            await anext(values)


@in_house
async def test_a_policy_comes_with_all_the_rules_and_with_whom_it_means(house: FakeHouse) -> None:
    await open_town(house)
    async with follow(house) as values:
        first = await anext(values)
        await apply(
            house,
            policy(
                "p",
                effect="permit",
                subjects={"roles": ["banker"]},
                resources=["ledger"],
                actions=["read"],
            ),
        )
        change = await anext(values)
        assert isinstance(change, PolicyChange)
        assert change.since == first.epoch
        assert change.rules is not None
        assert {one.id for one in change.rules.rules} == {"policy/p", "role/reader/1"}
        assert [one.name for one in change.parties] == ["banker"]
        await apply(
            house,
            policy(
                "p",
                effect="permit",
                subjects={"roles": ["banker"]},
                resources=["vault"],
                actions=["read"],
            ),
        )
        change = await anext(values)
        assert change.rules is not None
        assert change.rules.digest == first.rules.digest
        assert change.gone == ["banker"]


@in_house
async def test_what_concerns_others_is_not_told(house: FakeHouse) -> None:
    await open_town(house)
    async with follow(house) as values:
        await anext(values)
        await apply(
            house,
            policy(
                "v",
                effect="forbid",
                subjects={"anyone": True},
                resources=["vault"],
                actions=["read"],
            ),
        )
        assert isinstance(await anext(values), PolicyHeartbeat)
        await house.call("identity.suspend", MoveIdentity(name="banker", reason="a test"))
        await house.settle()
        assert isinstance(await anext(values), PolicyHeartbeat)


@in_house
async def test_changes_of_a_party_and_evidence_are_told(house: FakeHouse) -> None:
    await open_town(house)
    async with follow(house) as values:
        await anext(values)
        body = AddEvidence(
            name="till", weight=-30, half_life=3600, kind="odd", origin="test", reason="a test"
        )
        await house.call("trust.add", body)
        await house.settle()
        change = await anext(values)
        assert [(one.name, [e.weight for e in one.evidence]) for one in change.parties] == [
            ("till", [-30])
        ]
        await house.call("identity.suspend", MoveIdentity(name="till", reason="a test"))
        await house.settle()
        assert [one.state for one in (await anext(values)).parties] == ["suspended"]
        await house.call("identity.retire", MoveIdentity(name="till", reason="a test"))
        await house.settle()
        assert (await anext(values)).gone == ["till"]
        await apply(house, identity("till", 9, "reader"))
        await house.settle()
        assert [one.name for one in (await anext(values)).parties] == ["till"]


@in_house
async def test_it_goes_on_where_it_was_left_if_the_rules_are_the_same(house: FakeHouse) -> None:
    await open_town(house)
    known = Policies(house.clock)
    async with follow(house) as values:
        last = await anext(values)
        known.take(last, house.clock.monotonic())
    await house.call("identity.suspend", MoveIdentity(name="till", reason="a test"))
    await apply(house, identity("other", 5, "reader"))
    await house.settle()
    async with follow(house, last, known=known) as values:
        change = await anext(values)
    assert isinstance(change, PolicyChange)
    assert change.rules is None
    assert {one.name: one.state for one in change.parties} == {
        "till": "suspended",
        "other": "active",
    }
    known.take(change, house.clock.monotonic())
    assert known.known is not None
    assert len(known.known.parties) == 2

    await apply(house, role("writer", "ledger", "write"))
    async with follow(house, change, known=known) as values:
        assert isinstance(await anext(values), PolicySnapshot)
    async with follow(house, change) as values:
        assert isinstance(await anext(values), PolicySnapshot)


@in_house
async def test_over_a_redacted_event_nobody_goes_on(house: FakeHouse) -> None:
    """Whom it was about can't be read any more."""
    await open_town(house)
    known = Policies(house.clock)
    async with follow(house) as values:
        last = await anext(values)
        known.take(last, house.clock.monotonic())
    await house.call("identity.suspend", MoveIdentity(name="till", reason="a test"))
    await house.settle()
    head = house.parts.snapshot.epoch
    await house.parts.store.transact(lambda tx: tx.journal.redact(head, bytes(32)))
    async with follow(house, last, known=known) as values:
        again = await anext(values)
    assert isinstance(again, PolicySnapshot)
    assert {one.name: one.state for one in again.parties}["till"] == "suspended"


@in_house
async def test_processes_of_one_service_share_what_is_put_together(house: FakeHouse) -> None:
    await open_town(house)
    async with follow(house) as one, follow(house) as two:
        first, second = await anext(one), await anext(two)
        assert first.rules is second.rules
        assert first.parties[0] is second.parties[0]
        await apply(house, role("writer", "ledger", "write"))
        first, second = await anext(one), await anext(two)
        assert first.rules is not None
        assert first.rules is second.rules


@in_house
async def test_who_stops_serving_is_told_no_more(house: FakeHouse) -> None:
    await open_town(house)
    async with follow(house) as values:
        await anext(values)
        await apply(house, resource("ledger", "guard"))
        with pytest.raises(Denied):
            await anext(values)


@in_house
async def test_of_too_many_parties_each_is_asked_for(
    house: FakeHouse,
) -> None:
    await open_town(house)
    most, policyfeed.MOST_PARTIES = policyfeed.MOST_PARTIES, 0
    try:
        async with follow(house) as values:
            first = await anext(values)
            assert (first.complete, first.parties) == (False, [])
            await house.call("identity.suspend", MoveIdentity(name="till", reason="a test"))
            await house.settle()
            change = await anext(values)
            assert (change.parties, change.gone) == ([], ["till"])
    finally:
        policyfeed.MOST_PARTIES = most
    for subject in ("till", TILL):
        view = await house.call("policy.party", AskParty(subject=subject), LEDGER)
        assert (view.name, view.state) == ("till", "suspended")
    for subject in ("banker", "nobody", "spiffe://else.org/till", "spiffe://example.org/%"):
        with pytest.raises(NotFound):
            await house.call("policy.party", AskParty(subject=subject), LEDGER)
    with pytest.raises(Denied):
        await house.call(
            "policy.party", AskParty(subject="till"), Caller(TILL, frozenset({"workload"}))
        )


@in_house
async def test_a_stale_server_ends_it(house: FakeHouse) -> None:
    await open_town(house)
    async with follow(house) as values:
        await anext(values)
        house.clock.advance(timedelta(seconds=16))
        house.parts.snapshot.policies_epoch += 1
        await house.parts.snapshot.announce()
        with pytest.raises(Unavailable):
            await anext(values)
    with pytest.raises(Unavailable):
        await house.call("policy.party", AskParty(subject="till"), LEDGER)
