"""Issuance through the gate: who gets a certificate, who doesn't, and what is left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.fakes.house import DOMAIN, LEASE, FakeHouse, call_of, in_house, make_csr
from troth.core.entropy import SeededEntropy
from troth.core.errors import Denied, Unauthenticated, Unavailable
from troth.core.ids import IdentityId
from troth.core.jose.jwk import derive_key_id
from troth.issuance.authorities import Use
from troth.issuance.crl import list_serials
from troth.issuance.jwtsvid import validate_jwt_svid
from troth.operations.call import ANONYMOUS
from troth.operations.leaf import RECONCILE_LEASE, ReconcileIssuance
from troth.operations.purge import KEPT, PurgeRecords
from troth.operations.purge import LEASE as PURGE_LEASE
from troth.operations.servercert import CertifyServer
from troth.store.records import IssuanceState
from troth.store.transaction import Transaction
from troth.wire.api.certificates import (
    CertificateRequest,
    InstanceClaim,
    IssueCertificates,
    ListCertificates,
    RevokeCertificate,
)
from troth.wire.api.devices import EnrollDevice, InviteDevices
from troth.wire.api.identities import ListInstances, MoveIdentity, MoveInstance
from troth.wire.api.jwt_svids import IssueJwtSvids, JwtSvidRequest
from troth.wire.api.nodes import AttestNode, CreateJoinToken, RenewNode

CLAIM = InstanceClaim(key="ab" * 16, pid=7, selectors=["unix:uid:1001"])


@asynccontextmanager
async def another_server_at(house: FakeHouse, lease: str) -> AsyncIterator[None]:
    """Another server holds `lease` in the block, and gives it back."""
    store, now = house.parts.store, house.clock.now()
    assert await store.transact(lambda tx: tx.leases.take(lease, "other", now, timedelta(hours=1)))
    yield
    assert await store.transact(lambda tx: tx.leases.release(lease, "other"))


async def latest_crl(house: FakeHouse) -> frozenset[int]:
    await house.settle()
    await house.publish()

    def read(tx: Transaction) -> bytes:
        crl = tx.crls.latest(tx.authorities.active(Use.X509).id)
        assert crl is not None
        return crl.der or b""

    return list_serials(await house.parts.store.read(read))


@in_house
async def test_intent_is_journaled_before_result(house: FakeHouse) -> None:
    identity = await house.register()
    node = await house.join()
    (issued,) = await house.issue(node, identity.id)
    certificate = x509.load_der_x509_certificate(issued.chain[0])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://example.org/payments"]
    mine = [e for e in await house.events("certificate.") if e.subject == identity.spiffe_id]
    assert [e.type for e in mine] == ["certificate.intended", "certificate.issued"]
    assert {e.body["serial"] for e in mine} == {issued.serial}
    assert all(e.actor == node.principal and e.request_id == "req_test" for e in mine)


@in_house
async def test_exactly_the_recorded_bytes_are_signed(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    (issued,) = await house.issue(node, identity.id)
    record = await house.parts.store.read(lambda tx: tx.certificates.get(issued.serial))
    certificate = x509.load_der_x509_certificate(issued.chain[0])
    assert record.tbs == certificate.tbs_certificate_bytes
    assert record.der == issued.chain[0]
    assert record.state is IssuanceState.ISSUED


@in_house
async def test_one_refusal_of_a_batch_leaves_the_others(house: FakeHouse) -> None:
    good, node = await house.register(), await house.join()
    away = await house.register("elsewhere", nodes=["other"])
    await house.register("sleeping", activate=False)
    asleep = await house.call("identity.show", _name("sleeping"))
    await house.settle()
    requests = [
        CertificateRequest(identity_id=away.id, csr=b"junk", instance=CLAIM),
        *(await _requests(house, good.id, away.id, asleep.id, "idn_unknown")),
    ]
    body = IssueCertificates(requests=requests)
    answers = (await house.call("certificate.issue", body, node)).results
    codes = [a.error.code if a.error else "ok" for a in answers]
    assert codes == [
        "invalid_request",
        "ok",
        "permission_denied",
        "permission_denied",
        "not_found",
    ]
    assert [e.subject for e in await house.events("certificate.issued")].count(good.spiffe_id) == 1
    assert not [e for e in await house.events("certificate.") if e.subject == away.spiffe_id]


@in_house
async def test_attested_selectors_are_checked_again(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    (answer,) = await house.issue(node, identity.id, selectors=["unix:uid:1002"])
    assert answer.error.code == "permission_denied"
    assert "unix:uid:1001" in answer.error.detail
    assert not answer.chain


@in_house
async def test_only_nodes_may_ask(house: FakeHouse) -> None:
    identity = await house.register()
    body = IssueCertificates(requests=await _requests(house, identity.id))
    with pytest.raises(Denied):
        await house.call("certificate.issue", body)
    with pytest.raises(Unauthenticated):
        await house.call("certificate.issue", body, ANONYMOUS)
    assert ("certificate.issue", "permission_denied") in house.meter.seen


@in_house
async def test_quarantine_revokes_and_release_issues_anew(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    (before,) = await house.issue(node, identity.id)
    await house.call("identity.quarantine", MoveIdentity(name="payments", reason="odd traffic"))
    assert int(before.serial, 16) in await latest_crl(house)
    assert house.parts.snapshot.is_revoked(before.serial)
    assert house.parts.snapshot.find_cut_off(identity.spiffe_id) == "quarantined"
    (during,) = await house.issue(node, identity.id)
    assert "quarantined" in during.error.detail
    await house.call("identity.release", MoveIdentity(name="payments", reason="cleared"))
    (after,) = await house.issue(node, identity.id)
    assert after.serial != before.serial
    serials = await latest_crl(house)
    assert int(before.serial, 16) in serials
    assert int(after.serial, 16) not in serials
    assert house.parts.snapshot.find_cut_off(identity.spiffe_id) is None


@in_house
async def test_quarantine_while_signing_is_seen(house: FakeHouse) -> None:
    """The signature may exist, but the certificate is never handed out."""
    identity, node = await house.register(), await house.join()
    await house.settle()
    body = IssueCertificates(requests=await _requests(house, identity.id))
    operation = house.dispatcher.operations["certificate.issue"]
    leaves = house.parts.leaves

    original = leaves.store.transact
    calls = 0

    async def interposed(function: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # between the intent and the result
            move = MoveIdentity(name="payments", reason="now")
            await original(lambda tx: None)
            await house.dispatcher.operations["identity.quarantine"](call_of(move))
        return await original(function)

    leaves.store.transact = interposed  # type: ignore[method-assign]
    try:
        (answer,) = (await operation(call_of(body, node))).results
    finally:
        leaves.store.transact = original  # type: ignore[method-assign]
    assert answer.error.code in ("permission_denied", "failed_precondition")
    types = [e.type for e in await house.events("certificate.") if e.subject == identity.spiffe_id]
    assert types == ["certificate.intended", "certificate.revoked", "certificate.abandoned"]


@in_house
async def test_one_instance_locked_alone(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    (one,) = await house.issue(node, identity.id)
    (two,) = await house.issue(node, identity.id, key="cd" * 16, pid=8)
    assert one.instance_id != two.instance_id
    await house.call("instance.lock", MoveInstance(id=one.instance_id, reason="strange"))
    serials = await latest_crl(house)
    assert int(one.serial, 16) in serials
    assert int(two.serial, 16) not in serials
    (refused,) = await house.issue(node, identity.id)
    assert "locked" in refused.error.detail
    (sibling,) = await house.issue(node, identity.id, key="cd" * 16, pid=8)
    assert sibling.error is None
    listed = await house.call("instance.ls", ListInstances(name="payments"))
    assert {i.id: i.locked for i in listed.items} == {one.instance_id: True, two.instance_id: False}
    await house.call("instance.unlock", MoveInstance(id=one.instance_id, reason="explained"))
    (again,) = await house.issue(node, identity.id)
    assert again.error is None


def crash() -> None:
    raise KeyboardInterrupt


@in_house
async def test_a_crash_between_intent_and_result_is_closed(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    await house.settle()
    house.keystore.before_sign = crash
    body = IssueCertificates(requests=await _requests(house, identity.id))
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever a dying process raises
        await house.call("certificate.issue", body, node)
    house.keystore.before_sign = None
    reconcile = ReconcileIssuance(house.parts.store, house.clock, house.parts.store.holder)
    await reconcile()
    assert not await house.events("certificate.abandoned")  # it may still be under way
    house.clock.advance(timedelta(seconds=301))
    async with another_server_at(house, RECONCILE_LEASE):
        await reconcile()
        assert not await house.events("certificate.abandoned")
    await reconcile()
    await reconcile()
    (abandoned,) = await house.events("certificate.abandoned")
    assert abandoned.subject == identity.spiffe_id
    assert int(abandoned.body["serial"], 16) in await latest_crl(house)


@in_house
async def test_one_server_at_a_time_forgets_what_has_long_ended(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    (issued,) = await house.issue(node, identity.id)
    parts = house.parts
    purge = PurgeRecords(parts.store, house.clock, parts.snapshot, parts.store.holder)
    house.clock.advance(timedelta(hours=1) + KEPT * 1.01)
    async with another_server_at(house, PURGE_LEASE):
        await purge()
        assert await parts.store.read(lambda tx: tx.certificates.find(issued.serial))
    await purge()
    assert await parts.store.read(lambda tx: tx.certificates.find(issued.serial)) is None


@in_house
async def test_an_intent_that_was_revoked_before_a_crash_is_not_revoked_again(
    house: FakeHouse,
) -> None:
    identity, node = await house.register(), await house.join()
    body = IssueCertificates(requests=await _requests(house, identity.id))
    await house.settle()
    house.keystore.before_sign = crash
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever a dying process raises
        await house.call("certificate.issue", body, node)
    house.keystore.before_sign = None
    await house.call("identity.quarantine", MoveIdentity(name=identity.name, reason="theft"))
    house.clock.advance(timedelta(seconds=301))
    await ReconcileIssuance(house.parts.store, house.clock, house.parts.store.holder)()
    (revoked,) = await house.events("certificate.revoked")
    assert revoked.body["reason"] == "privilegeWithdrawn"
    (abandoned,) = await house.events("certificate.abandoned")
    assert abandoned.body["serial"] == revoked.body["serial"]


@in_house
async def test_a_stale_snapshot_denies(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    await house.settle()
    body = IssueCertificates(requests=await _requests(house, identity.id))
    house.clock.advance(timedelta(seconds=16))
    with pytest.raises(Unavailable):
        await house.call("certificate.issue", body, node)
    assert await house.parts.publication.find_obstacles()
    await house.settle()
    assert (await house.call("certificate.issue", body, node)).results[0].error is None


@in_house
async def test_a_stale_server_certifies_no_node_no_device_and_not_itself(house: FakeHouse) -> None:
    await house.register("sensor-1", kind="device", selectors=[])
    invited = await house.call("device.invite", InviteDevices(names=["sensor-1"]))
    node = await house.join("edge")
    token = (await house.call("token.join", CreateJoinToken(node="edge"))).token
    join = AttestNode(method="join_token", evidence=token, csr=make_csr())
    code = invited.codes[0].code
    enrol = EnrollDevice(method="code", evidence=code, csr=make_csr())
    asked = [
        ("node.attest", join, ANONYMOUS),
        ("device.enroll", enrol, ANONYMOUS),
        ("node.renew", RenewNode(csr=make_csr()), node),
    ]
    certify = CertifyServer(
        house.parts.store, house.clock, SeededEntropy(1), house.parts.leaves, DOMAIN, ("localhost",)
    )
    before = await house.events()
    house.clock.advance(LEASE + timedelta(seconds=1))
    for name, body, caller in asked:
        with pytest.raises(Unavailable, match="silent"):
            await house.call(name, body, caller)
    with pytest.raises(Unavailable, match="silent"):
        await certify()
    assert await house.events() == before  # nothing was intended, used up or taken away
    for name, body, caller in reversed(asked):  # joining anew ends what the node had
        assert (await house.call(name, body, caller)).chain
    assert (await certify()).chain_pem


@in_house
async def test_an_expired_identity_gets_nothing(house: FakeHouse) -> None:
    ends = house.clock.now() + timedelta(hours=2)
    identity, node = await house.register(expires_at=ends), await house.join()
    house.clock.advance(timedelta(hours=2))
    (answer,) = await house.issue(node, identity.id)
    assert "expired" in answer.error.detail


@in_house
async def test_revoking_one_certificate(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    (issued,) = await house.issue(node, identity.id)
    view = await house.call(
        "certificate.revoke", RevokeCertificate(serial=issued.serial, reason="lost disk")
    )
    assert view.revoked_at == house.clock.now()
    assert int(issued.serial, 16) in await latest_crl(house)
    listed = await house.call("certificate.ls", ListCertificates(name="payments"))
    assert [c.serial for c in listed.items] == [issued.serial]
    (event,) = await house.events("certificate.revoked")
    assert event.body["reason"] == "lost disk"


@in_house
async def test_jwt_svid_verifies_and_is_not_stored(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()
    await house.settle()
    wish = JwtSvidRequest(identity_id=identity.id, instance=CLAIM, audiences=["db"])
    body = IssueJwtSvids(requests=[wish])
    (issued,) = (await house.call("jwtsvid.issue", body, node)).results
    jwks = await house.parts.publication.show_jwks()
    import json

    keys = {"example.org": json.loads(jwks)["keys"]}
    claims = validate_jwt_svid(issued.token, "db", keys, house.clock.now())
    assert claims["sub"] == identity.spiffe_id
    assert claims["iss"] == "https://localhost:8443/svid"
    authority = await house.parts.store.read(lambda tx: tx.authorities.active(Use.JWT))
    assert derive_key_id(authority.public_key) == keys["example.org"][0]["kid"]
    types = [e.type for e in await house.events("jwtsvid.")]
    assert types == ["jwtsvid.intended", "jwtsvid.issued"]
    signature = issued.token.rsplit(".", 1)[1].encode()
    for file in filter(Path.is_file, house.directory.rglob("*")):
        assert signature not in file.read_bytes()


@in_house
async def test_x509_and_jwt_keys_are_never_the_same(house: FakeHouse) -> None:
    found = await house.parts.store.read(lambda tx: tx.authorities.list())
    assert sorted(a.use.value for a in found) == ["access-token", "jwt-svid", "x509-svid"]
    assert len({a.public_key for a in found}) == 3


def _name(name: str) -> Any:
    from troth.wire.api.identities import NameIdentity

    return NameIdentity(name=name)


async def _requests(house: FakeHouse, *ids: str) -> list[CertificateRequest]:
    from tests.fakes.house import make_csr

    return [
        CertificateRequest(identity_id=IdentityId(i), csr=make_csr(), instance=CLAIM) for i in ids
    ]
