"""Signing authorities and revocation lists over years, bad clocks and failing keystores."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from cryptography import x509

from tests.fakes.house import DOMAIN, FakeHouse, in_house
from troth.core.errors import Refused, Unavailable
from troth.core.ids import TrustDomain
from troth.issuance.authorities import Authority, AuthorityState, Use
from troth.operations.authority import claim_trust_domain
from troth.operations.node import collect_roots
from troth.store.records import CertificateKind, CrlRecord, IssuanceState, format_serial
from troth.wire.api.identities import MoveIdentity


async def states(house: FakeHouse, use: Use = Use.X509) -> list[AuthorityState]:
    found = await house.parts.store.read(lambda tx: tx.authorities.list(use))
    return [authority.state for authority in found]


async def active(house: FakeHouse, use: Use = Use.X509) -> Authority:
    return await house.parts.store.read(lambda tx: tx.authorities.active(use))


async def latest(house: FakeHouse) -> CrlRecord:
    authority = await active(house)
    crl = await house.parts.store.read(lambda tx: tx.crls.latest(authority.id))
    assert crl is not None
    return crl


@in_house
async def test_the_successor_is_published_before_it_signs(house: FakeHouse) -> None:
    first = await active(house)
    house.clock.advance(timedelta(days=182))
    await house.prepare()
    assert await states(house) == [AuthorityState.ACTIVE]
    house.clock.advance(timedelta(days=1))
    await house.prepare()
    await house.prepare()
    assert await states(house) == [AuthorityState.ACTIVE, AuthorityState.PREPARED]
    assert (await active(house)).id == first.id
    assert len(await house.parts.store.read(collect_roots)) == 2
    house.clock.advance(timedelta(days=122))
    await house.settle()
    await house.join()  # something that the old root signed lives for a day
    await house.prepare()
    assert await states(house) == [AuthorityState.RETIRED, AuthorityState.ACTIVE]
    assert len(await house.parts.store.read(collect_roots)) == 2
    house.clock.advance(timedelta(days=1))
    await house.prepare()
    assert (await states(house))[0] is AuthorityState.ENDED
    assert await states(house, Use.JWT) == await states(house)


@in_house
async def test_a_server_that_slept_past_the_end_starts_with_a_new_root(house: FakeHouse) -> None:
    first = await active(house)
    house.clock.advance(timedelta(days=400))
    await house.prepare()
    second = await active(house)
    assert second.id != first.id
    assert second.not_before <= house.clock.now() < second.not_after


@in_house
async def test_a_root_made_under_a_wrong_clock_is_replaced(house: FakeHouse) -> None:
    house.clock.jump(house.clock.now() - timedelta(days=30))
    await house.prepare()
    assert (await active(house)).not_before <= house.clock.now()


@in_house
async def test_the_root_is_recorded_before_it_is_signed(house: FakeHouse) -> None:
    authority = await active(house)
    root = x509.load_der_x509_certificate(authority.certificate)
    serial = format_serial(root.serial_number)
    record = await house.parts.store.read(lambda tx: tx.certificates.get(serial))
    assert (record.kind, record.state) == (CertificateKind.CA, IssuanceState.ISSUED)
    assert record.tbs == root.tbs_certificate_bytes
    types = [e.type for e in await house.events("authority.") if e.subject == authority.id]
    assert types == ["authority.intended", "authority.activated"]


@in_house
async def test_a_failed_attempt_does_not_block_the_next(house: FakeHouse) -> None:
    def fail() -> None:
        raise Unavailable("The keystore is away.")

    house.clock.advance(timedelta(days=400))
    house.keystore.before_sign = fail
    with pytest.raises(Unavailable):
        await house.prepare()
    house.keystore.before_sign = None
    await house.prepare()
    assert (await active(house)).not_after > house.clock.now()


@in_house
async def test_a_use_whose_authority_cant_be_made_holds_up_no_other(house: FakeHouse) -> None:
    def fail() -> None:  # only certificates are signed while an authority is made
        raise Unavailable("The keystore is away.")

    house.clock.advance(timedelta(days=183))
    house.keystore.before_sign = fail
    with pytest.raises(Unavailable, match="away"):
        await house.prepare()
    assert await states(house) == [AuthorityState.ACTIVE]
    assert await states(house, Use.JWT) == [AuthorityState.ACTIVE, AuthorityState.PREPARED]


@in_house
async def test_lists_are_dated_back_for_slow_clocks(house: FakeHouse) -> None:
    crl = x509.load_der_x509_crl((await latest(house)).der or b"")
    assert crl.last_update_utc == house.clock.now() - timedelta(seconds=10)
    assert crl.next_update_utc == house.clock.now() + timedelta(hours=72)


@in_house
async def test_a_list_from_the_future_is_replaced(house: FakeHouse) -> None:
    await house.settle()
    house.clock.jump(house.clock.now() - timedelta(hours=20))
    assert await house.parts.publication.find_obstacles()
    await house.prepare()
    await house.publish()
    crl = await latest(house)
    assert crl.this_update <= house.clock.now()
    assert not await house.parts.publication.find_obstacles()


@in_house
async def test_a_list_is_made_anew_when_old_or_changed_and_not_otherwise(house: FakeHouse) -> None:
    first = await latest(house)
    await house.publish()
    assert (await latest(house)).number == first.number
    identity, node = await house.register(), await house.join()
    await house.issue(node, identity.id)
    await house.call("identity.quarantine", MoveIdentity(name="payments", reason="odd"))
    await house.publish()
    second = await latest(house)
    assert second.number == first.number + 1
    await house.publish()
    assert (await latest(house)).number == second.number
    house.clock.advance(timedelta(hours=1))
    await house.publish()
    assert (await latest(house)).number == second.number + 1
    kept = await house.parts.store.read(lambda tx: tx.crls.find(second.authority_id, second.number))
    assert kept is None  # a newer one holds all that it held


@in_house
async def test_a_list_that_another_server_overtakes_is_given_up(house: FakeHouse) -> None:
    first, loop = await latest(house), asyncio.get_running_loop()
    house.clock.advance(timedelta(hours=1))

    def overtake() -> None:
        house.keystore.before_sign = None
        asyncio.run_coroutine_threadsafe(house.publish(), loop).result(20)

    house.keystore.before_sign = overtake
    await house.publish()
    assert (await latest(house)).number == first.number + 2
    published = await house.events("crl.published")
    assert published[-1].body["number"] == first.number + 2


@in_house
async def test_a_keystore_that_fails_strands_nothing(house: FakeHouse) -> None:
    identity, node = await house.register(), await house.join()

    def fail() -> None:
        raise OSError("no such device")

    house.keystore.before_sign = fail
    with pytest.raises(Unavailable, match="signing key"):
        await house.issue(node, identity.id)
    mine = [e.type for e in await house.events("certificate.") if e.subject == identity.spiffe_id]
    assert mine == ["certificate.intended", "certificate.abandoned"]
    house.keystore.before_sign = None
    (issued,) = await house.issue(node, identity.id)
    assert issued.error is None


@in_house
async def test_a_database_belongs_to_one_trust_domain(house: FakeHouse) -> None:
    store = house.parts.store
    await store.transact(lambda tx: claim_trust_domain(tx, DOMAIN))
    await store.transact(lambda tx: claim_trust_domain(tx, DOMAIN))
    with pytest.raises(Refused, match="belongs to the trust domain"):
        await store.transact(lambda tx: claim_trust_domain(tx, TrustDomain("other.org")))
