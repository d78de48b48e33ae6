"""Certificate revocation lists: version 2, complete, one an issuer (RFC 5280, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from troth.core.errors import Internal, Refused
from troth.issuance.authorities import Authority, Use
from troth.issuance.der import (
    ENUMERATED,
    GENERALIZED_TIME,
    INTEGER,
    OCTET_STRING,
    SEQUENCE,
    UTC_TIME,
    check_signed,
    encode_element,
    read_element,
    read_elements,
)
from troth.issuance.drafter import Drafter, Entry, Issuer
from troth.issuance.profiles import trim_seconds

_VERSION_2 = bytes.fromhex("020101")
_REASON_CODE = bytes.fromhex("0603551d15")
"""id-ce-cRLReasons, 2.5.29.21."""


class RevocationReason(StrEnum):
    """The CRLReason names of RFC 5280, section 5.3.1; removeFromCRL is for delta lists alone."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    CERTIFICATE_HOLD = "certificateHold"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"
    AA_COMPROMISE = "aACompromise"


_CODES = {
    RevocationReason.UNSPECIFIED: 0,
    RevocationReason.KEY_COMPROMISE: 1,
    RevocationReason.CA_COMPROMISE: 2,
    RevocationReason.AFFILIATION_CHANGED: 3,
    RevocationReason.SUPERSEDED: 4,
    RevocationReason.CESSATION_OF_OPERATION: 5,
    RevocationReason.CERTIFICATE_HOLD: 6,
    RevocationReason.PRIVILEGE_WITHDRAWN: 9,
    RevocationReason.AA_COMPROMISE: 10,
}


@dataclass(frozen=True, slots=True)
class RevokedCertificate:
    """One entry: keep it until a list made after the certificate's end has carried it (3.3)."""

    serial: int
    revoked_at: datetime
    reason: RevocationReason = RevocationReason.UNSPECIFIED


def draft_crl(
    *,
    issuer: Authority,
    number: int,
    revoked: Sequence[RevokedCertificate],
    now: datetime,
    lifetime: timedelta,
    drafter: Drafter | None = None,
) -> bytes:
    """The linted DER TBSCertList; assemble it as a certificate, then `check_crl`.

    `number` must grow from list to list (5.2.3). A retired authority still signs lists for what
    it issued, an ended one doesn't (`Refused`). A serial given twice keeps its earliest entry.
    """
    if issuer.use is not Use.X509 or not issuer.published:
        raise Refused(f"Authority {issuer.id} can't sign a revocation list: it is not a living CA.")
    drafter = drafter if drafter is not None else Drafter()
    facts = drafter.find_issuer(issuer)
    this_update = trim_seconds(now)
    entries = [
        drafter.find_entry(entry, partial(_make_entry, entry)) for entry in _sort_entries(revoked)
    ]
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=facts.name,
        last_update=this_update.replace(tzinfo=None),
        next_update=(this_update + lifetime).replace(tzinfo=None),
        # In one piece: the builder's own method copies the list for each entry.
        revoked_certificates=[built for built, _ in entries],
    )
    identifier = x509.AuthorityKeyIdentifier(facts.key_identifier, None, None)
    builder = builder.add_extension(identifier, False)
    builder = builder.add_extension(x509.CRLNumber(number), False)
    draft = drafter.sign_crl(builder)
    lint_crl(
        draft.public_bytes(Encoding.DER),
        issuer=facts,
        number=number,
        this_update=this_update,
        next_update=this_update + lifetime,
        revoked=[encoded for _, encoded in entries],
    )
    return draft.tbs_certlist_bytes


def check_crl(der: bytes, tbs: bytes, issuer_public_key: bytes) -> None:
    """Raise `Internal` unless `der` holds exactly the recorded `tbs` and its signature verifies."""
    check_signed(der, tbs, issuer_public_key)


def _sort_entries(revoked: Sequence[RevokedCertificate]) -> list[RevokedCertificate]:
    first: dict[int, RevokedCertificate] = {}
    for entry in sorted(revoked, key=lambda entry: (entry.serial, entry.revoked_at)):
        first.setdefault(entry.serial, entry)
    return list(first.values())


def _make_entry(entry: RevokedCertificate) -> Entry:
    builder = x509.RevokedCertificateBuilder(
        entry.serial, trim_seconds(entry.revoked_at).replace(tzinfo=None)
    )
    # "unspecified" is left out, as 5.3.1 asks.
    if entry.reason is not RevocationReason.UNSPECIFIED:
        reason = x509.CRLReason(x509.ReasonFlags(entry.reason.value))
        builder = builder.add_extension(reason, False)
    return builder.build(), encode_entry(entry)


def encode_entry(entry: RevokedCertificate) -> bytes:
    """The DER that an entry must have (5.1 and 5.3.1), by our own hand: what the lint goes by."""
    serial = entry.serial.to_bytes(entry.serial.bit_length() // 8 + 1, "big")
    content = encode_element(INTEGER, serial) + _encode_time(trim_seconds(entry.revoked_at))
    code = _CODES[entry.reason]
    if code:
        reason = encode_element(OCTET_STRING, encode_element(ENUMERATED, bytes([code])))
        extension = encode_element(SEQUENCE, _REASON_CODE + reason)
        content += encode_element(SEQUENCE, extension)
    return encode_element(SEQUENCE, content)


def _encode_time(moment: datetime) -> bytes:
    """UTCTime through 2049, GeneralizedTime from 2050 on (5.1.2.4)."""
    if moment.year < 2050:
        return encode_element(UTC_TIME, f"{moment:%y%m%d%H%M%SZ}".encode())
    return encode_element(GENERALIZED_TIME, f"{moment:%Y%m%d%H%M%SZ}".encode())


def lint_crl(
    der: bytes,
    *,
    issuer: Issuer,
    number: int,
    this_update: datetime,
    next_update: datetime,
    revoked: Sequence[bytes],
) -> None:
    """Raise `Internal` that lists everything by which the list differs from what was asked for.

    `revoked` are the entries (DER, from `encode_entry`) in the order they must have.
    """
    try:
        crl = x509.load_der_x509_crl(der)
        found = {e.oid: (e.value, e.critical) for e in crl.extensions}
        fields = list(read_elements(read_element(crl.tbs_certlist_bytes).content))
    except (ValueError, x509.DuplicateExtension) as error:
        raise Internal(f"The draft of the revocation list can't be parsed: {error}.") from error
    wrong = []
    if fields[0].encoding != _VERSION_2:
        wrong.append("the version is not 2")
    if crl.issuer.public_bytes() != issuer.name_der:
        wrong.append("the issuer's name is not its certificate's subject")
    if (crl.last_update_utc, crl.next_update_utc) != (this_update, next_update):
        wrong.append("the times are not the planned ones")
    if next_update <= this_update:
        wrong.append("nextUpdate is not after thisUpdate")
    authority = x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None)
    wanted = (x509.CRLNumber(number), authority)
    if found != {value.oid: (value, False) for value in wanted} or number < 0:
        wrong.append("the extensions are not cRLNumber and authorityKeyIdentifier as planned")
    # Version, algorithm, issuer and two times; the entries, if any; the extensions (5.1.2).
    wanted_entries = [encode_element(SEQUENCE, b"".join(revoked))] if revoked else []
    if [field.encoding for field in fields[5:-1]] != wanted_entries:
        wrong.append("the entries are not the revoked ones in order")
    if wrong:
        raise Internal(f"The lint refuses the revocation list: {'; '.join(wrong)}.")


def list_serials(der: bytes) -> frozenset[int]:
    """The serials on a list of our own making; empty for no list."""
    if not der:
        return frozenset()
    return frozenset(entry.serial_number for entry in x509.load_der_x509_crl(der))
