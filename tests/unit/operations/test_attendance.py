"""What templates made and nobody uses: expires, is reported, is retired; on a virtual clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.house import FakeHouse, in_house
from tests.fakes.templates import describe_template, submit
from troth.core.errors import Refused
from troth.operations.attendance import AttendIdentities
from troth.operations.identity import ExpireIdentities
from troth.wire.api.identities import (
    ListIdentities,
    MoveIdentity,
    MoveInstance,
    NameIdentity,
)
from troth.wire.api.nodes import ReportWorkloads, WorkloadSeen
from troth.wire.api.status import GetStatus
from troth.wire.api.templates import SightWorkload

DAY = timedelta(days=1)
NAME = "batch.local.1500"
JOB = ["unix:uid:1500"]


async def start(house: FakeHouse, **spec: Any) -> Any:
    """A node, a template of 8 days with a grace of 2, and one workload that was met."""
    values = {"unattendedAfter": "8d", "retireAfter": "2d", "expires": "100d", **spec}
    node = await house.join()
    await house.call("manifest.apply", submit(describe_template(**values)))
    await house.settle()
    await meet(house, node)
    return node


async def meet(house: FakeHouse, node: Any) -> Any:
    await house.settle()
    return await house.call("identity.sight", SightWorkload(selectors=JOB), node)


async def pass_time(house: FakeHouse, days: float) -> None:
    """Days pass, with the background at work four times a day."""
    for _ in range(round(days * 4)):
        house.clock.advance(DAY / 4)
        await ExpireIdentities(house.parts.store, house.clock)()
        await AttendIdentities(house.parts.store, house.clock)()
    await house.settle()


async def show(house: FakeHouse) -> Any:
    return await house.call("identity.show", NameIdentity(name=NAME))


async def list_events(house: FakeHouse) -> list[str]:
    kinds = ("registered", "extended", "unattended", "expired", "retired")
    types = [event.type.removeprefix("identity.") for event in await house.events("identity.")]
    return [kind for kind in types if kind in kinds]


async def list_findings(house: FakeHouse) -> str:
    return "\n".join((await house.call("status.show", GetStatus())).findings)


@in_house
async def test_unattended_it_is_told_expires_and_is_retired(house: FakeHouse):
    await start(house)
    await pass_time(house, 3.75)
    assert await list_events(house) == ["registered"]
    assert NAME not in await list_findings(house)
    await pass_time(house, 0.5)
    assert await list_events(house) == ["registered", "unattended"]
    assert f"not seen lately and will expire: '{NAME}'" in await list_findings(house)
    page = await house.call("identity.ls", ListIdentities(unattended=True))
    assert [one.name for one in page.items] == [NAME]
    await pass_time(house, 4)
    assert await list_events(house) == ["registered", "unattended", "expired"]
    assert (await show(house)).state == "active"
    assert "unattended and expired" in await list_findings(house)
    await pass_time(house, 2.25)
    assert (await list_events(house))[-1] == "retired"
    view = await show(house)
    assert view.state == "retired"
    assert "unattended" in view.state_reason
    assert NAME not in await list_findings(house)
    assert not (await house.call("identity.ls", ListIdentities(unattended=True))).items


@in_house
async def test_at_its_end_it_obtains_nothing_even_if_nobody_looks(house: FakeHouse):
    node = await start(house)
    met = await meet(house, node)
    house.clock.advance(8 * DAY)
    (issued,) = await house.issue(node, met.identity_id, selectors=JOB)
    assert issued.error is not None
    assert "expired" in issued.error.detail


@in_house
async def test_for_as_long_as_it_is_reported_it_lives(house: FakeHouse):
    node = await start(house)
    met = await meet(house, node)
    (issued,) = await house.issue(node, met.identity_id, selectors=JOB)
    seen = ReportWorkloads(seen=[WorkloadSeen(instance_id=issued.instance_id)])
    for _ in range(30):
        await house.call("node.report", seen, node)
        await pass_time(house, 1)
    events = await list_events(house)
    assert set(events) == {"registered", "extended"}
    assert len(events) < 12, "an identity in use costs an event in half a span"
    left = (await show(house)).expires_at - house.clock.now()
    assert DAY < left <= 8 * DAY
    assert (await meet(house, node)).identity_id == met.identity_id


@in_house
async def test_who_returns_within_the_grace_has_the_same_identity(house: FakeHouse):
    node = await start(house)
    before = await meet(house, node)
    await pass_time(house, 8.5)
    assert (await list_events(house))[-1] == "expired"
    after = await meet(house, node)
    assert after.identity_id == before.identity_id
    (issued,) = await house.issue(node, after.identity_id, selectors=JOB)
    assert issued.error is None
    assert (await list_events(house))[-1] == "extended"
    await pass_time(house, 3)
    assert (await show(house)).state == "active"


@in_house
async def test_who_returns_later_has_a_new_one_of_the_same_name(house: FakeHouse):
    node = await start(house)
    before = await meet(house, node)
    await pass_time(house, 11)
    after = await meet(house, node)
    assert after.identity_id != before.identity_id
    assert (after.name, after.state) == (before.name, "active")


@in_house
async def test_what_an_operator_holds_waits_for_the_operator(house: FakeHouse):
    node = await start(house)
    await house.call("identity.quarantine", MoveIdentity(name=NAME, reason="incident 42"))
    await pass_time(house, 30)
    assert (await show(house)).state == "quarantined"
    with pytest.raises(Refused, match="incident 42"):
        await meet(house, node)
    await pass_time(house, 71)
    assert (await show(house)).state == "retired"
    with pytest.raises(Refused, match="retired by an administrator"):
        await meet(house, node)


@in_house
async def test_a_locked_copy_stays_locked_however_long_it_waits(house: FakeHouse):
    node = await start(house)
    met = await meet(house, node)
    (issued,) = await house.issue(node, met.identity_id, selectors=JOB)
    lock = MoveInstance(id=issued.instance_id, reason="incident 42")
    await house.call("instance.lock", lock)
    await pass_time(house, 30)
    again = await meet(house, node)
    assert again.identity_id == met.identity_id
    (refused,) = await house.issue(node, met.identity_id, selectors=JOB)
    assert refused.error is not None
    assert "locked" in refused.error.detail
    house.clock.advance(70 * DAY)
    with pytest.raises(Refused, match="a copy of it is locked"):
        await meet(house, node)
    await pass_time(house, 1)
    assert (await show(house)).state == "retired"
    with pytest.raises(Refused, match="retired by an administrator"):
        await meet(house, node)


@in_house
async def test_a_removed_template_puts_nothing_off(house: FakeHouse):
    node = await start(house)
    met = await meet(house, node)
    (issued,) = await house.issue(node, met.identity_id, selectors=JOB)
    await house.call("manifest.apply", submit(prune=True))
    seen = ReportWorkloads(seen=[WorkloadSeen(instance_id=issued.instance_id)])
    for _ in range(11):
        await house.call("node.report", seen, node)
        await pass_time(house, 1)
    assert await list_events(house) == ["registered", "unattended", "expired", "retired"]


@in_house
async def test_a_narrower_template_lets_go_of_what_it_no_longer_fits(house: FakeHouse):
    await start(house)
    await house.call("manifest.apply", submit(describe_template(match=["unix:uid:1600-1999"])))
    await pass_time(house, 5)
    assert (await list_events(house))[-1] == "unattended"
    assert (await show(house)).expires_at > house.clock.now()


@in_house
async def test_a_changed_template_is_taken_over_when_the_end_is_put_off(house: FakeHouse):
    node = await start(house)
    changed = describe_template(owner="new@example.org", unattendedAfter="8d", expires="100d")
    await house.call("manifest.apply", submit(changed))
    await pass_time(house, 3)
    await meet(house, node)
    await pass_time(house, 2)
    assert (await show(house)).owner == "new@example.org"
    extended = await house.events("identity.extended")
    told = [one.body["words"] for one in extended if "words" in one.body]
    assert len(told) == 1
    assert [words.partition(":")[0] for words in told[0]] == ["owner"]
    ends = [one.body["expires_at"] for one in extended]
    assert [one.body["expires_before"] for one in extended][1:] == ends[:-1]


@in_house
async def test_its_last_end_comes_even_if_it_is_seen(house: FakeHouse):
    node = await start(house, expires="5d")
    before = await meet(house, node)
    house.clock.advance(5 * DAY)
    after = await meet(house, node)
    assert after.identity_id != before.identity_id
    assert (await list_events(house)) == ["registered", "retired", "registered"]


@in_house
async def test_looking_twice_changes_nothing(house: FakeHouse):
    await start(house)
    await pass_time(house, 8.5)
    before = await list_events(house)
    for _ in range(5):
        await AttendIdentities(house.parts.store, house.clock)()
    assert await list_events(house) == before


@in_house
async def test_what_people_registered_is_reported_and_left_alone(house: FakeHouse):
    await house.register("payments")
    await pass_time(house, 31)
    assert "not used for 30 days: 'payments'" in await list_findings(house)
    page = await house.call("identity.ls", ListIdentities(unattended=True))
    assert [(one.name, one.state) for one in page.items] == [("payments", "active")]
    node = await house.join()
    await house.issue(node, page.items[0].id)
    assert "payments" not in await list_findings(house)
    assert not (await house.call("identity.ls", ListIdentities(unattended=True))).items


@in_house
async def test_a_manifest_may_take_over_once_the_template_is_gone(house: FakeHouse):
    await start(house)
    mine = {
        "apiVersion": "troth/v1",
        "kind": "Identity",
        "metadata": {"name": NAME},
        "spec": {
            "kind": "job",
            "owner": "me@example.org",
            "purpose": "mine now",
            "path": "/batch/local/1500",
            "selectors": JOB,
            "expires": "200d",
        },
    }
    await house.call("manifest.apply", submit(mine, prune=True))
    await pass_time(house, 50)
    view = await show(house)
    assert (view.state, view.template, view.managed) == ("active", "", True)
