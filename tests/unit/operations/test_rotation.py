"""Rotation by hand: the order of the verbs, crashes and races between them, and who is left."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509

from tests.fakes.house import ADMIN, DOMAIN, FakeHouse, call_of, in_house
from troth.core.errors import Denied, Invalid, Refused, TrothError, Unauthenticated, Unavailable
from troth.core.ids import AuthorityId
from troth.issuance.authorities import KNOWN_AFTER, Authority, AuthorityState, Use
from troth.issuance.der import read_signer
from troth.issuance.jwtsvid import validate_jwt_svid
from troth.operations.authority import PrepareAuthorities
from troth.operations.call import Caller
from troth.operations.callers import CallerRegistry
from troth.operations.node import collect_roots
from troth.operations.publication import collect_jwt_keys
from troth.operations.recording import name_key
from troth.operations.servercert import CertifyServer, RenewServer
from troth.operations.succession import LEASE
from troth.wire.api.authorities import (
    ForceAuthority,
    ListAuthorities,
    MoveAuthority,
    PrepareAuthority,
)
from troth.wire.api.certificates import InstanceClaim
from troth.wire.api.jwt_svids import IssueJwtSvids, JwtSvidRequest
from troth.wire.api.nodes import SyncNode
from troth.wire.api.status import GetStatus
from troth.wire.bundle import render_jwt_bundle

CLAIM = InstanceClaim(key="ab" * 16, pid=7, selectors=["unix:uid:1001"])


async def prepare(house: FakeHouse, use: Use = Use.X509) -> Any:
    house.clock.advance(timedelta(seconds=1))  # so that the list is in the order of making
    return await house.call("authority.prepare", PrepareAuthority(use=use.value, reason="drill"))


async def activate(house: FakeHouse, id: str, force: bool = False) -> Any:
    return await house.call(
        "authority.activate", ForceAuthority(id=id, reason="drill", force=force)
    )


async def taint(house: FakeHouse, id: str) -> Any:
    return await house.call("authority.taint", MoveAuthority(id=id, reason="copied"))


async def revoke(house: FakeHouse, id: str, force: bool = False) -> Any:
    return await house.call("authority.revoke", ForceAuthority(id=id, reason="copied", force=force))


async def list_states(house: FakeHouse, use: Use = Use.X509) -> list[str]:
    found = (await house.call("authority.ls", ListAuthorities())).items
    return [item.state for item in found if item.use == use.value]


async def active(house: FakeHouse, use: Use = Use.X509) -> Authority:
    return await house.parts.store.read(lambda tx: tx.authorities.active(use))


async def rotate(house: FakeHouse, use: Use = Use.X509) -> str:
    """A whole rotation; returns the id of the old authority."""
    old = await active(house, use)
    made = await prepare(house, use)
    await house.publish()
    house.clock.advance(KNOWN_AFTER)
    await house.settle()
    await activate(house, made.id)
    return old.id


async def sync(house: FakeHouse, node: Caller) -> Any:
    await house.settle()
    stream = house.dispatcher.open("node.sync", node, call_of(None).request_id, SyncNode())
    async for value in stream:
        return value
    raise AssertionError


async def issue_token(house: FakeHouse, node: Caller, identity: Any) -> str:
    await house.settle()
    wish = JwtSvidRequest(identity_id=identity.id, instance=CLAIM, audiences=["ledger"])
    answer = await house.call("jwtsvid.issue", IssueJwtSvids(requests=[wish]), node)
    (issued,) = answer.results
    assert issued.error is None, issued.error
    return str(issued.token)


@in_house
async def test_in_order_nobody_is_left_behind(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    await house.issue(node, identity.id)
    old = await active(house)
    made = await prepare(house)
    assert (made.state, made.holders) == ("prepared", 0)
    assert made.ready_at == house.clock.now() + KNOWN_AFTER
    assert len(await house.parts.store.read(collect_roots)) == 2
    with pytest.raises(Unavailable, match="no revocation list"):
        await activate(house, made.id, force=True)
    await house.publish()
    with pytest.raises(Refused, match="must be published for 10 minutes"):
        await activate(house, made.id)
    house.clock.advance(KNOWN_AFTER - timedelta(seconds=1))
    with pytest.raises(Refused, match="must be published"):
        await activate(house, made.id)
    house.clock.advance(timedelta(seconds=1))
    assert (await activate(house, made.id)).state == "active"
    await taint(house, old.id)
    assert (await sync(house, node)).tainted == [name_key(old)]
    with pytest.raises(Refused, match="2 credentials"):
        await revoke(house, old.id)
    (issued,) = await house.issue(node, identity.id)
    leaf = x509.load_der_x509_certificate(issued.chain[0])
    assert read_signer(leaf) == name_key(await active(house))
    with pytest.raises(Refused, match="1 credentials"):  # the node's own
        await revoke(house, old.id)
    await house.join()  # the same node, with a new certificate
    assert (await revoke(house, old.id)).state == "revoked"
    assert await house.parts.store.read(collect_roots) == [(await active(house)).certificate]
    types = [e.type for e in await house.events("authority.") if e.subject == old.id]
    assert types[-3:] == ["authority.retired", "authority.tainted", "authority.revoked"]


@in_house
async def test_force_needs_no_patience_and_is_recorded(house: FakeHouse) -> None:
    made = await prepare(house)
    await house.publish()
    assert (await activate(house, made.id, force=True)).state == "active"
    (event,) = [e for e in await house.events("authority.activated") if e.subject == made.id]
    assert (event.body["reason"], event.body["forced"]) == ("drill", True)


@in_house
async def test_verbs_in_the_wrong_order_change_nothing(house: FakeHouse) -> None:
    signing = (await active(house)).id
    for verb in (taint, revoke):
        with pytest.raises(Refused, match="signs now"):
            await verb(house, signing)
    with pytest.raises(Refused, match="signs now"):
        await revoke(house, signing, force=True)
    with pytest.raises(Refused, match="signs already"):
        await activate(house, signing, force=True)
    made = await prepare(house)
    with pytest.raises(Refused, match="prepared already"):
        await prepare(house)
    await revoke(house, made.id)
    for verb in (activate, taint, revoke):
        with pytest.raises(Refused, match="is revoked"):
            await verb(house, made.id)
    assert await list_states(house) == ["active", "revoked"]
    second = await prepare(house)
    await taint(house, second.id)
    with pytest.raises(Refused, match="is tainted and never signs"):
        await activate(house, second.id, force=True)
    assert await list_states(house) == ["active", "revoked", "tainted"]


@in_house
async def test_only_an_administrator_rotates(house: FakeHouse) -> None:
    for role in ("operator", "auditor", "node"):
        somebody = Caller("uid:5", frozenset({role}), source="test")
        with pytest.raises(Denied):
            await house.call(
                "authority.prepare", PrepareAuthority(use="jwt-svid", reason="r"), somebody
            )
    operator = Caller("uid:5", frozenset({"operator"}), source="test")
    assert (await house.call("authority.ls", ListAuthorities(), operator)).items


@in_house
async def test_a_retired_authority_ends_with_the_last_that_it_signed(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    await house.issue(node, identity.id)
    old = await rotate(house)
    (item,) = [
        i for i in (await house.call("authority.ls", ListAuthorities())).items if i.id == old
    ]
    node_record = await house.parts.store.read(lambda tx: tx.nodes.find_named("local"))
    assert node_record is not None
    assert item.needed_until == node_record.expires_at
    house.clock.jump(item.needed_until - timedelta(seconds=1))
    await house.prepare()
    assert await list_states(house) == ["retired", "active"]
    house.clock.advance(timedelta(seconds=1))
    await house.prepare()
    assert await list_states(house) == ["ended", "active"]


@in_house
async def test_tokens_of_the_old_key_hold_until_they_expire(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    token = await issue_token(house, node, identity)

    async def read_keys() -> dict[str, Any]:
        keys = render_jwt_bundle(await house.parts.store.read(collect_jwt_keys))
        return {"example.org": msgspec.json.decode(keys)["keys"]}

    made = await prepare(house, Use.JWT)
    assert made.key_id in {key["kid"] for key in (await read_keys())["example.org"]}
    assert name_key(await active(house, Use.JWT)) != made.key_id
    old = (await active(house, Use.JWT)).id
    house.clock.advance(KNOWN_AFTER)
    token = await issue_token(house, node, identity)
    await activate(house, made.id)
    await house.prepare()
    assert await list_states(house, Use.JWT) == ["retired", "active"]
    fresh = await issue_token(house, node, identity)
    for held in (token, fresh):
        validate_jwt_svid(held, "ledger", await read_keys(), house.clock.now())
    with pytest.raises(Refused, match="1 credentials"):
        await revoke(house, old)
    house.clock.advance(timedelta(minutes=5))
    await house.prepare()
    assert await list_states(house, Use.JWT) == ["ended", "active"]
    assert {key["kid"] for key in (await read_keys())["example.org"]} == {made.key_id}


@in_house
async def test_a_token_of_a_revoked_authority_verifies_no_more(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    old = (await active(house, Use.JWT)).id
    made = await prepare(house, Use.JWT)
    house.clock.advance(KNOWN_AFTER)
    token = await issue_token(house, node, identity)
    await activate(house, made.id)

    async def read_keys() -> dict[str, Any]:
        keys = render_jwt_bundle(await house.parts.store.read(collect_jwt_keys))
        return {"example.org": msgspec.json.decode(keys)["keys"]}

    validate_jwt_svid(token, "ledger", await read_keys(), house.clock.now())
    await revoke(house, old, force=True)
    with pytest.raises(Invalid, match="kid"):
        validate_jwt_svid(token, "ledger", await read_keys(), house.clock.now())
    fresh = await issue_token(house, node, identity)
    validate_jwt_svid(fresh, "ledger", await read_keys(), house.clock.now())


@in_house
async def test_a_certificate_under_way_is_signed_anew_by_the_successor(house: FakeHouse) -> None:
    """Retired, tainted and revoked between intent and result: not handed out, begun anew."""
    identity, node = await house.register(), await house.join()
    old = await active(house)
    made = await prepare(house)
    await house.publish()
    house.clock.advance(KNOWN_AFTER)
    loop = asyncio.get_running_loop()

    def interfere() -> None:
        house.keystore.before_sign = None

        async def change() -> None:
            await activate(house, made.id)
            await taint(house, old.id)

        asyncio.run_coroutine_threadsafe(change(), loop).result(10)

    house.keystore.before_sign = interfere
    (issued,) = await house.issue(node, identity.id)
    assert issued.error is None
    leaf = x509.load_der_x509_certificate(issued.chain[0])
    assert read_signer(leaf) == made.key_id
    mine = [e.type for e in await house.events("certificate.") if e.subject == identity.spiffe_id]
    assert mine == [f"certificate.{v}" for v in ("intended", "abandoned", "intended", "issued")]


@in_house
async def test_a_retired_authority_lives_for_an_intent_under_way(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    made = await prepare(house, Use.JWT)
    house.clock.advance(KNOWN_AFTER)
    loop = asyncio.get_running_loop()
    seen: list[str] = []

    def interfere() -> None:
        house.keystore.before_sign = None

        async def change() -> None:
            await activate(house, made.id)
            await house.prepare()
            seen.extend(await list_states(house, Use.JWT))

        asyncio.run_coroutine_threadsafe(change(), loop).result(10)

    house.keystore.before_sign = interfere
    assert await issue_token(house, node, identity)
    assert seen == ["retired", "active"]


@in_house
async def test_a_crash_while_making_a_key_leaves_nothing_in_the_way(house: FakeHouse) -> None:
    def crash() -> None:
        raise OSError("power failure")

    house.keystore.before_sign = crash
    with pytest.raises(OSError, match="power"):
        await prepare(house)
    house.keystore.before_sign = None
    assert await list_states(house) == ["active"]
    assert (await prepare(house)).state == "prepared"


@in_house
async def test_a_node_that_died_while_preparing_holds_others_up_for_a_lease(
    house: FakeHouse,
) -> None:
    now = house.clock.now()
    await house.parts.store.transact(
        lambda tx: tx.leases.take(f"{LEASE}.{Use.X509}", "dead", now, timedelta(seconds=30))
    )
    with pytest.raises(Unavailable, match="try again"):
        await prepare(house)
    house.clock.advance(timedelta(seconds=30))
    assert (await prepare(house)).state == "prepared"


@in_house
async def test_two_nodes_and_an_administrator_at_once_make_one(house: FakeHouse) -> None:
    house.clock.advance(timedelta(days=183))
    await house.settle()
    parts = house.parts
    other = PrepareAuthorities(
        parts.store, house.clock, parts.entropy, house.keystore, DOMAIN, "other"
    )
    outcomes = await asyncio.gather(
        house.prepare(), other(), *(prepare(house) for _ in range(4)), return_exceptions=True
    )
    await house.prepare()
    assert await list_states(house) == ["active", "prepared"]
    failures = [o for o in outcomes if isinstance(o, BaseException)]
    assert all(getattr(f, "code", "") for f in failures), failures


@in_house
async def test_activated_twice_at_once_it_is_activated_once(house: FakeHouse) -> None:
    made = await prepare(house)
    await house.publish()
    outcomes = await asyncio.gather(
        *(activate(house, made.id, force=True) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(o, Refused) for o in outcomes) == 4
    assert await list_states(house) == ["retired", "active"]


@in_house
async def test_background_work_does_not_undo_what_was_done_by_hand(house: FakeHouse) -> None:
    old = await rotate(house)
    await taint(house, old)
    await house.prepare()
    assert await list_states(house) == ["tainted", "active"]
    await revoke(house, old)
    await house.prepare()
    assert await list_states(house) == ["revoked", "active"]
    house.clock.advance(timedelta(days=400))
    await house.prepare()
    assert (await list_states(house))[0] == "revoked"


@in_house
async def test_a_prepared_authority_that_outlived_itself_never_signs(house: FakeHouse) -> None:
    made = await prepare(house)
    house.clock.advance(timedelta(days=400))
    await house.prepare()
    assert (await list_states(house))[:2] in (["ended", "ended"], ["retired", "ended"])
    assert (await active(house)).id != made.id


@in_house
async def test_the_server_replaces_its_certificate_when_its_signer_is_tainted(
    house: FakeHouse,
) -> None:
    parts = house.parts
    certify = CertifyServer(
        parts.store, house.clock, parts.entropy, parts.leaves, DOMAIN, ("localhost",)
    )
    pairs = [await certify()]
    renew = RenewServer(certify, parts.store, house.clock, lambda: pairs[-1], pairs.append)
    old = await rotate(house)
    await renew()  # for the new root
    pairs[:] = [replace(pairs[-1], authority_id=AuthorityId(old))]
    await renew()
    assert len(pairs) == 1
    await taint(house, old)
    await renew()
    assert pairs[-1].authority_id == (await active(house)).id
    await renew()
    assert len(pairs) == 2


@in_house
async def test_a_certificate_of_a_revoked_authority_opens_no_door(house: FakeHouse) -> None:
    await house.join()
    old = await rotate(house)
    record = await house.parts.store.read(lambda tx: tx.nodes.find_named("local"))
    assert record is not None
    found = await house.parts.store.read(lambda tx: tx.certificates.get(record.certificate_serial))
    callers = CallerRegistry(
        house.parts.store, house.parts.snapshot, house.parts.peers, DOMAIN, {}, {}
    )
    assert found.der is not None
    await house.settle()
    assert (await callers.by_certificate(found.der, "test")).node_id == record.id
    with pytest.raises(Refused, match="1 credentials"):
        await revoke(house, old)
    await revoke(house, old, force=True)
    await house.settle()
    with pytest.raises(Unauthenticated, match="revoked"):
        await callers.by_certificate(found.der, "test")
    (event,) = await house.events("authority.revoked")
    assert event.body["holders"] == 1
    assert event.actor == ADMIN.principal


@in_house
async def test_only_what_is_newer_and_trusted_replaces(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    await house.issue(node, identity.id)
    signers = []
    for _ in range(2):
        await rotate(house)
        signers.append((await active(house)).id)
        await house.issue(node, identity.id)
    one, two = signers
    await rotate(house)

    async def count(id: str) -> int:
        items = (await house.call("authority.ls", ListAuthorities())).items
        return int(next(item.holders for item in items if item.id == id))

    assert (await count(one), await count(two)) == (0, 1)
    with pytest.raises(Refused, match="1 credentials"):
        await revoke(house, two)
    store, original = house.parts.store, house.parts.store.transact

    async def overtake(function: Any) -> Any:
        """Another administrator is faster, after the holders were counted."""
        store.transact = original  # type: ignore[method-assign]
        await revoke(house, two, force=True)
        return await original(function)

    store.transact = overtake  # type: ignore[method-assign]
    with pytest.raises(Refused, match="1 credentials"):
        await revoke(house, one)
    assert await count(one) == 1


@in_house
async def test_a_tainted_authority_is_reported_until_it_is_revoked(house: FakeHouse) -> None:
    old = await rotate(house)
    await taint(house, old)
    await house.settle()
    findings = (await house.call("status.show", GetStatus())).findings
    assert any(f"troth authority revoke {old}" in finding for finding in findings)
    await revoke(house, old)
    findings = (await house.call("status.show", GetStatus())).findings
    assert not any(old in finding for finding in findings)
    assert AuthorityState.TAINTED.value not in await list_states(house)


@in_house
async def test_a_key_that_is_lost_holds_up_no_other_list(house: FakeHouse) -> None:
    old = await active(house)
    await rotate(house)
    new = await active(house)
    house.keystore.delete_key(old.key_ref)
    house.clock.advance(timedelta(days=1))
    before = house.clock.now()

    async def number(authority: Authority) -> int:
        return await house.parts.store.read(lambda tx: tx.crls.next_number(authority.id))

    numbers = await number(old), await number(new)
    for _ in range(3):
        with pytest.raises(TrothError):
            await house.publish()
    assert (await number(old), await number(new)) == (numbers[0], numbers[1] + 1)
    listed = await house.parts.store.read(lambda tx: tx.crls.latest(new.id))
    assert listed is not None
    assert listed.next_update > before
