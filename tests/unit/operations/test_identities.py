"""Identities through the gate: registration, life cycle, manifests, expiry, pages."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.house import ADMIN, FakeHouse, in_house
from troth.core.errors import Conflict, Denied, Invalid, NotFound, Refused
from troth.operations.call import Caller
from troth.operations.identity import ExpireIdentities
from troth.wire.api.identities import ListIdentities, MoveIdentity, NameIdentity, RegisterIdentity
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.api.status import GetStatus


def manifest(name: str, **spec: Any) -> ManifestDocument:
    values = {
        "kind": "service",
        "owner": "team@example.org",
        "purpose": "Does things",
        "selectors": ["unix:uid:1001"],
        "expires": "90d",
    }
    value = {
        "apiVersion": "troth/v1",
        "kind": "Identity",
        "metadata": {"name": name},
        "spec": values | spec,
    }
    return ManifestDocument(value=value, source="team.yaml", line=1)


def submit(*documents: ManifestDocument, prune: bool = False) -> SubmitManifests:
    return SubmitManifests(documents=list(documents), prune=prune)


@in_house
async def test_registration_proposes_and_activation_lets_work(house: FakeHouse) -> None:
    made = await house.register(activate=False)
    assert made.state == "proposed"
    moved = await house.call("identity.activate", MoveIdentity(name="payments", reason="reviewed"))
    assert (moved.state, moved.state_reason, moved.revision) == ("active", "reviewed", 2)
    events = await house.events("identity.")
    assert [e.type for e in events] == ["identity.registered", "identity.activated"]
    assert events[1].body["reason"] == "reviewed"


@in_house
async def test_names_and_paths_are_unique_among_the_living(house: FakeHouse) -> None:
    await house.register("payments", path="/pay")
    with pytest.raises(Conflict, match="payments"):
        await house.register("payments", path="/other")
    with pytest.raises(Conflict, match="/pay"):
        await house.register("other", path="/pay")
    await house.call("identity.retire", MoveIdentity(name="payments", reason="over"))
    assert (await house.register("payments", path="/pay")).state == "active"


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "robot"},
        {"owner": ""},
        {"purpose": ""},
        {"path": "/a/../b"},
        {"path": "/troth/server"},
        {"path": "/" + "a" * 2048},
        {"path": "/ä"},
        {"selectors": ["unix:uid:root"]},
        {"selectors": ["unix:shoe:42"]},
        {"x509_ttl": 90_000},
        {"jwt_ttl": 7200},
        {"dns_names": ["localhost"]},
        {"labels": {"a b": "c"}},
    ],
)
def test_bad_registrations_write_nothing(fields: dict[str, Any], tmp_path: Path) -> None:
    @in_house
    async def test(house: FakeHouse) -> None:
        before = len(await house.events())
        with pytest.raises(Invalid):
            await house.register(**fields)
        assert len(await house.events()) == before
        with pytest.raises(NotFound):
            await house.call("identity.show", NameIdentity(name="payments"))

    test(tmp_path)


@in_house
async def test_an_impossible_move_is_refused_with_what_is_possible(house: FakeHouse) -> None:
    await house.register()
    with pytest.raises(Refused, match="possible now: suspend"):
        await house.call("identity.release", MoveIdentity(name="payments", reason="x"))


@in_house
async def test_roles(house: FakeHouse) -> None:
    await house.register()
    operator = Caller("uid:7", frozenset({"operator"}))
    auditor = Caller("uid:8", frozenset({"auditor"}))
    move = MoveIdentity(name="payments", reason="x")
    with pytest.raises(Denied, match="operator"):
        await house.call("identity.quarantine", move, auditor)
    await house.call("identity.quarantine", move, operator)
    with pytest.raises(Denied, match="admin"):
        await house.call("identity.retire", move, operator)
    assert (await house.call("identity.show", NameIdentity(name="payments"), auditor)).name


@in_house
async def test_apply_is_atomic_idempotent_and_prunes_only_when_told(house: FakeHouse) -> None:
    one, two = manifest("one"), manifest("two")
    planned = await house.call("manifest.plan", submit(one, two))
    assert not planned.applied
    assert [(c.action, c.name) for c in planned.changes] == [("add", "one"), ("add", "two")]
    assert "gain" in " ".join(planned.changes[0].words)
    assert (await house.call("identity.ls", ListIdentities())).items == []
    await house.call("manifest.apply", submit(one, two))
    count = len(await house.events("identity."))
    again = await house.call("manifest.apply", submit(one, two))
    assert {c.action for c in again.changes} == {"keep"}
    assert len(await house.events("identity.")) == count
    kept = await house.call("manifest.apply", submit(one))
    assert {c.name: c.action for c in kept.changes} == {"one": "keep", "two": "keep"}
    pruned = await house.call("manifest.apply", submit(one, prune=True))
    assert {c.name: c.action for c in pruned.changes} == {"one": "keep", "two": "remove"}
    assert (await house.call("identity.show", NameIdentity(name="two"))).state == "retired"


@in_house
async def test_one_bad_document_stops_all(house: FakeHouse) -> None:
    await house.register("taken", path="/clash")
    with pytest.raises(Invalid, match=r"team\.yaml"):
        await house.call("manifest.apply", submit(manifest("good"), manifest("bad", kind="robot")))
    with pytest.raises(Refused, match="taken"):
        await house.call("manifest.apply", submit(manifest("good"), manifest("bad", path="/clash")))
    names = [i.name for i in (await house.call("identity.ls", ListIdentities())).items]
    assert names == ["taken"]


@in_house
async def test_changing_a_path_is_refused(house: FakeHouse) -> None:
    await house.call("manifest.apply", submit(manifest("one")))
    with pytest.raises(Refused, match="keeps its SPIFFE ID"):
        await house.call("manifest.apply", submit(manifest("one", path="/elsewhere")))


@in_house
async def test_expiry_retires(house: FakeHouse) -> None:
    ends = house.clock.now() + timedelta(days=1)
    await house.register(expires_at=ends)
    expire = ExpireIdentities(house.parts.store, house.clock)
    await expire()
    assert (await house.call("identity.show", NameIdentity(name="payments"))).state == "active"
    house.clock.advance(timedelta(days=1))
    await expire()
    await expire()
    (event,) = await house.events("identity.retired")
    assert "expired" in event.body["reason"]


@in_house
async def test_pages(house: FakeHouse) -> None:
    for index in range(5):
        await house.register(f"svc-{index}")
    first = await house.call("identity.ls", ListIdentities(limit=3))
    rest = await house.call("identity.ls", ListIdentities(limit=3, after=first.next))
    names = [i.name for i in [*first.items, *rest.items]]
    assert names == [f"svc-{i}" for i in range(5)]
    assert rest.next is None
    with pytest.raises(Invalid, match="choose one of"):
        await house.call("identity.ls", ListIdentities(state="gone"))


@in_house
async def test_status_names_weak_selectors(house: FakeHouse) -> None:
    await house.register("weak", selectors=["unix:sha256:" + "a" * 64])
    await house.settle()
    status = await house.call("status.show", GetStatus())
    assert status.ready
    assert any("weak" in finding and "executable alone" in finding for finding in status.findings)
    assert status.identities["active"] == 1


@in_house
async def test_register_fields_survive(house: FakeHouse) -> None:
    made = await house.register(labels={"env": "prod"}, x509_ttl=60, dns_names=["pay.example.org"])
    shown = await house.call("identity.show", NameIdentity(name="payments"))
    assert shown == made
    assert (shown.labels, shown.x509_ttl, shown.dns_names) == (
        {"env": "prod"},
        60,
        ["pay.example.org"],
    )
    assert RegisterIdentity.__struct_config__.forbid_unknown_fields
    assert ADMIN.principal == (await house.events("identity."))[0].actor


@in_house
async def test_an_operator_cannot_activate_by_detour(house: FakeHouse) -> None:
    await house.register(activate=False)
    operator = Caller("uid:7", frozenset({"operator"}))
    move = MoveIdentity(name="payments", reason="x")
    with pytest.raises(Refused, match="proposed"):
        await house.call("identity.quarantine", move, operator)


@in_house
async def test_access_that_disappears_is_revoked_and_the_rest_is_not(house: FakeHouse) -> None:
    await house.call("manifest.apply", submit(manifest("one", nodes=["local", "edge"])))
    node = await house.join()
    identity = await house.call("identity.show", NameIdentity(name="one"))
    (issued,) = await house.issue(node, identity.id)
    await house.call("manifest.apply", submit(manifest("one", nodes=["local", "edge", "more"])))
    await house.call("manifest.apply", submit(manifest("one", nodes=["local", "edge"], hint="x")))
    await house.settle()
    assert house.parts.snapshot.is_revoked(issued.serial)  # "more" went
    (issued,) = await house.issue(node, identity.id)
    await house.call("manifest.apply", submit(manifest("one", nodes=["local", "edge"], hint="y")))
    await house.settle()
    assert not house.parts.snapshot.is_revoked(issued.serial)
    await house.call("manifest.apply", submit(manifest("one", nodes=["edge"])))
    await house.settle()
    assert house.parts.snapshot.is_revoked(issued.serial)
    (refused,) = await house.issue(node, identity.id)
    assert refused.error.code == "permission_denied"


@in_house
async def test_nothing_outlives_its_identity(house: FakeHouse) -> None:
    ends = house.clock.now() + timedelta(minutes=20)
    identity, node = await house.register(expires_at=ends), await house.join()
    (issued,) = await house.issue(node, identity.id)
    assert issued.not_after <= ends
