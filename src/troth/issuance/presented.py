"""A certificate that somebody presents: who it names, and what a verifier looks up about it.

Its chain was verified by TLS, though perhaps to an anchor that isn't ours. What TLS leaves open is
here: the form of an X.509-SVID (X509-SVID.md, sections 2 and 5.2 of the SPIFFE standards), its end,
which a connection outlives, and who signed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from troth.core.errors import Invalid, Unauthenticated
from troth.core.ids import SpiffeId, TrustDomain
from troth.core.x509 import UNREADABLE
from troth.issuance.der import read_signer

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
    """What the certificate says; raises `Unauthenticated` unless it has the form of an X.509-SVID
    of `trust_domain` and hasn't expired.

    Who signed it is for `is_signed_by` to say, or for TLS where the authorities of the trust domain
    are its only anchors.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        serial, end = certificate.serial_number, certificate.not_valid_after_utc
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        signer = read_signer(certificate)
    except x509.ExtensionNotFound as error:
        raise Unauthenticated("The certificate shown carries no SPIFFE ID.") from error
    except UNREADABLE as error:
        raise Unauthenticated("The certificate shown can't be read; show an X.509-SVID.") from error
    if not signer:
        # Whoever holds a stolen authority leaves out what its revocation is looked up by.
        raise Unauthenticated(
            "The certificate shown doesn't say which authority signed it; get a new one."
        )
    check_end(end, now)
    if len(uris) != 1:
        raise Unauthenticated("The certificate shown must carry exactly one SPIFFE ID.")
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except Invalid as error:
        raise Unauthenticated("The certificate shown carries no SPIFFE ID.") from error
    if spiffe_id.trust_domain != trust_domain:
        raise Unauthenticated(f"{spiffe_id.trust_domain} is not this trust domain.")
    return Presented(spiffe_id, format_serial(serial), signer, end)


def check_end(not_after: datetime, now: datetime) -> None:
    """Raise `Unauthenticated` once the certificate that ends at `not_after` has expired."""
    if not_after <= now:
        raise Unauthenticated("The certificate shown has expired; get a new one.")


def is_signed_by(der: bytes, issuer: bytes) -> bool:
    """Whether a certificate names that of `issuer` (both DER) as its issuer, and that key signed it
    (RFC 5280, section 6.1.3, a, 1 and 4)."""
    try:
        shown = x509.load_der_x509_certificate(der)
        shown.verify_directly_issued_by(x509.load_der_x509_certificate(issuer))
    except (*UNREADABLE, InvalidSignature):
        return False
    return True
