"""First sight at the server: who gets an identity, which one, and who never does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.house import ADMIN, FakeHouse, call_of, in_house
from tests.fakes.templates import describe_template, submit
from troth.core.errors import Denied, Invalid, Limited, Refused, Unavailable
from troth.operations import sight
from troth.operations.recording import BACKGROUND
from troth.operations.withdrawal import FinishWithdrawals, withdraw_later
from troth.wire.api.identities import ListIdentities, MoveIdentity, NameIdentity
from troth.wire.api.nodes import EvictNode, SyncNode
from troth.wire.api.templates import ListTemplates, SightWorkload

JOB = ("unix:gid:1500", "unix:uid:1500")


async def apply(house: FakeHouse, *manifests: dict[str, Any], prune: bool = False) -> Any:
    made = await house.call("manifest.apply", submit(*manifests, prune=prune))
    await house.settle()
    return made


async def meet(house: FakeHouse, node: Any, *selectors: str) -> Any:
    request = SightWorkload(selectors=list(selectors or JOB), pid=7)
    return await house.call("identity.sight", request, node)


async def move(house: FakeHouse, verb: str, name: str) -> Any:
    return await house.call(f"identity.{verb}", MoveIdentity(name=name, reason="incident 42"))


async def show(house: FakeHouse, name: str) -> Any:
    return await house.call("identity.show", NameIdentity(name=name))


@in_house
async def test_a_workload_gets_an_identity_of_its_own_with_least_privilege(house: FakeHouse):
    node = await house.join()
    await apply(house, describe_template(hint="job", environment="prod"))
    met = await meet(house, node)
    assert met.spiffe_id == "spiffe://example.org/batch/local/1500"
    assert (met.name, met.state, met.template) == ("batch.local.1500", "active", "batch")
    view = await show(house, met.name)
    assert view.owner == "batch@example.org"
    assert view.selectors == ["unix:uid:1500"]
    assert view.nodes == ["local"]
    assert view.dns_names == []
    assert (view.x509_ttl, view.jwt_ttl) == (900, 300)
    assert (view.template, view.managed, view.hint) == ("batch", False, "job")
    assert view.expires_at == house.clock.now() + timedelta(days=7)
    (issued,) = await house.issue(node, met.identity_id, selectors=list(JOB))
    assert issued.error is None


@in_house
async def test_the_event_names_template_node_and_workload(house: FakeHouse):
    node = await house.join()
    await apply(house, describe_template())
    await meet(house, node)
    (event,) = await house.events("identity.registered")
    assert event.actor == "spiffe://example.org/troth/node/local"
    assert event.body["template"] == "batch"
    assert event.body["selectors"] == ["unix:uid:1500"]
    assert event.body["node"] == "local"
    assert "template 'batch' fits" in event.body["reason"]


@in_house
async def test_the_same_workload_gets_the_same_identity_however_often(house: FakeHouse):
    node = await house.join()
    await apply(house, describe_template())
    met = await asyncio.gather(*(meet(house, node) for _ in range(10)))
    assert len({one.identity_id for one in met}) == 1
    assert len(await house.events("identity.registered")) == 1
    other = await meet(house, node, "unix:uid:1501")
    assert other.name == "batch.local.1501"


@in_house
async def test_what_no_template_fits_gets_nothing(house: FakeHouse):
    node = await house.join()
    await apply(house, describe_template())
    for selectors in (("unix:uid:999",), ("unix:uid:2000",), ("unix:gid:1500",)):
        with pytest.raises(Denied, match="No template"):
            await meet(house, node, *selectors)
    with pytest.raises(Invalid):
        await meet(house, node, "unix:uid:1500\n")
    elsewhere = await house.join("web-1")
    with pytest.raises(Denied, match="No template"):
        await meet(house, elsewhere)
    assert not await house.events("identity.registered")


@in_house
async def test_only_an_active_node_may_ask(house: FakeHouse):
    node = await house.join()
    await apply(house, describe_template())
    with pytest.raises(Denied):
        await meet(house, ADMIN)
    await house.call("node.evict", EvictNode(name="local", reason="stolen"))
    with pytest.raises(Denied, match="evicted"):
        await meet(house, node)


@in_house
async def test_a_shared_name_is_one_identity_that_learns_its_nodes(house: FakeHouse):
    nodes = [await house.join(name) for name in ("web-1", "web-2")]
    await apply(house, describe_template(nodes=["web-1", "web-2"], naming="{uid}"))
    first, second = await asyncio.gather(*(meet(house, node) for node in nodes))
    assert first.identity_id == second.identity_id
    assert first.name == "batch.1500"
    assert sorted((await show(house, first.name)).nodes) == ["web-1", "web-2"]


@in_house
async def test_the_more_special_template_wins_and_equals_give_nothing(house: FakeHouse):
    node = await house.join()
    wide = describe_template("wide", match=["unix:uid:1000-1999"])
    narrow = describe_template("narrow", match=["unix:uid:1500-1599"])
    await apply(house, wide, narrow)
    assert (await meet(house, node)).template == "narrow"
    assert (await meet(house, node, "unix:uid:1600")).template == "wide"
    made = await apply(house, describe_template("twin", match=["unix:uid:1600-2599"]))
    assert any("'wide'" in warning for warning in made.warnings)
    with pytest.raises(Refused, match="twin, wide"):
        await meet(house, node, "unix:uid:1601")


@in_house
async def test_what_an_operator_cut_off_or_ended_stays_so(house: FakeHouse):
    node = await house.join()
    await apply(house, describe_template(naming="{node}/{uid}"))
    for number, verb in enumerate(("suspend", "quarantine", "retire")):
        workload = f"unix:uid:{1500 + number}"
        met = await meet(house, node, workload)
        await move(house, verb, met.name)
        with pytest.raises(Refused, match="incident 42"):
            await meet(house, node, workload)
        # Neither a new naming nor a more special template is a way around it.
        narrow = describe_template("narrow", match=[workload]) if verb != "retire" else None
        renamed = describe_template(naming="{uid}/{node}")
        await apply(house, *(m for m in (renamed, narrow) if m))
        with pytest.raises(Refused, match="incident 42"):
            await meet(house, node, workload)
        await apply(house, describe_template(naming="{node}/{uid}"), prune=True)
    assert len(await house.events("identity.registered")) == 3


@in_house
async def test_a_neighbour_of_the_cut_off_under_the_same_uid_gets_nothing_new(house: FakeHouse):
    node = await house.join()
    await house.register("payments", selectors=["unix:uid:1500", "unix:path:/usr/bin/pay"])
    await apply(house, describe_template())
    await move(house, "quarantine", "payments")
    with pytest.raises(Refused, match="'payments', which shares unix:uid:1500, is quarantined"):
        await meet(house, node, "unix:uid:1500", "unix:path:/usr/bin/other")


@in_house
async def test_the_cut_off_reach_whoever_shares_their_uid_or_their_unit(house: FakeHouse):
    node = await house.join()
    await house.register("payments", selectors=["unix:uid:1500", "systemd:unit:a.service"])
    await apply(house, describe_template())
    await move(house, "quarantine", "payments")
    for neighbour in (
        ("unix:uid:1500", "systemd:unit:b.service"),
        ("unix:uid:1501", "systemd:unit:a.service"),
    ):
        with pytest.raises(Refused, match="'payments', which shares"):
            await meet(house, node, *neighbour)
    assert (await meet(house, node, "unix:uid:1502", "systemd:unit:c.service")).state == "active"


@in_house
async def test_a_shared_name_cut_off_is_not_put_off_or_replaced_from_another_node(
    house: FakeHouse,
):
    nodes = [await house.join(name) for name in ("web-1", "web-2")]
    await apply(house, describe_template(nodes=["*"], naming="{uid}"))
    met = await meet(house, nodes[0])
    await move(house, "quarantine", met.name)
    before = await show(house, met.name)
    for days in (0, 4, 400):
        house.clock.advance(timedelta(days=days))
        await house.settle()
        with pytest.raises(Refused, match="incident 42"):
            await meet(house, nodes[1])
    after = await show(house, met.name)
    assert (after.state, after.nodes) == ("quarantined", before.nodes)
    assert after.expires_at == before.expires_at


@in_house
async def test_what_is_registered_and_awaits_approval_goes_before_templates(house: FakeHouse):
    node = await house.join()
    await apply(house, describe_template())
    await house.register("payments", activate=False, selectors=["unix:uid:1500"])
    with pytest.raises(Refused, match="'payments' is registered for this workload"):
        await meet(house, node)
    assert (await meet(house, node, "unix:uid:1501")).state == "active"


@in_house
async def test_a_template_that_asks_for_more_keeps_the_identity_of_the_same_workload(
    house: FakeHouse,
):
    node = await house.join()
    workload = ("unix:uid:1500", "unix:path:/usr/bin/job")
    await apply(house, describe_template(naming="{node}/{uid}"))
    first = await meet(house, node, *workload)
    match = ["unix:uid:1000-1999", "unix:path:/usr/bin/job"]
    await apply(house, describe_template(match=match, naming="{node}/{uid}"))
    again = await meet(house, node, *workload)
    assert again.identity_id == first.identity_id
    assert sorted((await show(house, first.name)).selectors) == sorted(workload)
    assert (await meet(house, node, *workload)).identity_id == first.identity_id
    match = ["unix:uid:1000-1999", "unix:path:/usr/bin/other"]
    await apply(house, describe_template(match=match, naming="{node}/{uid}"))
    with pytest.raises(Refused, match="belongs to another workload"):
        await meet(house, node, "unix:uid:1500", "unix:path:/usr/bin/other")


@in_house
async def test_a_template_that_asks_for_more_does_not_bring_back_what_was_retired(
    house: FakeHouse,
):
    node = await house.join()
    await apply(house, describe_template(naming="{node}/{uid}"))
    met = await meet(house, node, "unix:uid:1500", "unix:path:/usr/bin/job")
    await move(house, "retire", met.name)
    match = ["unix:uid:1000-1999", "unix:path:/usr/bin/job"]
    await apply(house, describe_template(match=match, naming="{node}/{uid}"))
    with pytest.raises(Refused, match="incident 42"):
        await meet(house, node, "unix:uid:1500", "unix:path:/usr/bin/job")


@in_house
async def test_a_proposed_identity_waits_and_is_the_same_after_approval(house: FakeHouse):
    node = await house.join()
    await apply(house, describe_template(start="proposed"))
    first = await meet(house, node)
    assert first.state == "proposed"
    (issued,) = await house.issue(node, first.identity_id, selectors=list(JOB))
    assert issued.error is not None
    await move(house, "activate", first.name)
    second = await meet(house, node)
    assert (second.identity_id, second.state) == (first.identity_id, "active")


@in_house
async def test_a_template_makes_no_more_than_its_max(house: FakeHouse):
    node = await house.join()
    await apply(house, describe_template(max=2))
    for number in (1500, 1501):
        await meet(house, node, f"unix:uid:{number}")
    with pytest.raises(Refused, match="raise its 'max'"):
        await meet(house, node, "unix:uid:1502")
    await move(house, "retire", "batch.local.1500")
    assert (await meet(house, node, "unix:uid:1502")).state == "active"
    (view,) = (await house.call("template.ls", ListTemplates())).items
    assert (view.identities, view.max) == (2, 2)


@in_house
async def test_a_node_cannot_flood_registrations(house: FakeHouse):
    node, other = await house.join(), await house.join("web-1")
    await apply(house, describe_template(nodes=["local", "web-1"]))
    limit, sight.NODE_LIMIT = sight.NODE_LIMIT, 3
    try:
        for number in range(3):
            await meet(house, node, f"unix:uid:{1500 + number}")
        with pytest.raises(Limited, match="Node local"):
            await meet(house, node, "unix:uid:1600")
        assert (await meet(house, node, "unix:uid:1500")).state == "active"
        assert (await meet(house, other, "unix:uid:1600")).state == "active"
        house.clock.advance(sight.NODE_WINDOW)
        await house.settle()
        assert (await meet(house, node, "unix:uid:1600")).state == "active"
    finally:
        sight.NODE_LIMIT = limit


@in_house
async def test_names_and_paths_below_a_prefix_are_the_templates_own(house: FakeHouse):
    await apply(house, describe_template())
    for fields in ({"name": "batch"}, {"name": "batch.x"}, {"name": "mine", "path": "/batch/x"}):
        with pytest.raises(Refused, match="template 'batch'"):
            await house.register(**fields)
    await house.register("batcher", path="/batcher/x")
    await house.register("jobs.one", path="/one")
    with pytest.raises(Refused, match=r"belongs to 'jobs\.one'"):
        await apply(house, describe_template("jobs"))
    with pytest.raises(Refused, match="lies in that of"):
        await apply(house, describe_template("other", prefix="/batch/inner"))
    assert [one.name for one in (await house.call("template.ls", ListTemplates())).items] == [
        "batch"
    ]


@in_house
async def test_applying_again_changes_nothing_and_pruning_keeps_what_was_made(house: FakeHouse):
    node = await house.join()
    await apply(house, describe_template())
    again = await apply(house, describe_template())
    assert [change.action for change in again.changes] == ["keep"]
    changed = await apply(house, describe_template(owner="night@example.org"))
    assert "owner: batch@example.org → night@example.org" in changed.changes[0].words
    met = await meet(house, node)
    left = await apply(house)
    assert [(c.action, c.kind) for c in left.changes] == [("keep", "Template")]
    removed = await apply(house, prune=True)
    assert [(c.action, c.name) for c in removed.changes] == [("remove", "batch")]
    assert (await show(house, met.name)).state == "active"
    with pytest.raises(Denied, match="No template"):
        await meet(house, node, "unix:uid:1600")
    types = [event.type for event in await house.events("template.")]
    assert types == ["template.added", "template.changed", "template.removed"]


@in_house
async def test_identities_are_found_by_their_template(house: FakeHouse):
    node = await house.join()
    await house.register("payments")
    await apply(house, describe_template())
    await meet(house, node)
    page = await house.call("identity.ls", ListIdentities(template="batch"))
    assert [one.name for one in page.items] == ["batch.local.1500"]


@in_house
async def test_the_node_is_sent_its_templates_and_what_they_made(house: FakeHouse):
    node = await house.join()
    await apply(house, describe_template(), describe_template("far", nodes=["web-1"]))
    await meet(house, node)
    await house.settle()
    stream = house.dispatcher.subscriptions["node.sync"](call_of(SyncNode(), node))
    value: Any = await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert [(t.name, t.match) for t in value.templates] == [("batch", ["unix:uid:1000-1999"])]
    assert [(e.name, e.template) for e in value.entries] == [("batch.local.1500", "batch")]


@in_house
async def test_nobody_takes_the_place_of_one_whose_certificates_are_still_being_revoked(
    house: FakeHouse,
):
    node = await house.join()
    met = await house.register("batch.local.1500", path="/batch/local/1500")
    await move(house, "retire", met.name)

    def leave(tx: Any) -> None:
        withdraw_later(tx, BACKGROUND, tx.identities.get(met.id), "unspecified", house.clock.now())

    await house.parts.store.transact(leave)
    await apply(house, describe_template())
    with pytest.raises(Unavailable, match="still being revoked"):
        await meet(house, node)
    await FinishWithdrawals(house.parts.store, house.clock, "test")()
    assert (await meet(house, node)).spiffe_id == met.spiffe_id
