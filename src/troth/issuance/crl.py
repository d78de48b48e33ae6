"""Certificate revocation lists: version 2, complete, one an issuer (RFC 5280, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509

from troth.core.errors import Internal, Refused
from troth.issuance.authorities import Authority, AuthorityState, Use
from troth.issuance.der import check_signed
from troth.issuance.drafter import Drafter, Issuer
from troth.issuance.profiles import trim_seconds


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
    if issuer.use is not Use.X509 or issuer.state is AuthorityState.ENDED:
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
    _lint(draft, facts, number, this_update, this_update + lifetime, entries)
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


def _lint(
    draft: x509.CertificateRevocationList,
    issuer: Issuer,
    number: int,
    this_update: datetime,
    next_update: datetime,
    entries: list[RevokedCertificate],
) -> None:
    """Raise `Internal` unless the draft says what was asked for, in RFC 5280's form."""
    wrong = []
    if draft.issuer.public_bytes() != issuer.name_der:
        wrong.append("the issuer's name is not its certificate's subject")
    if draft.last_update_utc != this_update or draft.next_update_utc != next_update:
        wrong.append("the times are not the planned ones")
    if next_update <= this_update:
        wrong.append("nextUpdate is not after thisUpdate")
    found = {extension.oid: extension.value for extension in draft.extensions}
    wanted = {
        x509.CRLNumber.oid: x509.CRLNumber(number),
        x509.AuthorityKeyIdentifier.oid: x509.AuthorityKeyIdentifier(
            issuer.key_identifier, None, None
        ),
    }
    if found != wanted or number < 0:
        wrong.append("the extensions are not cRLNumber and authorityKeyIdentifier as planned")
    if [entry.serial_number for entry in draft] != [entry.serial for entry in entries]:
        wrong.append("the serials are not the revoked ones in order")
    if wrong:
        raise Internal(f"The lint refuses the revocation list: {'; '.join(wrong)}.")


def list_serials(der: bytes) -> frozenset[int]:
    """The serials on a list of our own making; empty for no list."""
    if not der:
        return frozenset()
    return frozenset(entry.serial_number for entry in x509.load_der_x509_crl(der))
