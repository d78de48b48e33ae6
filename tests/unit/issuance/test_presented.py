"""Client certificates that OpenSSL let pass and that we can't make out."""

from __future__ import annotations

import pytest
from cryptography import x509

from tests.fakes.issuer import NOW, FakeIssuer
from troth.core.errors import Unauthenticated
from troth.core.ids import TrustDomain
from troth.issuance.der import read_signer
from troth.issuance.presented import read_presented

ISSUER = FakeIssuer()
LEAF = ISSUER.issue(ISSUER.plan())
URI = b"\x86\x1dspiffe://example.org/payments"
SIGNER = bytes.fromhex("0603551d23")  # the extension authorityKeyIdentifier


def test_a_sound_certificate_is_read() -> None:
    assert URI in LEAF
    found = read_presented(LEAF, ISSUER.trust_domain, NOW)
    assert str(found.spiffe_id) == "spiffe://example.org/payments"
    certificate = x509.load_der_x509_certificate(LEAF)
    assert int(found.serial, 16) == certificate.serial_number
    assert found.signer == read_signer(certificate)
    assert found.not_after == certificate.not_valid_after_utc


def test_the_end_and_another_trust_domain_are_refused() -> None:
    end = x509.load_der_x509_certificate(LEAF).not_valid_after_utc
    with pytest.raises(Unauthenticated, match="expired"):
        read_presented(LEAF, ISSUER.trust_domain, end)
    with pytest.raises(Unauthenticated, match="not this trust domain"):
        read_presented(LEAF, TrustDomain("example.com"), NOW)


@pytest.mark.parametrize(
    ("der", "words"),
    [
        (b"", "can't be read"),
        (LEAF[:-1], "can't be read"),
        (LEAF.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"), "can't be read"),
        (LEAF.replace(URI, b"\xa3\x1d\x04\x1b" + b"x" * 27), "can't be read"),  # an x400Address
        (LEAF.replace(URI, b"\x82" + URI[1:]), "exactly one"),  # a DNS name
        (LEAF.replace(URI, URI.replace(b"spiffe", b"spiffy")), "no SPIFFE ID"),
        (LEAF.replace(SIGNER, b"\x06\x03\x55\x1d\x7f"), "which authority signed it"),
    ],
)
def test_what_cannot_be_read_proves_nobody(der: bytes, words: str) -> None:
    assert der != LEAF
    with pytest.raises(Unauthenticated, match=words):
        read_presented(der, ISSUER.trust_domain, NOW)
