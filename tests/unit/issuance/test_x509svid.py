"""Leaf certificates: the plan's refusals, and what a finished certificate says."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.fakes.issuer import NOW, FakeIssuer, encode_spki, make_private_key
from troth.core.errors import Internal, Invalid, Refused
from troth.core.ids import SpiffeId, TrustDomain
from troth.issuance.authorities import AuthorityState
from troth.issuance.ca import draft_ca_certificate
from troth.issuance.drafter import read_issuer
from troth.issuance.x509svid import (
    assemble_certificate,
    check_certificate,
    draft_certificate,
)


@pytest.fixture
def issuer() -> FakeIssuer:
    return FakeIssuer()


def _read(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def _value(certificate: x509.Certificate, kind: type):
    return certificate.extensions.get_extension_for_class(kind)


def test_a_leaf_is_an_x509_svid(issuer: FakeIssuer) -> None:
    certificate = _read(issuer.issue(issuer.plan("/payments/api")))
    names = _value(certificate, x509.SubjectAlternativeName)
    assert names.critical, "the subject is empty"
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://example.org/payments/api"]
    constraints = _value(certificate, x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    usage = _value(certificate, x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    assert not usage.value.key_encipherment
    extended = _value(certificate, x509.ExtendedKeyUsage)
    assert set(extended.value) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }
    assert certificate.version is x509.Version.v3
    assert certificate.subject == x509.Name([])


def test_a_leaf_chains_to_its_issuer(issuer: FakeIssuer) -> None:
    certificate, root = _read(issuer.issue(issuer.plan())), _read(issuer.x509.certificate)
    certificate.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    authority = _value(certificate, x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == _value(root, x509.SubjectKeyIdentifier).value.digest
    own = hashlib.sha256(encode_spki(make_private_key())[-65:]).digest()[:20]
    assert _value(certificate, x509.SubjectKeyIdentifier).value.digest == own


def test_names_addresses_and_the_crl_address_are_carried(issuer: FakeIssuer) -> None:
    plan = issuer.plan(
        dns_names=["localhost", "api.example.org", "localhost"],
        ip_addresses=["127.0.0.1", "::1", "0:0:0:0:0:0:0:1"],
        crl_url="http://troth.example:8080/crl/aut_1",
    )
    certificate = _read(issuer.issue(plan))
    names = _value(certificate, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "api.example.org"]
    addresses = names.get_values_for_type(x509.IPAddress)
    assert addresses == [ip_address("127.0.0.1"), ip_address("::1")]
    (point,) = _value(certificate, x509.CRLDistributionPoints).value
    assert [name.value for name in point.full_name] == ["http://troth.example:8080/crl/aut_1"]


def test_times_are_whole_seconds_ten_back_and_the_ttl_ahead(issuer: FakeIssuer) -> None:
    certificate = _read(issuer.issue(issuer.plan(ttl=timedelta(minutes=7, milliseconds=3))))
    start = NOW.replace(microsecond=0)
    assert certificate.not_valid_before_utc == start - timedelta(seconds=10)
    assert certificate.not_valid_after_utc == start + timedelta(minutes=7)


def test_a_leaf_never_outlives_nor_predates_its_issuer(issuer: FakeIssuer) -> None:
    late = issuer.x509.not_after - timedelta(minutes=5, milliseconds=7)
    assert issuer.plan(now=late).not_after == issuer.x509.not_after.replace(microsecond=0)
    early = issuer.x509.not_before + timedelta(seconds=1)
    assert issuer.plan(now=early).not_before == issuer.x509.not_before.replace(microsecond=0)


def test_the_serial_is_the_planned_one(issuer: FakeIssuer) -> None:
    plan = issuer.plan(serial_bytes=b"\xff" * 20)
    certificate = _read(issuer.issue(plan))
    assert certificate.serial_number == plan.serial == (1 << 159) - 1


def test_a_leaf_that_ends_after_2049_uses_generalized_time() -> None:
    then = datetime(2050, 6, 1, tzinfo=UTC)
    issuer = FakeIssuer(now=then)
    der = issuer.issue(issuer.plan(now=then))
    assert b"\x18\x0f20500601010000Z" in der
    assert _read(der).not_valid_after_utc == then + timedelta(hours=1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ttl": timedelta(hours=25)}, "above the ceiling of 24 h"),
        ({"ttl": timedelta(0)}, "at least one second"),
        ({"spiffe_id": SpiffeId(TrustDomain("example.org"), "")}, "needs a SPIFFE ID with a path"),
        ({"public_key": b""}, "P-256"),
        ({"public_key": encode_spki(ec.derive_private_key(5, ec.SECP384R1()))}, "P-256"),
        ({"dns_names": ["a.example"] * 33}, "At most 32 DNS names"),
        ({"ip_addresses": ["10.0.0.1"] * 33}, "At most 32 DNS names and 32 addresses"),
        ({"dns_names": ["*.example.org"]}, "no wildcard"),
        ({"dns_names": ["Example.org"]}, "lower-case"),
        ({"dns_names": ["a_b.example"]}, "underscore"),
        ({"dns_names": ["10.0.0.1"]}, "no address"),
        ({"dns_names": [""]}, "can't be a DNS name"),
        ({"dns_names": ["a..b"]}, "can't be a DNS name"),
        ({"dns_names": ["-a.example"]}, "can't be a DNS name"),
        ({"dns_names": ["a.example."]}, "can't be a DNS name"),
        ({"dns_names": ["a.example\n"]}, "can't be a DNS name"),
        ({"dns_names": ["ü.example"]}, "can't be a DNS name"),
        ({"dns_names": ["a" * 64 + ".example"]}, "can't be a DNS name"),
        ({"dns_names": [".".join(["a" * 60] * 5)]}, "can't be a DNS name"),
        ({"ip_addresses": ["10.0.0.0/8"]}, "not an IP address"),
        ({"ip_addresses": ["fe80::1%eth0"]}, "has a zone"),
        ({"crl_url": "ftp://example.org/crl"}, "http or https"),
        ({"crl_url": "http://example.org/c rl"}, "http or https"),
        ({"crl_url": "http://example.org/" + "a" * 2048}, "2048"),
    ],
)
def test_a_bad_request_is_refused_in_words(issuer: FakeIssuer, changes, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        issuer.plan(**changes)


def test_only_an_active_valid_x509_authority_signs(issuer: FakeIssuer) -> None:
    for state in set(AuthorityState) - {AuthorityState.ACTIVE}:
        with pytest.raises(Refused, match=f"is {state.value}"):
            issuer.plan(issuer=replace(issuer.x509, state=state))
    with pytest.raises(Refused, match="not x509-svid"):
        issuer.plan(issuer=issuer.jwt)
    with pytest.raises(Refused, match="not valid now"):
        issuer.plan(now=issuer.x509.not_after)
    with pytest.raises(Refused, match="not valid now"):
        issuer.plan(now=issuer.x509.not_before - timedelta(seconds=1))


def test_a_point_off_the_curve_is_refused(issuer: FakeIssuer) -> None:
    off = encode_spki(make_private_key())[:-32] + bytes(32)
    with pytest.raises(Invalid, match="not a point"):
        draft_certificate(issuer.plan(public_key=off))


def test_drafting_is_repeatable_so_what_was_recorded_can_be_compared(issuer: FakeIssuer) -> None:
    plan = issuer.plan()
    assert draft_certificate(plan) == draft_certificate(plan, issuer.drafter)


def test_the_draft_key_signs_nothing_that_is_given_out(issuer: FakeIssuer) -> None:
    """The throwaway key's scalar is 1, so its public key is the curve's generator."""
    generator = ec.derive_private_key(1, ec.SECP256R1()).public_key()
    certificate = _read(issuer.issue(issuer.plan()))
    root = load_der_public_key(issuer.x509.public_key)
    assert root != generator
    assert isinstance(root, ec.EllipticCurvePublicKey)
    algorithm = ec.ECDSA(hashes.SHA256())
    root.verify(certificate.signature, certificate.tbs_certificate_bytes, algorithm)


def test_the_check_refuses_what_differs_from_the_record(issuer: FakeIssuer) -> None:
    first, second = (draft_certificate(issuer.plan()) for _ in range(2))
    der = assemble_certificate(first, issuer.keystore.sign("x509", first))
    check_certificate(der, first, issuer.x509.public_key)
    with pytest.raises(Internal, match="differs from what was recorded"):
        check_certificate(der, second, issuer.x509.public_key)
    with pytest.raises(Internal, match="doesn't verify"):
        check_certificate(der, first, issuer.jwt.public_key)
    crossed = assemble_certificate(first, issuer.keystore.sign("x509", second))
    with pytest.raises(Internal, match="doesn't verify"):
        check_certificate(crossed, first, issuer.x509.public_key)


def test_another_trust_domain_is_not_signed_for(issuer: FakeIssuer) -> None:
    plan = issuer.plan(spiffe_id=SpiffeId.parse("spiffe://elsewhere.example/payments"))
    with pytest.raises(Internal, match="another trust domain"):
        draft_certificate(plan)


@pytest.mark.parametrize("certificate", [b"", b"garbage"])
def test_an_authority_without_a_usable_certificate_is_named(
    issuer: FakeIssuer, certificate: bytes
) -> None:
    broken = replace(issuer.x509, certificate=certificate)
    with pytest.raises(Internal, match="authority aut_x509 can't be used"):
        draft_certificate(issuer.plan(issuer=broken))


def test_a_foreign_issuer_without_a_spiffe_id_may_sign(issuer: FakeIssuer) -> None:
    """A CA certificate from elsewhere SHOULD be an SVID (X509-SVID, 3.2), but need not be."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "corporate CA")])
    key = make_private_key(21)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=9))
        .add_extension(x509.SubjectKeyIdentifier(b"\x05" * 20), False)
        .sign(key, hashes.SHA256())
    )
    der = certificate.public_bytes(Encoding.DER)
    other = replace(issuer.x509, certificate=der, public_key=encode_spki(key))
    assert read_issuer(other).uri is None
    tbs = draft_certificate(issuer.plan(issuer=other))
    leaf = assemble_certificate(tbs, key.sign(tbs, ec.ECDSA(hashes.SHA256())))
    check_certificate(leaf, tbs, encode_spki(key))
    assert _read(leaf).issuer == name


def test_the_root_is_a_signing_certificate_and_an_svid(issuer: FakeIssuer) -> None:
    root = _read(issuer.x509.certificate)
    constraints = _value(root, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = _value(root, x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    names = _value(root, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.org"]
    assert root.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "troth"
    assert root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "example.org"
    assert root.subject == root.issuer


def test_two_roots_of_a_trust_domain_have_different_names() -> None:
    first, second = (_read(FakeIssuer(seed=seed).x509.certificate) for seed in (1, 2))
    assert first.subject != second.subject


def test_a_trust_domain_longer_than_a_common_name_still_has_a_root() -> None:
    name = "a" * 200 + ".example"
    root = _read(FakeIssuer(name).x509.certificate)
    names = _value(root, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{name}"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"not_after": NOW - timedelta(days=1)}, "notAfter is not after notBefore"),
        ({"serial": 1 << 159}, "serial"),
        ({"public_key": b"garbage"}, "not P-256"),
        ({"public_key": encode_spki(make_private_key())[:-32] + bytes(32)}, "can't be read"),
    ],
)
def test_a_root_that_breaks_a_rule_is_not_drafted(changes, sentence: str) -> None:
    values: dict[str, Any] = {
        "trust_domain": TrustDomain("example.org"),
        "public_key": encode_spki(make_private_key()),
        "not_before": NOW,
        "not_after": NOW + timedelta(days=1),
        "serial": 5,
    }
    with pytest.raises(Internal, match=sentence):
        draft_ca_certificate(**(values | changes))


def test_serial_bytes_must_be_twenty(issuer: FakeIssuer) -> None:
    with pytest.raises(ValueError, match="20"):
        issuer.plan(serial_bytes=b"\x01" * 8)
