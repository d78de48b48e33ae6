"""What is critical waits for a second person."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.house import ADMIN, FakeHouse, in_house, open_house
from tests.fakes.policies import (
    AUDITOR,
    SECOND,
    Desk,
    identity,
    permission,
    policy,
    resource,
    role,
)
from troth.core.errors import Conflict, Denied, NotFound, Refused
from troth.operations.table import list_operations
from troth.wire.api import policies as wire

VAULT = resource("vault", sensitivity="critical", actions={"open": "Open it"})


async def approve(house: FakeHouse, number: int, caller: Any = SECOND) -> Any:
    plan = await house.call("policy.approve", wire.NameHeld(number=str(number)), caller)
    await house.settle()
    return plan


async def list_held(house: FakeHouse, *, all: bool = False) -> list[wire.HeldChange]:
    page: wire.HeldPage = await house.call("policy.pending", wire.ListHeld(all=all), AUDITOR)
    return page.items


async def set_up(desk: Desk) -> None:
    held = await desk.apply(VAULT, role("keeper", permission(["open"], on="vault")))
    assert held.held == 1
    await approve(desk.house, 1)
    await desk.apply(resource(), role("reader", permission(["read"])))


@in_house
async def test_it_is_held_until_somebody_else_approves(house: FakeHouse) -> None:
    desk = Desk(house)
    planned = await desk.plan(VAULT)
    assert planned.reasons == ["Resource vault is critical."]
    held = await desk.apply(VAULT)
    assert (held.applied, held.held, held.reasons) == (False, 1, ["Resource vault is critical."])
    assert await house.parts.store.read(lambda tx: tx.declarations.list()) == []
    with pytest.raises(Denied, match="yours"):
        await approve(house, 1, ADMIN)
    [waiting] = await list_held(house)
    assert (waiting.author, waiting.state, waiting.reasons) == (
        "uid:0", "pending", ["Resource vault is critical."],
    )  # fmt: skip
    review = await house.call("policy.review", wire.NameHeld(number="1"), AUDITOR)
    assert review.outdated == ""
    assert [one.name for one in review.plan.changes] == ["vault"]
    done = await approve(house, 1)
    assert (done.applied, done.held) == (True, None)
    [stored] = await house.parts.store.read(lambda tx: tx.declarations.list())
    assert stored.value.name == "vault"
    page = await house.call("policy.history", wire.ListVersions())
    assert (page.items[0].author, page.items[0].approver, page.items[0].fault) == (
        "uid:0", "uid:1001", "",
    )  # fmt: skip
    with pytest.raises(Refused, match="approved by uid:1001"):
        await approve(house, 1)
    types = [one.type for one in await house.events("policy.")]
    assert types == ["policy.held", "policy.recorded", "policy.approved"]


@pytest.mark.parametrize(
    "documents",
    [
        (resource("vault", sensitivity="low", actions={"open": "Open it"}),),
        (role("keeper", permission(["open"], on="vault", when={"trust.score": {"atLeast": 1}})),),
        (role("keeper"),),
        (role("other", permission(["*"], on="vault")),),
        (role("outer", includes=["keeper"]),),
        (policy("open", subjects={"roles": ["reader"]}, resources=["vault"]),),
        (policy("all", subjects={"roles": ["reader"]}),),
        (policy("no", "forbid", subjects={"anyone": True}),),
        (identity("orders", "keeper"),),
        (
            resource(
                "user", type="user", actions={"see": "See it"},
                instances=[{"id": "rick", "roles": ["keeper"]}],
            ),
        ),
    ],
    ids=range(10),
)  # fmt: skip
def test_whatever_gives_or_takes_access_to_it_is_held(
    documents: tuple[dict[str, Any], ...], tmp_path: Path
) -> None:
    async def check(house: FakeHouse) -> None:
        desk = Desk(house)
        await set_up(desk)
        planned = await desk.plan(*documents)
        held = await desk.apply(*documents)
        assert held.held == 2
        assert held.reasons == planned.reasons != []

    in_house(check)(tmp_path)


@pytest.mark.parametrize(
    "documents",
    [
        (resource(), role("reader", permission(["read", "write"]))),
        (identity("orders", "reader"),),
        (policy("lend", subjects={"roles": ["reader"]}, resources=["ledger"]),),
        (resource("other", sensitivity="high"),),
    ],
    ids=range(4),
)
def test_what_isnt_about_it_is_applied_at_once(
    documents: tuple[dict[str, Any], ...], tmp_path: Path
) -> None:
    async def check(house: FakeHouse) -> None:
        desk = Desk(house)
        await set_up(desk)
        assert (await desk.apply(*documents)).applied

    in_house(check)(tmp_path)


@in_house
async def test_nobody_approves_what_would_do_something_else_by_now(house: FakeHouse) -> None:
    desk = Desk(house)
    await set_up(desk)
    held = await desk.apply(identity("orders", "keeper"))
    await desk.apply(role("reader", permission(["write"])))
    review = await house.call("policy.review", wire.NameHeld(number=str(held.held)))
    assert "has changed since" in review.outdated
    with pytest.raises(Conflict, match="has changed since"):
        await approve(house, held.held or 0)
    rejected = await house.call(
        "policy.reject", wire.RejectHeld(number="2", reason="outdated"), ADMIN
    )
    assert (rejected.state, rejected.decided_by, rejected.reason) == (
        "rejected", "uid:0", "outdated",
    )  # fmt: skip
    assert await list_held(house) == []
    assert [one.state for one in await list_held(house, all=True)] == ["rejected", "approved"]


@in_house
async def test_what_waits_too_long_expires(house: FakeHouse) -> None:
    desk = Desk(house)
    await desk.apply(VAULT)
    house.clock.advance(timedelta(days=6, hours=23))
    assert len(await list_held(house)) == 1
    house.clock.advance(timedelta(hours=1))
    await house.settle()
    assert await list_held(house) == []
    assert [one.state for one in await list_held(house, all=True)] == ["expired"]
    with pytest.raises(Refused, match="expired"):
        await approve(house, 1)


@in_house
async def test_a_rollback_of_it_is_held_too(house: FakeHouse) -> None:
    desk = Desk(house)
    await set_up(desk)
    held = await house.call("policy.rollback", wire.RollBack(number="1"))
    assert held.applied, "the reader role isn't about it"
    await desk.apply(role("keeper"))
    await approve(house, 2)
    held = await house.call("policy.rollback", wire.RollBack(number="1"))
    assert (held.applied, held.held) == (False, 3)
    assert (await approve(house, 3)).applied


@in_house
async def test_only_who_may_decides(house: FakeHouse) -> None:
    await Desk(house).apply(VAULT)
    for verb, body in (
        ("approve", wire.NameHeld(number="1")),
        ("reject", wire.RejectHeld(number="1", reason="no")),
        ("rollback", wire.RollBack(number="1")),
    ):
        with pytest.raises(Denied):
            await house.call(f"policy.{verb}", body, AUDITOR)
    with pytest.raises(NotFound, match="no held change 9"):
        await approve(house, 9)


def test_who_administers_alone_turns_it_off_in_the_configuration(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_house(tmp_path) as house:
            parts = replace(house.parts, second_person=False)
            house.dispatcher = replace(house.dispatcher, operations=list_operations(parts))
            assert (await Desk(house).apply(VAULT)).applied

    import asyncio

    asyncio.run(main())
