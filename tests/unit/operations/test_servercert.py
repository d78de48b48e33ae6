"""The server's own certificate: what it names, and when it is renewed."""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509

from tests.fakes.house import DOMAIN, FakeHouse, in_house
from troth.operations.servercert import CertifyServer, RenewServer, ServerPair, split_names

NAMES = ("localhost", "127.0.0.1", "::1", "Troth.Example.org.")


def make_certify(house: FakeHouse) -> CertifyServer:
    parts = house.parts
    return CertifyServer(parts.store, house.clock, parts.entropy, parts.leaves, DOMAIN, NAMES)


def read_leaf(pair: ServerPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.chain_pem)


@in_house
async def test_it_names_the_server_its_hosts_and_addresses(house: FakeHouse) -> None:
    leaf = read_leaf(await make_certify(house)())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://example.org/troth/server"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "troth.example.org"]
    addresses = [str(a) for a in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["127.0.0.1", "::1"]


@in_house
async def test_it_is_renewed_at_half_life_and_when_the_roots_change(house: FakeHouse) -> None:
    pairs = [await make_certify(house)()]
    renew = RenewServer(
        make_certify(house), house.parts.store, house.clock, lambda: pairs[-1], pairs.append
    )
    await renew()
    assert len(pairs) == 1
    house.clock.advance(timedelta(hours=12))
    await house.settle()
    await renew()
    assert len(pairs) == 2
    assert read_leaf(pairs[1]).serial_number != read_leaf(pairs[0]).serial_number
    await renew()
    assert len(pairs) == 2
    house.clock.advance(timedelta(days=183))
    await house.settle()
    await house.prepare()
    await renew()
    assert len(pairs[-1].roots) == 2
    assert pairs[-1].renew_at > house.clock.now()


@in_house
async def test_one_made_while_the_clock_was_ahead_is_replaced_once_it_is_back(
    house: FakeHouse,
) -> None:
    pairs = [await make_certify(house)()]
    renew = RenewServer(
        make_certify(house), house.parts.store, house.clock, lambda: pairs[-1], pairs.append
    )
    right = house.clock.now()
    house.clock.jump(right + timedelta(hours=20))
    await renew()
    assert read_leaf(pairs[-1]).not_valid_before_utc > right
    house.clock.jump(right)
    await renew()
    assert len(pairs) == 3
    assert read_leaf(pairs[-1]).not_valid_before_utc <= right


def test_names_and_addresses_are_told_apart() -> None:
    assert split_names(("A", "a.", "10.0.0.1", "fe80::1")) == (("10.0.0.1", "fe80::1"), ("a",))
