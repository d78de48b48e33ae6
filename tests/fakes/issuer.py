"""A trust domain's issuer for tests: real keys in a memory keystore, real signatures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from troth.core.entropy import SeededEntropy
from troth.core.ids import AuthorityId, SpiffeId, TrustDomain
from troth.drivers.keystores.memory import open_keystore
from troth.issuance.authorities import Authority, AuthorityState, Use
from troth.issuance.ca import draft_ca_certificate
from troth.issuance.crl import RevokedCertificate, check_crl, draft_crl
from troth.issuance.jwtsvid import check_jwt, finish_jwt, plan_jwt_svid, render_signing_input
from troth.issuance.profiles import CA_LIFETIME, CRL_LIFETIME, derive_serial
from troth.issuance.x509svid import (
    CertificatePlan,
    Drafter,
    assemble_certificate,
    check_certificate,
    draft_certificate,
    plan_certificate,
)

NOW = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def make_private_key(number: int = 7) -> ec.EllipticCurvePrivateKey:
    """A workload's P-256 key, always the same for one number."""
    return ec.derive_private_key(number, ec.SECP256R1())


def encode_spki(key: Any) -> bytes:
    """DER SubjectPublicKeyInfo of a private key."""
    encoded: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


class FakeIssuer:
    """An X.509 authority and a JWT authority of one trust domain."""

    def __init__(self, trust_domain: str = "example.org", seed: int = 0, now: datetime = NOW):
        self.trust_domain = TrustDomain.parse(trust_domain)
        self.now = now
        self.entropy = SeededEntropy(seed)
        self.keystore = open_keystore(self.entropy)
        self.drafter = Drafter()
        self.x509 = self._make_root()
        self.jwt = self._make_authority(Use.JWT, self.keystore.create_key("jwt"), b"")

    def _make_root(self) -> Authority:
        public_key = self.keystore.create_key("x509")
        serial = derive_serial(self.entropy.token(20))
        start, end = self.now - timedelta(minutes=1), self.now + CA_LIFETIME
        tbs = draft_ca_certificate(self.trust_domain, public_key, start, end, serial, self.drafter)
        der = assemble_certificate(tbs, self.keystore.sign("x509", tbs))
        check_certificate(der, tbs, public_key)
        return self._make_authority(Use.X509, public_key, der)

    def _make_authority(self, use: Use, public_key: bytes, certificate: bytes) -> Authority:
        name = "x509" if use is Use.X509 else "jwt"
        return Authority(
            id=AuthorityId(f"aut_{name}"),
            use=use,
            state=AuthorityState.ACTIVE,
            key_ref=name,
            public_key=public_key,
            certificate=certificate,
            not_before=self.now - timedelta(minutes=1),
            not_after=self.now + CA_LIFETIME,
            created_at=self.now,
        )

    def plan(self, path: str = "/payments", **changes: Any) -> CertificatePlan:
        """A plan with sensible values where `changes` gives none."""
        values: dict[str, Any] = {
            "spiffe_id": SpiffeId.of(self.trust_domain, path),
            "public_key": encode_spki(make_private_key()),
            "ttl": timedelta(hours=1),
            "issuer": self.x509,
            "serial_bytes": self.entropy.token(20),
            "now": self.now,
        }
        return plan_certificate(**(values | changes))

    def issue(self, plan: CertificatePlan) -> bytes:
        """The whole cycle for one leaf."""
        tbs = draft_certificate(plan, self.drafter)
        der = assemble_certificate(tbs, self.keystore.sign("x509", tbs))
        check_certificate(der, tbs, self.x509.public_key)
        return der

    def issue_crl(self, revoked: Sequence[RevokedCertificate] = (), number: int = 1) -> bytes:
        """The whole cycle for one list."""
        tbs = draft_crl(
            issuer=self.x509,
            number=number,
            revoked=revoked,
            now=self.now,
            lifetime=CRL_LIFETIME,
            drafter=self.drafter,
        )
        der = assemble_certificate(tbs, self.keystore.sign("x509", tbs))
        check_crl(der, tbs, self.x509.public_key)
        return der

    def issue_jwt(self, path: str = "/payments", **changes: Any) -> str:
        """The whole cycle for one token."""
        values: dict[str, Any] = {
            "spiffe_id": SpiffeId.of(self.trust_domain, path),
            "audiences": ["ledger"],
            "ttl": timedelta(minutes=5),
            "issuer": self.jwt,
            "jti": self.entropy.token(12).hex(),
            "now": self.now,
        }
        signing_input = render_signing_input(plan_jwt_svid(**(values | changes)))
        signature = self.keystore.sign("jwt", signing_input)
        token = finish_jwt(signing_input, signature)
        check_jwt(token, signing_input, signature, self.jwt.public_key)
        return token
