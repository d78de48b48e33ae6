"""Certificates as strangers make them: self-signed ones, CAs, and leaves of those."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
    "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def write(self, folder: Path, *chain: Made) -> tuple[str, str]:
        """Files with chain and key, as TLS clients want them."""
        cert, key = folder / f"{id(self)}.pem", folder / f"{id(self)}.key"
        cert.write_text(self.pem + "".join(one.pem for one in chain))
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(cert), str(key)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{one: one in names for one in USAGES})


def make_certificate(
    common: str = "billing",
    *,
    issuer: Made | None = None,
    names: Iterable[str] = (),
    ca: bool | None = None,
    key: Any = None,
    now: datetime | None = None,
    life: timedelta = timedelta(days=30),
    age: timedelta = timedelta(minutes=5),
    signer: bytes | None = None,
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    subject: x509.Name | None = None,
    bare: bool = False,
) -> Made:
    """A certificate that signs itself, or of `issuer`, with `names` as URIs.

    It ends `life` after `now`. `signer` is the key identifier of who is said to have signed
    it; a `bare` one names no keys.
    """
    now = now or datetime.now(UTC)
    key = key or ec.generate_private_key(ec.SECP256R1())
    owner = subject or name(common)
    builder = (
        x509.CertificateBuilder()
        .subject_name(owner)
        .issuer_name(issuer.certificate.subject if issuer else owner)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - age)
        .not_valid_after(now + life)
    )
    uris = [x509.UniformResourceIdentifier(uri) for uri in names]
    if uris:
        builder = builder.add_extension(x509.SubjectAlternativeName(uris), critical=False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    if ca:
        builder = builder.add_extension(usage("digital_signature", "key_cert_sign"), critical=True)
    signing = issuer.key if issuer else key
    if not bare:
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(own, critical=False)
        named = signer or x509.SubjectKeyIdentifier.from_public_key(signing.public_key()).digest
        builder = builder.add_extension(x509.AuthorityKeyIdentifier(named, None, None), False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    algorithm = (
        hashes.SHA256() if hasattr(signing, "curve") or hasattr(signing, "key_size") else None
    )
    return Made(builder.sign(signing, algorithm), key)
