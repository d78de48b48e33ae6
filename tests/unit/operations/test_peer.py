"""Whoever shows a certificate: only the trust domain's own authorities make it an X.509-SVID."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from tests.fakes.certificates import Made, make_certificate
from tests.fakes.house import DOMAIN, FakeHouse, in_house
from tests.fakes.stores import CountingStore
from troth.core.errors import Unauthenticated
from troth.issuance.authorities import Use
from troth.issuance.der import identify_key
from troth.issuance.presented import is_signed_by
from troth.operations.callers import CallerRegistry
from troth.operations.feed import read_seed
from troth.operations.peer import PeerReader

VICTIM = "spiffe://example.org/payments"
NODE = "spiffe://example.org/troth/node/local"


def open_reader(house: FakeHouse) -> tuple[PeerReader, CountingStore]:
    store = CountingStore(house.parts.store)
    return PeerReader(store, house.parts.snapshot, house.clock, DOMAIN), store


async def find_root(house: FakeHouse) -> Any:
    """The authority that signs now."""
    listed = await house.parts.store.read(lambda tx: tx.authorities.list(Use.X509))
    return listed[0]


async def forge(house: FakeHouse, kind: str) -> Made:
    """A certificate with the name of somebody else, as TLS would let it in."""
    authority = await find_root(house)
    root = x509.load_der_x509_certificate(authority.certificate)
    ours = identify_key(authority.public_key)
    now = house.clock.now()
    if kind == "self-signed with a SPIFFE ID":
        return make_certificate(names=[VICTIM], now=now)
    if kind == "self-signed that names our key":
        return make_certificate(names=[VICTIM], now=now, signer=ours)
    if kind == "self-signed with our name and key identifier":
        return make_certificate(names=[VICTIM], now=now, signer=ours, subject=root.subject)
    ca = make_certificate("evil", ca=True, now=now)
    if kind == "leaf of a registered CA":
        return make_certificate("x", issuer=ca, names=[VICTIM], now=now)
    if kind == "leaf of a registered CA for a node":
        return make_certificate("x", issuer=ca, names=[NODE], now=now)
    if kind == "leaf of a registered CA that names our key":
        return make_certificate("x", issuer=ca, names=[VICTIM], now=now, signer=ours)
    assert kind == "leaf of a CA with our name and key identifier"
    twin = make_certificate(ca=True, now=now, subject=root.subject)
    return make_certificate("x", issuer=twin, names=[VICTIM], now=now, signer=ours)


FORGERIES = (
    "self-signed with a SPIFFE ID",
    "self-signed that names our key",
    "self-signed with our name and key identifier",
    "leaf of a registered CA",
    "leaf of a registered CA for a node",
    "leaf of a registered CA that names our key",
    "leaf of a CA with our name and key identifier",
)


@pytest.mark.parametrize("kind", FORGERIES)
def test_no_other_certificate_passes_for_an_svid(kind: str, tmp_path: Any) -> None:
    @in_house
    async def test(house: FakeHouse) -> None:
        await house.register()
        await house.join()
        await house.settle()
        der = (await forge(house, kind)).der
        reader, _ = open_reader(house)
        parts = house.parts
        registry = CallerRegistry(parts.store, parts.snapshot, parts.peers, DOMAIN, {}, {})
        for _ in range(2):  # nor the second time, when something could be remembered
            with pytest.raises(Unauthenticated, match="not signed by an authority"):
                await reader.read(der)
            with pytest.raises(Unauthenticated):
                await registry.by_certificate(der, "test")
            assert reader.find(der) is None
            assert registry.confirm_certificate(der, "test") is None

    test(tmp_path)


async def hold(house: FakeHouse) -> bytes:
    identity = await house.register()
    (issued,) = await house.issue(await house.join(), identity.id)
    await house.settle()
    der: bytes = issued.chain[0]
    return der


@in_house
async def test_one_bit_of_difference_is_another_certificate(house: FakeHouse) -> None:
    der = await hold(house)
    reader, _ = open_reader(house)
    assert str((await reader.read(der)).spiffe_id) == VICTIM
    spoilt = der[:-1] + bytes([der[-1] ^ 1])
    with pytest.raises(Unauthenticated):
        await reader.read(spoilt)
    with pytest.raises(Unauthenticated):
        await reader.read(der + b"\0")


@in_house
async def test_what_was_verified_is_known_from_memory_until_the_database_is_set_back(
    house: FakeHouse,
) -> None:
    der = await hold(house)
    reader, store = open_reader(house)
    assert reader.find(der) is None
    shown = await reader.read(der)
    before = store.reads
    for _ in range(10):
        assert reader.find(der) == shown
        assert await reader.read(der) == shown
    assert store.reads == before
    house.parts.snapshot.reload(await read_seed(house.parts.store, house.clock.now()))
    assert reader.find(der) is None
    assert await reader.read(der) == shown


@in_house
async def test_memory_knows_the_end_of_a_certificate(house: FakeHouse) -> None:
    der = await hold(house)
    reader, _ = open_reader(house)
    await reader.read(der)
    house.clock.advance(timedelta(hours=25))
    house.parts.snapshot.hear()
    with pytest.raises(Unauthenticated, match="expired"):
        reader.find(der)


@in_house
async def test_who_signed_is_asked_by_name_and_by_signature(house: FakeHouse) -> None:
    der, authority = await hold(house), await find_root(house)
    assert is_signed_by(der, authority.certificate)
    other = make_certificate("other", ca=True, now=house.clock.now())
    assert not is_signed_by(der, other.der)
    assert not is_signed_by(b"", authority.certificate)
    assert not is_signed_by(der, hashlib.sha256(b"").digest())
