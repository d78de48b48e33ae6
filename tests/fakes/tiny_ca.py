"""A certificate authority of a few lines, for tests that need real certificates."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from joserfc import jwt
from joserfc.jwk import ECKey

from troth.agent.view import Bundle, JwtSvid, Svid

DER = serialization.Encoding.DER


@dataclass
class TinyCa:
    """One root that issues SVIDs, revocation lists and tokens for one trust domain."""

    trust_domain: str = "example.org"
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    revoked: list[int] = field(default_factory=list)
    serial: int = 1
    crl_number: int = 0

    def __post_init__(self):
        now = datetime.now(UTC)
        self.name = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, f"tiny {self.trust_domain}"),
                x509.NameAttribute(NameOID.SERIAL_NUMBER, str(id(self))),
            ]
        )
        self.root = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(seconds=10))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
            )
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}")]
                ),
                critical=False,
            )
            .sign(self.key, hashes.SHA256())
        )
        self.jwk = ECKey.generate_key("P-256", {"kid": f"{self.trust_domain}-1"})

    def issue(
        self, path: str, hint: str = "", seconds: float = 3600, *, signer: bool = True
    ) -> Svid:
        """An X.509-SVID for `path`, which names its `signer` or, as a forger would, doesn't."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        self.serial += 1
        spiffe_id = f"spiffe://{self.trust_domain}{path}"
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "troth")]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(self.serial)
            .not_valid_before(now - timedelta(seconds=10))
            .not_valid_after(now + timedelta(seconds=seconds))
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]),
                critical=False,
            )
        )
        if signer:
            builder = builder.add_extension(identifier, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        pkcs8 = key.private_bytes(
            DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Svid(
            spiffe_id,
            hint,
            (certificate.public_bytes(DER),),
            pkcs8,
            certificate.not_valid_after_utc,
        )

    def revoke(self, svid: Svid) -> None:
        """Put the SVID on the next list."""
        self.revoked.append(x509.load_der_x509_certificate(svid.chain[0]).serial_number)

    def crl(self) -> bytes:
        """The revocation list now."""
        now = datetime.now(UTC)
        self.crl_number += 1
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(now - timedelta(seconds=10))
            .next_update(now + timedelta(hours=1))
            .add_extension(x509.CRLNumber(self.crl_number), critical=False)
            .add_extension(identifier, critical=False)
        )
        for serial in self.revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(now - timedelta(seconds=5))
                .build()
            )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(DER)

    def bundle(self, *others: TinyCa) -> Bundle:
        """The bundle with a fresh list of each; `others` are more roots of this trust domain."""
        roots = (self, *others)
        keys = {"keys": [root.jwk.as_dict(private=False, use="jwt-svid") for root in roots]}
        return Bundle(
            f"spiffe://{self.trust_domain}",
            tuple(root.root.public_bytes(DER) for root in roots),
            tuple(root.crl() for root in roots),
            json.dumps(keys).encode(),
        )

    def token(self, path: str, audiences: tuple[str, ...]) -> JwtSvid:
        """A JWT-SVID for `path`."""
        spiffe_id = f"spiffe://{self.trust_domain}{path}"
        header = {"alg": "ES256", "kid": self.jwk.kid, "typ": "JWT"}
        now = int(time.time())
        claims = {"sub": spiffe_id, "aud": list(audiences), "iat": now, "exp": now + 300}
        return JwtSvid(spiffe_id, jwt.encode(header, claims, self.jwk), "")


def _usage(**given: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})
