"""Recorded decisions under a proposed set, and the least privilege for what was used."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.fakes.house import FakeHouse, in_house
from tests.fakes.policies import (
    AUDITOR,
    Desk,
    identity,
    permission,
    policy,
    resource,
    role,
    submit,
)
from troth.core.errors import Invalid, NotFound
from troth.wire.api import policies as wire

OFFICE = {"request.ip": {"in": ["10.0.0.0/8"]}}


async def replay(house: FakeHouse, *documents: dict[str, Any], **options: Any) -> wire.ReplayResult:
    body = wire.ReplayDecisions(documents=submit(*documents).documents, **options)
    found: wire.ReplayResult = await house.call("policy.replay", body, AUDITOR)
    return found


def told(found: wire.ReplayResult) -> list[tuple[str, str, str, str, int]]:
    return [(one.outcome, one.subject, one.action, one.resource, one.count) for one in found.groups]


async def set_up(house: FakeHouse) -> Desk:
    desk = Desk(house)
    await desk.apply(
        resource(),
        role("clerk", permission(["read", "write"])),
        identity("orders", "clerk"),
        identity("tests", environment="dev"),
    )
    return desk


@in_house
async def test_calls_that_would_be_denied_are_told_by_who_and_what(house: FakeHouse) -> None:
    desk = await set_up(house)
    assert await desk.ask("orders", "write", times=14)
    assert await desk.ask("orders", "read", times=3)
    assert not await desk.ask("tests", "read", times=2)
    same = await replay(house)
    assert (same.looked_at, same.same, same.groups) == (19, 19, [])
    found = await replay(house, role("clerk", permission(["read"])))
    assert (found.looked_at, found.same, found.denied, found.permitted) == (19, 5, 14, 0)
    assert told(found) == [("denied", "orders", "write", "ledger", 14)]
    assert found.groups[0].words.startswith("No rule permits it.")
    assert len(found.groups[0].examples) == 3
    assert found.complete
    forbidden = await replay(
        house,
        policy("stop", "forbid", subjects={"identities": ["orders"]}, resources=["ledger"]),
    )
    assert [one.words for one in forbidden.groups] == ["policy/stop forbids it."] * 2
    more = await replay(house, identity("tests", "clerk", environment="dev"))
    assert told(more) == [("permitted", "tests", "read", "ledger", 2)]
    gone = await replay(house, identity("orders"))
    assert (gone.denied, gone.same) == (17, 2)
    none = await replay(house, prune=True)
    assert (none.skipped, none.denied) == (19, 0), "nobody is left to be denied anything"


@in_house
async def test_what_wasnt_recorded_is_never_guessed(house: FakeHouse) -> None:
    desk = await set_up(house)
    await desk.ask("orders", "read", ip="10.1.1.1")
    found = await replay(house, role("clerk", permission(["read", "write"], when=OFFICE)))
    assert told(found) == [("unknown", "orders", "read", "ledger", 1)]
    assert "request.ip" in found.groups[0].words
    assert "wasn't recorded" in found.groups[0].words
    # The same question, asked of rules that read the address, can be answered.
    await desk.apply(role("clerk", permission(["read", "write"], when=OFFICE)))
    await desk.ask("orders", "read", ip="10.1.1.1")
    await desk.ask("orders", "read", ip="192.0.2.1")
    await desk.ask("orders", "read")
    narrower = {"request.ip": {"in": ["10.2.0.0/16"]}}
    found = await replay(house, role("clerk", permission(["read"], when=narrower)))
    assert (found.denied, found.unknown, found.same) == (1, 1, 2)
    wider = {"request.ip": {"in": ["0.0.0.0/0"]}}
    found = await replay(house, role("clerk", permission(["read"], when=wider)))
    assert (found.permitted, found.unknown, found.same) == (1, 1, 2), "no address: none is meant"


@in_house
async def test_facts_that_stand_in_declarations_are_known(house: FakeHouse) -> None:
    desk = await set_up(house)
    await desk.ask("orders", "read")
    found = await replay(house, resource(environment="prod"))
    assert (found.unknown, found.denied + found.same) == (0, 1)
    mine = {"identity.environment": "prod"}
    found = await replay(house, role("clerk", permission(["read"], when=mine)))
    assert (found.denied, found.unknown) == (1, 0)
    trusted = {"trust.score": {"atLeast": 10}}
    found = await replay(house, role("clerk", permission(["read"], when=trusted)))
    assert (found.denied, found.unknown) == (0, 1), "how much was relied on it wasn't recorded"


@in_house
async def test_it_is_bounded_by_time_and_number_and_who(house: FakeHouse) -> None:
    desk = await set_up(house)
    await desk.ask("orders", "write", times=2)
    house.clock.advance(timedelta(days=3))
    await house.settle()
    await desk.ask("orders", "read", times=4)
    assert (await replay(house, days=1)).looked_at == 4
    assert (await replay(house, days=7)).looked_at == 6
    found = await replay(house, role("clerk"), days=7, most=5)
    assert (found.looked_at, found.complete) == (5, False)
    assert (found.denied, found.groups[0].action) == (5, "read"), "the newest"
    assert (await replay(house, subject="tests")).looked_at == 0
    assert (await replay(house, resource="ledger")).looked_at == 6
    with pytest.raises(Invalid, match="Nothing was changed"):
        await replay(house, {"kind": "Role"})


async def suggest(house: FakeHouse, name: str, **options: Any) -> wire.Suggestion:
    found: wire.Suggestion = await house.call(
        "policy.suggest", wire.SuggestRole(name=name, **options), AUDITOR
    )
    return found


@in_house
async def test_the_least_role_has_what_was_used_and_its_conditions(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(
        resource(),
        resource("archive", actions={"get": "Get it", "drop": "Drop it"}),
        role("base", permission(["*"], on="archive")),
        role("clerk", permission(["read", "write"], when=OFFICE), includes=["base"]),
        policy("all-read", subjects={"anyone": True}, resources=["ledger"], actions=["audit"]),
        identity("orders", "clerk"),
    )
    assert await desk.ask("orders", "read", ip="10.0.0.9", times=5)
    assert not await desk.ask("orders", "write", ip="192.0.2.1")
    assert await desk.ask("orders", "get", on="archive")
    found = await suggest(house, "orders")
    assert found.manifest is not None
    spec: Any = found.manifest["spec"]
    assert spec["permissions"] == [
        {"resource": "archive", "actions": ["get"]},
        {"resource": "ledger", "actions": ["read"], "when": [OFFICE]},
    ]
    assert found.unused == ["drop on archive (role base)", "write on ledger (role clerk)"]
    proof = found.proof
    assert (proof.denied, proof.unknown, proof.permitted, proof.same) == (0, 0, 0, 7)
    # What it suggests is a manifest like any other, and with it nothing breaks indeed.
    applied = await desk.apply(found.manifest, identity("orders", "orders-least"))
    assert applied.applied
    assert await desk.ask("orders", "read", ip="10.0.0.9")
    assert not await desk.ask("orders", "drop", on="archive")
    again = await suggest(house, "orders")
    assert again.unused == []
    assert again.manifest is not None
    assert again.manifest["spec"]["permissions"] == spec["permissions"]


@in_house
async def test_what_a_policy_permits_without_a_role_needs_none(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(
        resource(),
        policy("mine", subjects={"identities": ["orders"]}, resources=["ledger"], actions=["read"]),
        policy("ours", subjects={"roles": ["clerk"]}, resources=["ledger"], actions=["write"],
               when=OFFICE),
        policy("not", "forbid", subjects={"roles": ["clerk"]}, resources=["ledger"],
               actions=["read"], when={"request.country": "XX"}),
        role("clerk"),
        identity("orders", "clerk"),
    )  # fmt: skip
    assert not await desk.ask("orders", "read"), "the country isn't known"
    assert await desk.ask("orders", "read", country="CH")
    assert await desk.ask("orders", "write", ip="10.0.0.1", country="CH")
    found = await suggest(house, "orders")
    assert found.manifest is not None
    spec: Any = found.manifest["spec"]
    assert spec["permissions"] == [{"resource": "ledger", "actions": ["write"], "when": [OFFICE]}]
    assert "policy/mine permits some of it without a role; it stays as it is." in found.notes
    assert any("policy/not forbids something to holders of clerk" in one for one in found.notes)
    assert found.proof.denied == found.proof.unknown == 0


@in_house
async def test_whoever_used_nothing_needs_nothing(house: FakeHouse) -> None:
    await set_up(house)
    found = await suggest(house, "orders")
    assert (found.manifest, found.proof.looked_at) == (None, 0)
    assert found.unused == ["read on ledger (role clerk)", "write on ledger (role clerk)"]
    assert msgspec.json.encode(found)
    with pytest.raises(NotFound):
        await suggest(house, "nobody")
