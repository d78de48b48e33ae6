"""Self-signed certificates by which a client is known: RFC 8705, section 2.2.

What counts is the very bytes, so that nothing in them needs to be believed. But TLS must let them
in first: `find_faults` says what it would refuse, in the words of RFC 5280.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from troth.core.x509 import UNREADABLE

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

LEAST_RSA_BITS = 2048
CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Those of TLS 1.3 (RFC 8446, section 4.2.3)."""

REMEMBERED = 4096
"""Certificates that are remembered as read: a connection shows its own with every request."""
MAKE_ONE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -subj /CN=NAME "
    "makes one that works"
)


@lru_cache(maxsize=REMEMBERED)
def is_self_issued(der: bytes) -> bool:
    """Whether a certificate names itself as its issuer (RFC 5280, section 3.2)."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        return certificate.issuer == certificate.subject
    except UNREADABLE:
        return False


def is_registered(der: bytes, registered: Iterable[bytes]) -> bool:
    """Whether a certificate is one of those, byte for byte; in constant time for each."""
    shown = hashlib.sha256(der).digest()
    found = [hmac.compare_digest(shown, hashlib.sha256(one).digest()) for one in registered]
    return any(found)


class Validity(NamedTuple):
    """From when to when a certificate holds."""

    start: datetime
    end: datetime


def read_validity(der: bytes) -> Validity | None:
    """From when to when a certificate holds; None if it can't be read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        return Validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    except UNREADABLE:
        return None


def find_faults(certificate: x509.Certificate) -> Iterator[str]:
    """Why TLS would let nobody in with this certificate, in words that follow "the certificate"."""
    yield from _find_key_faults(certificate)
    try:
        certificate.verify_directly_issued_by(certificate)
    except (*UNREADABLE, InvalidSignature):
        yield "is not self-signed: its own key didn't sign it"
    try:
        extensions = certificate.extensions
    except UNREADABLE:
        yield "has extensions that can't be read"
        return
    for extension in extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            yield f"has a critical extension that nobody knows ({extension.oid.dotted_string})"
    yield from _find_usage_faults(extensions)


def _find_key_faults(certificate: x509.Certificate) -> Iterator[str]:
    try:
        key = certificate.public_key()
    except UNREADABLE:
        yield "has a key that can't be read"
        return
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < LEAST_RSA_BITS:
            yield f"has an RSA key of less than {LEAST_RSA_BITS} bits"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in CURVES:
            yield f"has a key on {key.curve.name}, which TLS 1.3 doesn't know"
    elif not isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        yield "has a key that TLS 1.3 doesn't know"


def _find_usage_faults(extensions: x509.Extensions) -> Iterator[str]:
    """What its extensions keep it from (RFC 5280, sections 4.2.1.3, 4.2.1.9 and 4.2.1.12)."""
    constraints = _find(extensions, x509.BasicConstraints)
    usage = _find(extensions, x509.KeyUsage)
    purposes = _find(extensions, x509.ExtendedKeyUsage)
    if usage is not None and not usage.digital_signature:
        yield "may not sign: its keyUsage lacks digitalSignature"
    if usage is not None and usage.key_cert_sign and not (constraints and constraints.ca):
        yield "may sign certificates (keyCertSign) and is no CA (basicConstraints)"
    if purposes is not None and ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        yield "is for no client: its extendedKeyUsage lacks clientAuth"


def _find(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
