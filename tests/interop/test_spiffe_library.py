"""What PyPI's `spiffe` (py-spiffe), unmodified, makes of our SVIDs and bundles."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import JwtBundle, JwtSvid, TrustDomain, X509Bundle, X509Svid

from tests.fakes.issuer import FakeIssuer, make_private_key
from troth.core.clock import SystemClock
from troth.core.jose.jwk import derive_key_id
from troth.wire.bundle import render_jwks, render_jwt_bundle
from troth.wire.pem import render_pem_certificates

pytestmark = pytest.mark.interop
DOMAIN = TrustDomain("example.org")


@pytest.fixture(scope="module")
def issuer() -> FakeIssuer:
    # py-spiffe reads the machine's clock, so these tokens must be of today.
    return FakeIssuer(now=SystemClock().now())


def test_it_reads_our_x509_svid(issuer: FakeIssuer) -> None:
    key = make_private_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    svid = X509Svid.parse_raw(issuer.issue(issuer.plan("/payments/api")), key)
    assert str(svid.spiffe_id) == "spiffe://example.org/payments/api"


def test_it_reads_our_roots(issuer: FakeIssuer) -> None:
    roots = [issuer.x509.certificate, FakeIssuer(seed=3).x509.certificate]
    assert len(X509Bundle.parse_raw(DOMAIN, b"".join(roots)).x509_authorities) == 2
    pem = render_pem_certificates(roots)
    assert len(X509Bundle.parse(DOMAIN, pem).x509_authorities) == 2


def test_it_validates_our_jwt_svid_with_our_bundle(issuer: FakeIssuer) -> None:
    kid = derive_key_id(issuer.jwt.public_key)
    for document in (
        render_jwt_bundle([(kid, issuer.jwt.public_key)]),
        render_jwks([(kid, issuer.jwt.public_key)]),
    ):
        bundle = JwtBundle.parse(DOMAIN, document)
        for copy in ("", "ins_1f"):  # a private claim is passed over
            token = issuer.issue_jwt(instance=copy)
            svid = JwtSvid.parse_and_validate(token, bundle, {"ledger"})
            assert str(svid.spiffe_id) == "spiffe://example.org/payments"
