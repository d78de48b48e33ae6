"""The gateway to certificates: intent, result, revocation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    bindparam,
    case,
    delete,
    exists,
    func,
    select,
    update,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from troth.core.errors import Conflict, Invalid, NotFound, Refused, TrothError
from troth.core.ids import AuthorityId, IdentityId, InstanceId, NodeId
from troth.issuance.authorities import AuthorityState
from troth.store.bulk import RowInsert
from troth.store.columns import store_moment
from troth.store.identities import read_spiffe_id
from troth.store.records import (
    SERIAL_DIGITS,
    CertificateKind,
    CertificateName,
    CertificateRecord,
    HolderKind,
    IssuanceState,
    Revocation,
    Withdrawal,
)
from troth.store.session import Session
from troth.store.tables import authorities, certificates, is_intended, is_revoked

LISTED_AFTER_EXPIRY = timedelta(days=7)
"""How long a revoked certificate stays on the list once expired. RFC 5280, section 3.3, wants it
on one list issued after its expiry; a verifier's clock may be behind and a list may be missed."""

_TRUSTED = (AuthorityState.ACTIVE.value, AuthorityState.RETIRED.value)
_SERIAL = re.compile(rf"[0-9a-f]{{{SERIAL_DIGITS}}}", re.ASCII)
_t = certificates.c
# Built once: building and hashing a statement costs more than running it.
_FIND = select(certificates).where(_t.serial == bindparam("wanted"))
_FIND_INSTANCE = select(_t.instance_id).where(_t.serial == bindparam("wanted"))
_ADD = RowInsert(
    certificates,
    "serial",
    "kind",
    "subject",
    "identity_id",
    "instance_id",
    "node_id",
    "authority_id",
    "state",
    "tbs",
    "not_before",
    "not_after",
    "created_at",
)
# Intended ones too: the signature may be under way at this moment.
_STANDING = (_t.revoked_at.is_(None), _t.state != IssuanceState.ABANDONED.value)
_CHUNK = 500  # engines bound how many parameters a statement may have
_HELD_BY = {HolderKind.IDENTITY: _t.identity_id, HolderKind.NODE: _t.node_id}
_STAND = select(_t.serial, _t.state, _t.revoked_at).where(
    _t.serial.in_(bindparam("wanted", expanding=True))
)
_ISSUE = (
    update(certificates)
    .where(_t.serial == bindparam("wanted"), is_intended, _t.revoked_at.is_(None))
    .values(state=IssuanceState.ISSUED.value, der=bindparam("signed"))
)


class CertificateGateway:
    """Certificates by serial, and all of an identity, instance or node at once."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, serial: str) -> CertificateRecord | None:
        """The certificate's record, in whatever state, or None."""
        row = self._session.execute(_FIND, {"wanted": serial}).first()
        return None if row is None else _read(row)

    def find_instance(self, serial: str) -> InstanceId | None:
        """The running copy that the certificate was issued to; None if to none, or if unknown."""
        found = self._session.execute(_FIND_INSTANCE, {"wanted": serial}).scalar()
        return None if found is None else InstanceId(found)

    def get(self, serial: str) -> CertificateRecord:
        """The certificate's record; `NotFound` if there is none."""
        found = self.find(serial)
        if found is None:
            raise NotFound(f"There is no certificate with the serial {serial[:80]!r}.")
        return found

    def add_intended(self, record: CertificateRecord) -> None:
        """Reserve the serial and keep the bytes to be signed, before anything is signed.

        `Invalid` unless the serial is as `format_serial` writes it (revoking goes by it, so there
        must be one spelling); `Conflict` if it is taken.
        """
        self.add_all_intended([record])

    def add_all_intended(self, records: Sequence[CertificateRecord]) -> None:
        """As `add_intended` for many, all of them or none."""
        for record in records:
            if not _SERIAL.fullmatch(record.serial):
                raise Invalid(f"A serial is stored as {SERIAL_DIGITS} lower-case hex digits.")
            if record.state is not IssuanceState.INTENDED:
                raise Invalid("A certificate begins as an intent.")
        if records:
            rows = [_write(record) for record in records]
            self._session.insert_rows(_ADD, rows, {"serial": "The serial number is taken."})

    def mark_issued(self, serial: str, der: bytes) -> None:
        """Store the signed certificate.

        `Refused` if it was revoked while it was being signed, `Conflict` if it was abandoned or
        issued before: in each case it must not be handed out.
        """
        for refusal in self.mark_all_issued({serial: der}).values():
            raise refusal

    def mark_all_issued(self, signed: Mapping[str, bytes]) -> dict[str, TrothError]:
        """Store signed certificates by serial; of those that it refuses, what `mark_issued`
        raises. `NotFound`, and nothing is stored, if there is no intent."""
        refusals: dict[str, TrothError] = {}
        stands: dict[str, tuple[IssuanceState, bool]] = {}
        serials = list(signed)
        for start in range(0, len(serials), _CHUNK):
            rows = self._session.execute(_STAND, {"wanted": serials[start : start + _CHUNK]})
            stands |= {r.serial: (IssuanceState(r.state), r.revoked_at is None) for r in rows}
        for serial in serials:
            if serial not in stands:
                raise NotFound(f"There is no certificate with the serial {serial[:80]!r}.")
            state, stand = stands[serial]
            if state is not IssuanceState.INTENDED:
                refusals[serial] = Conflict(f"The certificate {serial} is {state.value} already.")
            elif not stand:
                refusals[serial] = Refused(
                    f"The certificate {serial} was revoked while it was being signed."
                )
        rest = [s for s in serials if s not in refusals]
        if rest:
            done = self._session.execute(
                _ISSUE, [{"wanted": serial, "signed": signed[serial]} for serial in rest]
            )
            if done.rowcount != len(rest):
                raise Conflict("Certificates changed while they were being stored; ask again.")
        return refusals

    def abandon(self, serial: str) -> bool:
        """Note that an intended certificate will never be handed out; whether that is news.

        `Conflict` if it was issued.
        """
        done = self._session.execute(
            update(certificates).where(_t.serial == serial, is_intended),
            {"state": IssuanceState.ABANDONED.value},
        )
        if not done.rowcount and self.get(serial).state is IssuanceState.ISSUED:
            raise Conflict(f"The certificate {serial} is issued; revoke it instead.")
        return bool(done.rowcount)

    def revoke(self, serial: str, now: datetime, reason: str) -> bool:
        """Revoke one certificate, in whatever state; whether it wasn't revoked before.

        The first time and reason stay. `reason` is one of RFC 5280's names, such as
        ``keyCompromise``.
        """
        done = self._session.execute(
            update(certificates).where(_t.serial == serial, _t.revoked_at.is_(None)),
            {"revoked_at": now, "revocation_reason": reason},
        )
        if not done.rowcount:
            self.get(serial)
        return bool(done.rowcount)

    def revoke_for_identity(self, identity_id: IdentityId, now: datetime, reason: str) -> list[str]:
        """Revoke all of an identity's unexpired certificates; the serials newly revoked."""
        return self._revoke_where(_t.identity_id == identity_id, now, reason)

    def revoke_for_instance(self, instance_id: InstanceId, now: datetime, reason: str) -> list[str]:
        """Revoke all of one copy's unexpired certificates; the serials newly revoked."""
        return self._revoke_where(_t.instance_id == instance_id, now, reason)

    def revoke_for_node(self, node_id: NodeId, now: datetime, reason: str) -> list[str]:
        """Revoke a node's own unexpired certificates and those of all workloads on it, since
        whoever holds the node holds their keys; the serials newly revoked."""
        return self._revoke_where(_t.node_id == node_id, now, reason)

    def revoke_nodes_own(self, node_id: NodeId, now: datetime, reason: str) -> list[str]:
        """As `revoke_for_node`, but only what says that somebody is this node."""
        own = (_t.node_id == node_id) & (_t.kind == CertificateKind.NODE.value)
        return self._revoke_where(own, now, reason)

    def holds_more(self, kind: HolderKind, holder: str, now: datetime, number: int) -> bool:
        """Whether a holder has more than `number` certificates that could be revoked."""
        query = select(_t.serial).where(_HELD_BY[kind] == holder, _t.not_after > now, *_STANDING)
        return len(self._session.execute(query.limit(number + 1)).all()) > number

    def revoke_batch(
        self, withdrawal: Withdrawal, now: datetime, limit: int
    ) -> tuple[list[str], datetime | None]:
        """Revoke the next of what a withdrawal is about: the serials, and what is reached by them,
        or None if that was all.

        By no clock but that of the withdrawal itself: one that runs fast must not take what lives
        for expired.
        """
        query = select(_t.serial, _t.not_after).where(
            _HELD_BY[withdrawal.kind] == withdrawal.holder,
            _t.not_after >= withdrawal.reached,
            *_STANDING,
        )
        rows = self._session.execute(query.order_by(_t.not_after, _t.serial).limit(limit)).all()
        serials = [row.serial for row in rows]
        self._revoke(serials, now, withdrawal.reason)
        return serials, rows[-1].not_after if len(rows) == limit else None

    def revoked(
        self, authority_id: AuthorityId, now: datetime, kept: timedelta = LISTED_AFTER_EXPIRY
    ) -> list[Revocation]:
        """What an authority's revocation list must hold, by time of revocation: every revoked
        certificate until `kept` after its expiry, signed for certain or not."""
        query = select(_t.serial, _t.revoked_at, _t.revocation_reason).where(
            is_revoked, _t.authority_id == authority_id, _t.not_after > now - kept
        )
        rows = self._session.execute(query.order_by(_t.revoked_at, _t.serial)).all()
        return [Revocation._make(row) for row in rows]

    def list_revoked(self, now: datetime) -> list[tuple[str, datetime]]:
        """Serial and end of every revoked, unexpired certificate: for live snapshots."""
        query = select(_t.serial, _t.not_after).where(is_revoked, _t.not_after > now)
        return [(row.serial, row.not_after) for row in self._session.execute(query)]

    def list_named(self, serials: Sequence[str]) -> list[CertificateName]:
        """Whose these certificates are and until when, in the order of `serials`."""
        found: dict[str, CertificateName] = {}
        for start in range(0, len(serials), _CHUNK):
            some = serials[start : start + _CHUNK]
            query = select(_t.serial, _t.subject, _t.not_after).where(_t.serial.in_(some))
            for row in self._session.execute(query):
                found[row.serial] = CertificateName._make(row)
        return [found[serial] for serial in serials]

    def interrupted(self, older_than: datetime, limit: int) -> list[CertificateRecord]:
        """Intents older than `older_than` that never came to a result, the oldest first."""
        query = select(certificates).where(is_intended, _t.created_at < older_than)
        rows = self._session.execute(query.order_by(_t.created_at, _t.serial).limit(limit))
        return [_read(row) for row in rows]

    def of_identity(self, identity_id: IdentityId, now: datetime) -> list[CertificateRecord]:
        """An identity's issued and unexpired certificates, revoked or not, the newest first."""
        query = select(certificates).where(
            _t.identity_id == identity_id,
            _t.not_after > now,
            _t.state == IssuanceState.ISSUED.value,
        )
        rows = self._session.execute(query.order_by(_t.created_at.desc(), _t.serial))
        return [_read(row) for row in rows]

    def has_living(self, authority_id: AuthorityId, now: datetime) -> bool:
        """Whether anything that the authority signed for others, or may be signing, still lives."""
        return self.last_end(authority_id, now) is not None

    def last_end(self, authority_id: AuthorityId, now: datetime) -> datetime | None:
        """When the last of that ends; None if nothing lives."""
        # The last by the index; a maximum would read all of them.
        query = select(_t.not_after).where(_living(authority_id, now))
        found: datetime | None = self._session.execute(
            query.order_by(_t.not_after.desc()).limit(1)
        ).scalar()
        return found

    def count_unreplaced(self, authority_id: AuthorityId, now: datetime) -> int:
        """How many copies, nodes and servers live on nothing but what the authority signed, or
        what is older or trusted no longer.

        Reads all of it that lives: not for loops, and not for the writer.
        """
        # Each holder once before it is looked for: one copy may have thousands.
        standing = select(_t.kind, _t.instance_id, _t.node_id).where(
            _living(authority_id, now), _t.revoked_at.is_(None)
        )
        holder = standing.distinct().subquery("holder").c
        whose = holder.kind + " " + func.coalesce(holder.instance_id, holder.node_id, "")
        query = select(func.count(whose.distinct())).where(~_is_replaced(holder, authority_id, now))
        return self._session.execute(query).scalar() or 0

    def purge_expired(self, before: datetime, limit: int) -> int:
        """Forget certificates that expired before `before`; how many went.

        Choose `before` so that it keeps what `revoked` must list and what an auditor may ask for.
        """
        old = select(_t.serial).where(_t.not_after < before).order_by(_t.not_after).limit(limit)
        return self._session.execute(delete(certificates).where(_t.serial.in_(old))).rowcount

    def _revoke_where(self, whose: ColumnElement[bool], now: datetime, reason: str) -> list[str]:
        query = select(_t.serial).where(whose, _t.not_after > now, *_STANDING)
        serials = list(self._session.execute(query.order_by(_t.serial)).scalars())
        self._revoke(serials, now, reason)
        return serials

    def _revoke(self, serials: list[str], now: datetime, reason: str) -> None:
        for start in range(0, len(serials), _CHUNK):
            some = update(certificates).where(_t.serial.in_(serials[start : start + _CHUNK]))
            self._session.execute(some.values(revoked_at=now, revocation_reason=reason))


def _living(authority_id: AuthorityId, now: datetime) -> ColumnElement[bool]:
    return (
        (_t.authority_id == authority_id)
        & (_t.not_after > now)
        & (_t.kind != CertificateKind.CA.value)
        & (_t.state != IssuanceState.ABANDONED.value)
    )


def _is_replaced(
    holder: ReadOnlyColumnCollection[str, Any], authority_id: AuthorityId, now: datetime
) -> ColumnElement[bool]:
    """Whether the holder has a certificate of a newer authority that is trusted."""
    other = certificates.alias("other")
    made = select(authorities.c.created_at).where(authorities.c.id == authority_id)
    older = authorities.c.created_at < made.scalar_subquery()
    passed = exists().where(
        authorities.c.id == other.c.authority_id, authorities.c.state.not_in(_TRUSTED) | older
    )

    def holds(*same: ColumnElement[bool]) -> ColumnElement[bool]:
        return exists().where(
            *same,
            other.c.not_after > now,
            other.c.authority_id != authority_id,
            other.c.state == IssuanceState.ISSUED.value,
            other.c.revoked_at.is_(None),
            ~passed,
        )

    # Each by an index: a copy by its id, and what belongs to none by that. Of a node there are
    # many more, the workloads' on it.
    alone = other.c.instance_id.is_(None)
    kind = holder.kind
    return case(
        (kind == CertificateKind.SERVER.value, holds(alone, other.c.kind == kind)),
        (kind == CertificateKind.NODE.value, holds(other.c.node_id == holder.node_id, alone)),
        else_=holds(other.c.instance_id == holder.instance_id),
    )


def _write(record: CertificateRecord) -> tuple[Any, ...]:
    """An intended one: neither signed nor revoked."""
    return (
        record.serial,
        record.kind.value,
        str(record.subject),
        record.identity_id,
        record.instance_id,
        record.node_id,
        record.authority_id,
        record.state.value,
        record.tbs,
        store_moment(record.not_before),
        store_moment(record.not_after),
        store_moment(record.created_at),
    )


def _read(row: Row[Any]) -> CertificateRecord:
    return CertificateRecord(
        serial=row.serial,
        kind=CertificateKind(row.kind),
        subject=read_spiffe_id(row.subject),
        identity_id=row.identity_id,
        instance_id=row.instance_id,
        node_id=row.node_id,
        authority_id=AuthorityId(row.authority_id),
        state=IssuanceState(row.state),
        tbs=row.tbs,
        not_before=row.not_before,
        not_after=row.not_after,
        created_at=row.created_at,
        der=row.der,
        revoked_at=row.revoked_at,
        revocation_reason=row.revocation_reason,
    )
