"""Proof of possession of a manufacturer's certificate: who passes, and all who don't."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.fakes.machines import DER, DOMAIN, NOW, Machine, Maker, make_usage
from tests.fakes.tiny_ca import TinyCa
from troth.core.errors import Denied, Invalid
from troth.core.ids import TrustDomain
from troth.identity.x509pop import (
    LEEWAY,
    NODE,
    Vouchers,
    compose_message,
    find_trust_domain,
    load_authorities,
    verify_possession,
)

CSR = b"a request for a certificate"
P256 = ec.SECP256R1()
RSA = rsa.generate_private_key(65537, 2048)


@pytest.fixture
def maker() -> Maker:
    return Maker("Acme root")


def verify(maker: Maker, machine: Machine, **changes: Any) -> Any:
    """Verify the proof of `machine`, or of what `changes` make of it."""
    asked: dict[str, Any] = {
        "authorities": (maker.certificate,),
        "chain": machine.chain,
        "at": NOW,
        "purpose": NODE,
        "trust_domain": DOMAIN,
        "csr": CSR,
        "now": NOW,
    }
    if "signature" not in changes:
        asked["signature"] = machine.sign(CSR)
    return verify_possession(**asked | changes)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(P256),
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP521R1()),
        RSA,
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["p256", "p384", "p521", "rsa", "ed25519"],
)
def test_the_holder_of_a_vouched_key_is_known(maker: Maker, key: Any) -> None:
    machine = maker.make("device 7", key=key)
    found = verify(maker, machine)
    assert found.fingerprint == machine.certificate.fingerprint(hashes.SHA256()).hex()
    assert found.common_name == "device 7"
    assert found.serial == f"{machine.certificate.serial_number:x}"
    assert found.issuer == "CN=Acme root"
    assert found.authority == maker.certificate.fingerprint(hashes.SHA256()).hex()


def test_older_hardware_signs_rsa_without_pss(maker: Maker) -> None:
    machine = maker.make("tpm", key=RSA)
    message = compose_message(NODE, DOMAIN, CSR, NOW)
    signature = RSA.sign(message, padding.PKCS1v15(), hashes.SHA256())
    assert verify(maker, machine, signature=signature).common_name == "tpm"
    weak = RSA.sign(message, padding.PKCS1v15(), hashes.SHA512())
    with pytest.raises(Denied, match="not signed by"):
        verify(maker, machine, signature=weak)


def test_what_manufacturers_leave_out_or_add_is_no_obstacle(maker: Maker) -> None:
    for extensions in (
        (),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),),
        (x509.SubjectAlternativeName([x509.DNSName("*.device.example")]),),
        (make_usage(digital_signature=True, key_encipherment=True),),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),),
    ):
        machine = maker.make("odd", extensions=extensions)
        assert verify(maker, machine).common_name == "odd"
    nameless = maker.make(None)
    assert verify(maker, nameless).common_name is None


def test_a_chain_through_intermediates_in_any_order(maker: Maker) -> None:
    first = maker.make_maker("Acme plant")
    second = first.make_maker("Acme line 3")
    machine = second.make("device")
    leaf = machine.chain[0]
    others = [second.certificate.public_bytes(DER), first.certificate.public_bytes(DER)]
    root = maker.certificate.public_bytes(DER)
    for chain in ([leaf, *others], [leaf, *reversed(others)], [leaf, *others, root]):
        assert verify(maker, machine, chain=chain).common_name == "device"
    with pytest.raises(Denied, match="doesn't lead to"):
        verify(maker, machine, chain=[leaf, others[0]])


def _spoil_key(maker: Maker) -> Machine:
    good = maker.make("device")
    return replace(good, key=ec.generate_private_key(P256))


def _chain_of(maker: Maker, between: Maker) -> Machine:
    return replace(between.make("device"), others=(between.certificate,))


HOSTILE: dict[str, tuple[Any, str]] = {
    "another's certificate": (_spoil_key, "not signed by"),
    "a stranger's authority": (lambda m: Maker("Acme root").make("device"), "doesn't lead to"),
    "expired": (lambda m: m.make("d", end=NOW - timedelta(seconds=1)), "not valid at"),
    "not begun": (lambda m: m.make("d", begin=NOW + timedelta(seconds=1)), "not valid at"),
    "a CA's certificate": (lambda m: m.make("d", ca=True), "an authority's, not a machine's"),
    "a key that may not sign": (
        lambda m: m.make("d", extensions=(make_usage(key_encipherment=True),)),
        "lacks digitalSignature",
    ),
    "an unknown critical extension": (
        lambda m: m.make(
            "d",
            extensions=(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),),
            critical=True,
        ),
        "critical",
    ),
    "a leaf as issuer": (
        lambda m: _chain_of(m, m.make_maker("not an authority", ca=False)),
        "cA must be asserted",
    ),
    "an issuer that may not sign": (
        lambda m: _chain_of(m, m.make_maker("i", usage=make_usage(digital_signature=True))),
        "lacks keyCertSign",
    ),
    "an expired issuer": (
        lambda m: _chain_of(m, m.make_maker("i", end=NOW - timedelta(seconds=1))),
        "not valid at",
    ),
    "weak RSA": (
        lambda m: m.make("d", key=rsa.generate_private_key(65537, 1024)),
        "of a kind that proves nothing",
    ),
    "a small curve": (
        lambda m: m.make("d", key=ec.generate_private_key(ec.SECP256K1())),
        "of a kind that proves nothing",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_who_is_refused_and_why(name: str, maker: Maker) -> None:
    make, reason = HOSTILE[name]
    with pytest.raises(Denied, match=reason):
        verify(maker, make(maker))


def test_a_path_may_not_be_longer_than_an_authority_allows(maker: Maker) -> None:
    last = maker.make_maker("the last", path_length=0)
    assert verify(maker, _chain_of(maker, last)).common_name == "device"
    beyond = last.make_maker("one too many")
    machine = replace(beyond.make("device"), others=(beyond.certificate, last.certificate))
    with pytest.raises(Denied, match="path length"):
        verify(maker, machine)


def test_names_stay_within_an_authoritys_constraints(maker: Maker) -> None:
    only = x509.NameConstraints([x509.DNSName("good.example")], None)
    bound = maker.make_maker("bound", extensions=(only,))
    for host, passes in (("a.good.example", True), ("a.bad.example", False)):
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        machine = replace(bound.make("d", extensions=(names,)), others=(bound.certificate,))
        if passes:
            assert verify(maker, machine).common_name == "d"
        else:
            with pytest.raises(Denied, match="name constraints"):
                verify(maker, machine)


def test_an_expired_anchor_vouches_for_nobody() -> None:
    old = Maker("old", end=NOW - timedelta(seconds=1))
    with pytest.raises(Denied, match="authority has expired"):
        verify(old, old.make("device"))
    new = Maker("new")
    with pytest.raises(Denied, match="doesn't lead to"):
        verify(old, old.make("device"), authorities=(old.certificate, new.certificate))


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ([], "no certificate"),
        ([b""], "can't be read"),
        ([b"0" * 100], "can't be read"),
        ([b"0" * (1 << 20)], "too large"),
        ([b"0"] * 6, "too large"),
    ],
)
def test_chains_out_of_bounds(maker: Maker, chain: list[bytes], reason: str) -> None:
    with pytest.raises(Denied, match=reason):
        verify(maker, maker.make("device"), chain=chain)


def test_a_proof_is_for_one_request_purpose_domain_and_time(maker: Maker) -> None:
    machine = maker.make("device")
    for changes in (
        {"csr": CSR + b"!"},
        {"purpose": "device.enrol"},
        {"trust_domain": TrustDomain("example.com")},
        {"at": NOW + timedelta(milliseconds=1)},
        {"signature": b""},
        {"signature": b"0" * 70},
    ):
        asked = {"signature": machine.sign(CSR)} | changes
        with pytest.raises(Denied, match="not signed by"):
            verify(maker, machine, **asked)
    with pytest.raises(Denied, match="longer than"):
        verify(maker, machine, signature=b"0" * (1 << 20))


def test_a_clock_may_be_off_by_five_minutes_and_hears_by_how_much(maker: Maker) -> None:
    machine = maker.make("device")
    for off in (LEEWAY, -LEEWAY):
        assert verify(maker, machine, now=NOW + off)
    for off in (LEEWAY, -LEEWAY):
        later = NOW + off * 1.01
        with pytest.raises(Denied, match=f"server's time, which is {later:%Y-%m-%dT%H:%M:%SZ}"):
            verify(maker, machine, now=later)


def test_a_proof_has_one_name_however_its_signature_is_written(maker: Maker) -> None:
    machine = maker.make("device")
    one, other = machine.sign(CSR), machine.sign(CSR)
    assert one != other
    digests = {verify(maker, machine, signature=signature).digest for signature in (one, other)}
    assert len(digests) == 1
    later = NOW + timedelta(seconds=1)
    again = verify(maker, machine, at=later, signature=machine.sign(CSR, at=later))
    assert again.digest not in digests
    assert again.expires_at > later + LEEWAY


def test_nobody_is_let_in_without_authorities(maker: Maker) -> None:
    with pytest.raises(Denied, match="token"):
        verify(maker, maker.make("device"), authorities=())


def test_names_come_from_what_the_certificate_proves(maker: Maker) -> None:
    found = verify(maker, maker.make("press-4.plant.example"))
    assert Vouchers().name_machine(found) == f"x509pop-{found.key[:40]}"
    assert Vouchers(by_common_name=True).name_machine(found) == "press-4.plant.example"
    for name in ("Press 4", "local", "x509pop-0", "", "a" * 64, "a\n", "-a", None):
        with pytest.raises(Denied, match="can't be a node's name"):
            Vouchers(by_common_name=True).name_machine(replace(found, common_name=name))


def test_an_authority_bundle_is_checked(maker: Maker) -> None:
    assert load_authorities(maker.pem + Maker("b").pem)[0] == maker.certificate
    for pem, reason in (
        (b"", "no PEM"),
        (b"junk", "no PEM"),
        (maker.pem[:-40], "no PEM"),
        (maker.make("leaf").pem, "no authority"),
        (maker.make("leaf", ca=False).pem, "no authority"),
    ):
        with pytest.raises(Invalid, match=reason):
            load_authorities(pem)


def test_the_roots_tell_the_trust_domain() -> None:
    one, other = TinyCa("example.org"), TinyCa("example.com")
    root = one.root.public_bytes(DER)
    assert find_trust_domain([root, root]) == TrustDomain("example.org")
    for roots in ([], [b"junk"], [root, other.root.public_bytes(DER)]):
        with pytest.raises(Invalid, match="one trust domain"):
            find_trust_domain(roots)


def test_a_dsa_key_can_prove_nothing(maker: Maker) -> None:
    key: Any = dsa.generate_private_key(2048)
    with pytest.raises(Denied, match=r"of a kind|doesn't lead"):
        verify(maker, maker.make("device", key=key), signature=b"0" * 60)
