"""Self-signed certificates of clients: which count, and which TLS would refuse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.fakes.certificates import Made, make_certificate, usage
from tests.fakes.clients import render_identity
from tests.fakes.issuer import make_private_key
from tests.unit.server.handshakes import let_in
from troth.core.ids import TrustDomain
from troth.core.manifest.problem import Limits, PlainDocument
from troth.identity.selfsigned import (
    find_faults,
    is_registered,
    is_self_issued,
    read_validity,
)
from troth.manifests.reading import parse_manifests

SERVER_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
SIGNS = usage("digital_signature")

GOOD: dict[str, Made] = {
    "plain": make_certificate(),
    "no CA": make_certificate(ca=False),
    "CA": make_certificate(ca=True),
    "may sign": make_certificate(ca=False, extensions=[(SIGNS, True)]),
    "for clients": make_certificate(extensions=[(CLIENT_AUTH, False)]),
    "P-384": make_certificate(key=ec.generate_private_key(ec.SECP384R1())),
    "Ed25519": make_certificate(key=ed25519.Ed25519PrivateKey.generate()),
    "RSA": make_certificate(key=rsa.generate_private_key(65537, 2048)),
    "with names": make_certificate(names=["spiffe://example.org/billing"]),
    "no name": make_certificate(subject=x509.Name([])),
    "unknown, not critical": make_certificate(extensions=[(UNKNOWN, False)]),
}
BAD: dict[str, tuple[Made, str]] = {
    "encrypts": (
        make_certificate(ca=False, extensions=[(usage("key_encipherment"), True)]),
        "lacks digitalSignature",
    ),
    "for servers": (make_certificate(extensions=[(SERVER_AUTH, False)]), "lacks clientAuth"),
    "signs without being a CA": (
        make_certificate(extensions=[(usage("digital_signature", "key_cert_sign"), True)]),
        "is no CA",
    ),
    "unknown": (make_certificate(extensions=[(UNKNOWN, True)]), "1.2.3.4"),
    "secp256k1": (make_certificate(key=ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
    "short RSA": (make_certificate(key=rsa.generate_private_key(65537, 1024)), "2048 bits"),
}


@pytest.mark.parametrize("made", GOOD.values(), ids=GOOD)
def test_what_openssl_lets_in_has_no_fault(made: Made, tmp_path: Path) -> None:
    assert list(find_faults(made.certificate)) == []
    assert let_in(made, [made], tmp_path)


@pytest.mark.parametrize(("made", "words"), BAD.values(), ids=BAD)
def test_what_openssl_refuses_has_one(made: Made, words: str, tmp_path: Path) -> None:
    (fault,) = find_faults(made.certificate)
    assert words in fault
    assert not let_in(made, [made], tmp_path)


def test_a_certificate_that_another_key_signed_is_not_self_signed() -> None:
    issuer = make_certificate("billing")
    made = make_certificate("billing", issuer=issuer)
    assert is_self_issued(made.der)
    (fault,) = find_faults(made.certificate)
    assert "own key didn't sign" in fault


def test_a_key_that_tls_does_not_know() -> None:
    made = make_certificate(key=dsa.generate_private_key(2048))
    assert "TLS 1.3 doesn't know" in "; ".join(find_faults(made.certificate))


def plan(*pems: str) -> list[str]:
    manifest = render_identity("billing", make_private_key(1), client={"certificates": list(pems)})
    limits = Limits(trust_domain=TrustDomain("example.org"))
    found = parse_manifests([PlainDocument(manifest)], limits, datetime.now(UTC))
    return [problem.message for problem in found.errors]


def test_a_manifest_with_one_that_cannot_work_is_refused_with_what_to_do() -> None:
    assert plan(GOOD["plain"].pem, GOOD["CA"].pem) == []
    made, _ = BAD["for servers"]
    (message,) = plan(made.pem)
    assert "lacks clientAuth" in message
    assert "openssl req -x509" in message
    (message,) = plan(make_certificate(life=timedelta(minutes=-1)).pem)
    assert "expired" in message
    (message,) = plan(make_certificate("x", issuer=GOOD["CA"]).pem)
    assert "not self-signed" in message


def test_the_very_bytes_count() -> None:
    one, other = GOOD["plain"].der, GOOD["CA"].der
    assert is_registered(one, [other, one])
    assert not is_registered(one, [other])
    assert not is_registered(one, [])
    assert not is_registered(one[:-1], [one])


def test_what_cannot_be_read_is_nothing() -> None:
    assert not is_self_issued(b"")
    assert read_validity(b"\x30\x00") is None
    assert not is_self_issued(make_certificate("x", issuer=GOOD["CA"]).der)
