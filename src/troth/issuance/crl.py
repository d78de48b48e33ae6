"""Certificate revocation lists: version 2, complete, one an issuer (RFC 5280, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from troth.core.errors import Internal, Refused
from troth.issuance.authorities import Authority, Use
from troth.issuance.der import check_signed, read_element, read_elements
from troth.issuance.drafter import Drafter, Issuer
from troth.issuance.profiles import trim_seconds

_VERSION_2 = bytes.fromhex("020101")


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
    entries = _sort_entries(revoked)
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=facts.name,
        last_update=this_update.replace(tzinfo=None),
        next_update=(this_update + lifetime).replace(tzinfo=None),
        # In one piece: the builder's own method copies the list for each entry.
        revoked_certificates=[_build_entry(entry) for entry in entries],
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
        revoked=entries,
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


def _build_entry(entry: RevokedCertificate) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder(
        entry.serial, trim_seconds(entry.revoked_at).replace(tzinfo=None)
    )
    # "unspecified" is left out, as 5.3.1 asks.
    if entry.reason is not RevocationReason.UNSPECIFIED:
        reason = x509.CRLReason(x509.ReasonFlags(entry.reason.value))
        builder = builder.add_extension(reason, False)
    return builder.build()


def lint_crl(
    der: bytes,
    *,
    issuer: Issuer,
    number: int,
    this_update: datetime,
    next_update: datetime,
    revoked: Sequence[RevokedCertificate],
) -> None:
    """Raise `Internal` that lists everything by which the list differs from what was asked for.

    `revoked` are the entries in the order they must have.
    """
    try:
        crl = x509.load_der_x509_crl(der)
        found = {e.oid: (e.value, e.critical) for e in crl.extensions}
        entries = [_describe_entry(entry) for entry in crl]
    except (ValueError, x509.DuplicateExtension) as error:
        raise Internal(f"The draft of the revocation list can't be parsed: {error}.") from error
    wrong = []
    if read_element(next(read_elements(read_element(der).content)).content).encoding != _VERSION_2:
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
    if entries != [(e.serial, trim_seconds(e.revoked_at), e.reason.value) for e in revoked]:
        wrong.append("the entries are not the revoked ones in order")
    if wrong:
        raise Internal(f"The lint refuses the revocation list: {'; '.join(wrong)}.")


def _describe_entry(entry: x509.RevokedCertificate) -> tuple[int, datetime, str]:
    """Serial, time and reason; an extension beside the reason shows as a reason of its own."""
    values = [extension.value for extension in entry.extensions]
    match values:
        case []:
            reason = RevocationReason.UNSPECIFIED.value
        case [x509.CRLReason(reason=x509.ReasonFlags() as flag)]:
            reason = RevocationReason(flag.value).value
        case _:
            reason = repr(values)
    return entry.serial_number, entry.revocation_date_utc, reason


def list_serials(der: bytes) -> frozenset[int]:
    """The serials on a list of our own making; empty for no list."""
    if not der:
        return frozenset()
    return frozenset(entry.serial_number for entry in x509.load_der_x509_crl(der))
