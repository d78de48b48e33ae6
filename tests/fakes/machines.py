"""Manufacturers and the machines that they give certificates to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from troth.core.ids import TrustDomain
from troth.identity.x509pop import NODE, sign_possession
from troth.wire.x509pop import render_evidence

NOW = datetime(2026, 1, 1, tzinfo=UTC)
"""When `VirtualClock` begins."""
DOMAIN = TrustDomain("example.org")
DER = Encoding.DER
LONG = timedelta(days=3650)
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def make_usage(**given: bool) -> x509.KeyUsage:
    """A key usage with the named bits."""
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: given.get(name, False) for name in names.split()})


def _make_name(common_name: str | None) -> x509.Name:
    if common_name is None:
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Acme")])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass(frozen=True)
class Machine:
    """A machine with a key and the certificate that was built into it."""

    certificate: x509.Certificate
    key: Any
    others: Sequence[x509.Certificate] = ()

    @property
    def chain(self) -> list[bytes]:
        return [one.public_bytes(DER) for one in (self.certificate, *self.others)]

    @property
    def pem(self) -> bytes:
        return b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.others))

    @property
    def key_pem(self) -> bytes:
        return bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def sign(self, csr: bytes, at: datetime = NOW, purpose: str = NODE) -> bytes:
        return sign_possession(self.key, purpose, DOMAIN, csr, at)

    def prove(self, csr: bytes, at: datetime = NOW, purpose: str = NODE) -> str:
        """The evidence that is sent."""
        return render_evidence(self.chain, at, self.sign(csr, at, purpose))


def rewrite(machine: Machine) -> Machine:
    """The same machine with its certificate's ECDSA signature (r, s) as (r, n - s): as valid as
    before, and made without the issuer's key."""
    der = machine.certificate.public_bytes(DER)
    signature = machine.certificate.signature
    r, s = decode_dss_signature(signature)
    other = encode_dss_signature(r, _P256_ORDER - s)
    tail = _wrap(0x03, b"\0" + signature)
    assert der.endswith(tail)
    content = der[der.index(machine.certificate.tbs_certificate_bytes) : -len(tail)]
    twin = _wrap(0x30, content + _wrap(0x03, b"\0" + other))
    return replace(machine, certificate=x509.load_der_x509_certificate(twin))


def _wrap(tag: int, content: bytes) -> bytes:
    """DER: tag, length, content."""
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + content


class Maker:
    """An authority that makes machines, and other authorities."""

    def __init__(
        self,
        name: str,
        *,
        above: Maker | None = None,
        ca: bool = True,
        path_length: int | None = None,
        usage: x509.KeyUsage | None = None,
        end: datetime = NOW + LONG,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca, path_length if ca else None)
        builder = _begin(name, (above or self).name, self.key, NOW - LONG, end)
        builder = builder.add_extension(constraints, critical=True)
        if usage is not None:
            builder = builder.add_extension(usage, critical=True)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        self.certificate = builder.sign((above or self).key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def make_maker(self, name: str, **how: Any) -> Maker:
        """An authority below this one."""
        return Maker(name, above=self, **how)

    def make(
        self,
        name: str | None,
        *,
        key: Any = None,
        begin: datetime = NOW - LONG,
        end: datetime = NOW + LONG,
        ca: bool | None = None,
        extensions: Sequence[x509.ExtensionType] = (),
        critical: bool = False,
    ) -> Machine:
        """A machine, by default with as bare a certificate as real ones have."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = _begin(name, self.name, key, begin, end)
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return Machine(builder.sign(self.key, hashes.SHA256()), key)


def _begin(
    name: str | None, issuer: str, key: Any, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_make_name(name))
        .issuer_name(_make_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
