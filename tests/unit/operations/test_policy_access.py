"""Plans say whose access appears, disappears or changes its condition."""

from __future__ import annotations

from tests.fakes.house import FakeHouse, in_house
from tests.fakes.policies import Desk, identity, permission, policy, resource, role
from troth.wire.api.manifests import ManifestPlan


def told(plan: ManifestPlan) -> list[str]:
    return [one.words for one in plan.access]


@in_house
async def test_a_plan_says_who_gains_and_apply_says_the_same(house: FakeHouse) -> None:
    desk = Desk(house)
    documents = (resource(), role("reader", permission(["read"])), identity("orders", "reader"))
    planned = await desk.plan(*documents)
    assert told(planned) == ["orders gains read on ledger"]
    assert (planned.access[0].turn, planned.access[0].before) == ("gains", "never")
    assert not planned.applied
    applied = await desk.apply(*documents)
    assert told(applied) == told(planned)
    assert told(await desk.plan(*documents)) == []


@in_house
async def test_a_condition_is_told_before_and_after(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(resource(), role("reader", permission(["read"])), identity("orders", "reader"))
    when = {"trust.score": {"atLeast": 60}}
    changed = await desk.apply(role("reader", permission(["read"], when=when)))
    assert told(changed) == [
        "orders keeps read on ledger, now only with trust.score ≥ 60 (before: always)"
    ]
    back = await desk.plan(role("reader", permission(["read"])))
    assert told(back) == ["orders keeps read on ledger, now always (before: with trust.score ≥ 60)"]
    gone = await desk.plan(role("reader", permission(["write"])))
    assert told(gone) == [
        "orders gains write on ledger",
        "orders loses read on ledger (which it had on condition: trust.score ≥ 60)",
    ]


@in_house
async def test_a_forbid_a_segment_and_an_include_change_access(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(
        resource(environment="prod"),
        role("reader", permission(["read"])),
        role("clerk"),
        identity("orders", "clerk", environment="prod"),
        identity("tests", "reader", environment="dev"),
    )
    included = await desk.apply(role("clerk", includes=["reader"]))
    assert told(included) == ["orders gains read on ledger"], "dev never reaches prod"
    ended = await desk.plan(
        policy(
            "stop",
            "forbid",
            subjects={"identities": ["orders"]},
            resources=["ledger"],
            when={"request.country": {"notIn": ["CH"]}},
        )
    )
    assert told(ended) == [
        "orders keeps read on ledger, now only with request.country being CH (before: always)"
    ]
    relaxed = await desk.plan(
        policy(
            "look",
            subjects={"identities": ["tests"]},
            resources=["ledger"],
            actions=["read"],
            relaxes=["environments"],
        )
    )
    assert told(relaxed) == ["tests gains read on ledger"]


@in_house
async def test_an_identity_that_goes_loses_what_it_had(house: FakeHouse) -> None:
    desk = Desk(house)
    documents = (resource(), role("reader", permission(["read"])))
    await desk.apply(*documents, identity("orders", "reader"))
    assert told(await desk.plan(*documents, identity("orders"))) == ["orders loses read on ledger"]
    assert told(await desk.apply(*documents, prune=True)) == ["orders loses read on ledger"]


@in_house
async def test_instances_gain_and_lose_as_identities_do(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(
        resource("todo", type="todo", actions={"edit": "Edit it"}),
        role("editor", permission(["edit"], on="todo")),
    )
    found = await desk.plan(
        resource(
            "user",
            type="user",
            actions={"see": "See it"},
            instances=[{"id": "rick", "roles": ["editor"]}],
        )
    )
    assert told(found) == ["user:rick gains edit on todo"]


@in_house
async def test_more_than_anybody_reads_is_counted(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(resource(), role("reader", permission(["read"])))
    many = [identity(f"service-{number:03}", "reader") for number in range(230)]
    planned = await desk.plan(*many)
    assert (len(planned.access), planned.access_more, planned.access_complete) == (200, 30, True)
