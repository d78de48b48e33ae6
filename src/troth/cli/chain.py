"""Certificates in words: what an SVID says, and whether its chain holds together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtensionOID, NameOID

from troth.cli.words import describe_duration, describe_moment
from troth.core.errors import Invalid, TooLarge
from troth.core.x509 import UNREADABLE
from troth.issuance.der import split_der

MAX_FILE = 1 << 20
_NAMES = {NameOID.SERIAL_NUMBER: "serialNumber"}
_PEM_MARK = b"-----BEGIN "
_PEM_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class CertificateWords:
    """One certificate: times in UTC, serial in lower-case hexadecimal as the API writes it."""

    spiffe_ids: tuple[str, ...]
    dns_names: tuple[str, ...]
    subject: str
    issuer: str
    serial: str
    not_before: datetime
    not_after: datetime
    key: str
    is_ca: bool
    signed_by_next: bool | None

    def list_fields(self, now: datetime) -> list[tuple[str, object]]:
        """Label and value pairs for people."""
        signed = {None: "", True: "by the next certificate", False: "NOT by the next certificate"}
        left = describe_moment(self.not_after, now)
        return [
            ("SPIFFE ID", ", ".join(self.spiffe_ids) or "none: not an SVID"),
            ("DNS names", ", ".join(self.dns_names)),
            ("subject", self.subject),
            ("issuer", self.issuer),
            ("serial", self.serial),
            ("valid since", describe_moment(self.not_before, now)),
            ("valid until", f"{left}{self.describe_validity(now)}"),
            ("lifetime", describe_duration(self.not_after - self.not_before)),
            ("key", self.key),
            ("use", "signs certificates (CA)" if self.is_ca else "leaf"),
            ("signed", signed[self.signed_by_next]),
        ]

    def describe_validity(self, now: datetime) -> str:
        """A remark if the certificate doesn't hold at `now`, otherwise nothing."""
        if now > self.not_after:
            return ": EXPIRED"
        return ": not valid yet, check the clock" if now < self.not_before else ""


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM or DER file, in order; raises `Invalid` or `TooLarge`."""
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise TooLarge(f"{path}: the file has more than {MAX_FILE:,} bytes; is it a certificate?")
    if _PEM_MARK in data and _PEM_CERTIFICATE not in data:
        raise Invalid(f"{path}: there is no certificate in it, though other PEM; name the chain.")
    try:
        if _PEM_CERTIFICATE in data:
            return x509.load_pem_x509_certificates(data)
        return load_chain(split_der(data))
    except (ValueError, x509.InvalidVersion) as error:
        raise Invalid(f"{path}: this is neither a PEM nor a DER certificate.") from error


def load_chain(chain: Iterable[bytes]) -> list[x509.Certificate]:
    """Parse DER certificates; raises ValueError."""
    try:
        return [x509.load_der_x509_certificate(der) for der in chain]
    except x509.InvalidVersion as error:
        raise ValueError("a version that doesn't exist") from error


def describe_chain(chain: list[x509.Certificate]) -> list[CertificateWords]:
    """Each certificate of a chain, leaf first."""
    following: list[x509.Certificate | None] = [*chain[1:], None]
    return [_describe(one, signer) for one, signer in zip(chain, following, strict=True)]


def next_rotation(not_before: datetime, not_after: datetime) -> datetime:
    """About when an agent renews: at half of the lifetime."""
    return not_before + max(timedelta(0), (not_after - not_before) / 2)


def _describe(one: x509.Certificate, signer: x509.Certificate | None) -> CertificateWords:
    try:
        return _put_in_words(one, signer)
    except UNREADABLE as error:  # the library parses most parts only when they are asked for
        raise Invalid(f"A part of the certificate can't be read: {error}.") from error


def _put_in_words(one: x509.Certificate, signer: x509.Certificate | None) -> CertificateWords:
    uris: list[str] = []
    names: list[str] = []
    is_ca = False
    for extension in one.extensions:
        if extension.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
            uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
            names = extension.value.get_values_for_type(x509.DNSName)
        elif extension.oid == ExtensionOID.BASIC_CONSTRAINTS:
            is_ca = extension.value.ca
    return CertificateWords(
        spiffe_ids=tuple(uri for uri in uris if uri.startswith("spiffe://")),
        dns_names=tuple(names),
        subject=one.subject.rfc4514_string(_NAMES),
        issuer=one.issuer.rfc4514_string(_NAMES),
        serial=f"{one.serial_number:040x}",
        not_before=one.not_valid_before_utc,
        not_after=one.not_valid_after_utc,
        key=_name_key(one),
        is_ca=is_ca,
        signed_by_next=None if signer is None else _is_issued_by(one, signer),
    )


def _is_issued_by(one: x509.Certificate, signer: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(signer)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def _name_key(one: x509.Certificate) -> str:
    key = one.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return "Ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else type(key).__name__
