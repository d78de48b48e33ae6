"""A certificate that somebody presents: who it names, and what a verifier looks up about it.

Its chain was verified by TLS. What TLS leaves open is here: the form of an X.509-SVID
(X509-SVID.md, sections 2 and 5.2 of the SPIFFE standards) and its end, which a connection outlives.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509

from troth.core.errors import Invalid, Unauthenticated
from troth.core.ids import SpiffeId, TrustDomain
from troth.core.x509 import UNREADABLE
from troth.issuance.der import read_signer

READ = 4096
"""Certificates that are remembered as read: one is presented with every request that a connection
brings, and to read it takes as long as to verify a signature. At their usual size 4 MB."""
SERIAL_DIGITS = 40
"""Hexadecimal digits of a stored serial number: 20 octets (RFC 5280, section 4.1.2.2)."""


@dataclass(frozen=True, slots=True)
class Presented:
    """What a certificate says: `serial` as stored and listed (40 hex digits), `signer` the key
    identifier (hex) of its authority, never empty, `not_after` its end."""

    spiffe_id: SpiffeId
    serial: str
    signer: str
    not_after: datetime


def format_serial(serial: int) -> str:
    """A certificate's serial number as it is stored: 40 lower-case hexadecimal digits."""
    return f"{serial:0{SERIAL_DIGITS}x}"


def read_presented(der: bytes, trust_domain: TrustDomain, now: datetime) -> Presented:
    """What the certificate says; raises `Unauthenticated` unless it is an X.509-SVID of
    `trust_domain` that hasn't expired."""
    try:
        serial, signer, end, uris, spiffe_id = _read(der)
    except x509.ExtensionNotFound as error:
        raise Unauthenticated("The certificate shown carries no SPIFFE ID.") from error
    except UNREADABLE as error:
        raise Unauthenticated("The certificate shown can't be read; show an X.509-SVID.") from error
    if not signer:
        # Whoever holds a stolen authority leaves out what its revocation is looked up by.
        raise Unauthenticated(
            "The certificate shown doesn't say which authority signed it; get a new one."
        )
    if end <= now:
        raise Unauthenticated("The certificate shown has expired; get a new one.")
    if len(uris) != 1:
        raise Unauthenticated("The certificate shown must carry exactly one SPIFFE ID.")
    if spiffe_id is None:
        raise Unauthenticated("The certificate shown carries no SPIFFE ID.")
    if spiffe_id.trust_domain != trust_domain:
        raise Unauthenticated(f"{spiffe_id.trust_domain} is not this trust domain.")
    return Presented(spiffe_id, serial, signer, end)


class _Read(NamedTuple):
    serial: str
    signer: str
    end: datetime
    uris: tuple[str, ...]
    spiffe_id: SpiffeId | None


@lru_cache(maxsize=READ)
def _read(der: bytes) -> _Read:
    """What stands in a certificate; raises for one that can't be read, which is not remembered."""
    certificate = x509.load_der_x509_certificate(der)
    serial, end = certificate.serial_number, certificate.not_valid_after_utc
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    try:
        spiffe_id = SpiffeId.parse(uris[0]) if uris else None
    except Invalid:
        spiffe_id = None
    return _Read(format_serial(serial), read_signer(certificate), end, tuple(uris), spiffe_id)
