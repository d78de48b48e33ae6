"""The gateway to JWT-SVIDs' records; the tokens themselves are never stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, delete, func, select, update

from troth.core.errors import Conflict, Invalid, NotFound, TrothError
from troth.core.ids import AuthorityId, IdentityId
from troth.store.bulk import KeyedStatement, RowInsert
from troth.store.columns import store_document, store_moment
from troth.store.instances import split_chunks
from troth.store.records import IssuanceState, JwtSvidRecord
from troth.store.session import Session
from troth.store.tables import is_planned, jwt_svids

_t = jwt_svids.c
# Built once: building and hashing a statement costs more than running it.
_FIND = select(jwt_svids).where(_t.jti == bindparam("wanted"))
_ADD = RowInsert(
    jwt_svids,
    "jti",
    "identity_id",
    "node_id",
    "audiences",
    "authority_id",
    "state",
    "digest",
    "issued_at",
    "expires_at",
)
_STAND = KeyedStatement("SELECT jti, state FROM jwt_svids WHERE jti")
_ISSUE = KeyedStatement("UPDATE jwt_svids SET state = 'issued' WHERE state = 'intended' AND jti")


class JwtSvidGateway:
    """JWT-SVIDs by their ``jti``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, jti: str) -> JwtSvidRecord | None:
        """The token's record, in whatever state, or None."""
        row = self._session.execute(_FIND, {"wanted": jti}).first()
        return None if row is None else _read(row)

    def get(self, jti: str) -> JwtSvidRecord:
        """The token's record; `NotFound` if there is none."""
        found = self.find(jti)
        if found is None:
            raise NotFound(f"There is no JWT-SVID with the id {jti[:80]!r}.")
        return found

    def add_intended(self, record: JwtSvidRecord) -> None:
        """Keep what is about to be signed; `Conflict` if the ``jti`` is taken."""
        self.add_all_intended([record])

    def add_all_intended(self, records: Sequence[JwtSvidRecord]) -> None:
        """As `add_intended` for many, all of them or none."""
        if any(record.state is not IssuanceState.INTENDED for record in records):
            raise Invalid("A JWT-SVID begins as an intent.")
        if records:
            rows = [_write(record) for record in records]
            self._session.insert_rows(_ADD, rows, {"jti": "The token id is taken."})

    def mark_issued(self, jti: str) -> None:
        """Note that it was signed; `Conflict` if it was abandoned or issued before."""
        for refusal in self.mark_all_issued([jti]).values():
            raise refusal

    def mark_all_issued(self, jtis: Iterable[str]) -> dict[str, TrothError]:
        """As `mark_issued` for many; of those that it refuses, what `mark_issued` raises.
        `NotFound`, and nothing is noted, if there is no intent."""
        refusals: dict[str, TrothError] = {}
        planned: list[str] = []
        for chunk in split_chunks(jtis):
            rows = self._session.execute_keyed(_STAND, chunk)
            stands = {row.jti: row.state for row in rows}
            for jti in chunk:
                if jti not in stands:
                    raise NotFound(f"There is no JWT-SVID with the id {jti[:80]!r}.")
                if stands[jti] == IssuanceState.INTENDED.value:
                    planned.append(jti)
                else:
                    refusals[jti] = Conflict(f"The JWT-SVID {jti} is {stands[jti]} already.")
        for chunk in split_chunks(planned):
            done = self._session.execute_keyed(_ISSUE, chunk)
            if done.rowcount != len(chunk):
                raise Conflict("JWT-SVIDs changed while they were being noted; ask again.")
        return refusals

    def abandon(self, jti: str) -> bool:
        """Note that it will never be handed out; whether that is news. `Conflict` once issued."""
        done = self._session.execute(
            update(jwt_svids).where(_t.jti == jti, is_planned),
            {"state": IssuanceState.ABANDONED.value},
        )
        if not done.rowcount and self.get(jti).state is IssuanceState.ISSUED:
            raise Conflict(f"The JWT-SVID {jti} is issued already.")
        return bool(done.rowcount)

    def interrupted(self, older_than: datetime, limit: int) -> list[JwtSvidRecord]:
        """Intents older than `older_than` that never came to a result, the oldest first."""
        query = select(jwt_svids).where(is_planned, _t.issued_at < older_than)
        rows = self._session.execute(query.order_by(_t.issued_at, _t.jti).limit(limit))
        return [_read(row) for row in rows]

    def has_living(self, authority_id: AuthorityId, now: datetime) -> bool:
        """Whether any token that the authority signed, or may be signing, still lives."""
        return self.last_end(authority_id, now) is not None

    def last_end(self, authority_id: AuthorityId, now: datetime) -> datetime | None:
        """When the last of them ends; None if none lives."""
        # The last by the index; a maximum would read all of them.
        query = select(_t.expires_at).where(_living(authority_id, now))
        found: datetime | None = self._session.execute(
            query.order_by(_t.expires_at.desc()).limit(1)
        ).scalar()
        return found

    def count_living(self, authority_id: AuthorityId, now: datetime) -> int:
        """How many of them live. Reads all of them: not for loops."""
        query = select(func.count()).select_from(jwt_svids).where(_living(authority_id, now))
        return self._session.execute(query).scalar() or 0

    def purge(self, before: datetime, limit: int) -> int:
        """Forget tokens that expired before `before`; how many went."""
        old = select(_t.jti).where(_t.expires_at < before).order_by(_t.expires_at).limit(limit)
        return self._session.execute(delete(jwt_svids).where(_t.jti.in_(old))).rowcount


def _living(authority_id: AuthorityId, now: datetime) -> ColumnElement[bool]:
    return (
        (_t.authority_id == authority_id)
        & (_t.expires_at > now)
        & (_t.state != IssuanceState.ABANDONED.value)
    )


def _write(record: JwtSvidRecord) -> tuple[Any, ...]:
    return (
        record.jti,
        record.identity_id,
        record.node_id,
        store_document(record.audiences),
        record.authority_id,
        record.state.value,
        record.digest,
        store_moment(record.issued_at),
        store_moment(record.expires_at),
    )


def _read(row: Row[Any]) -> JwtSvidRecord:
    return JwtSvidRecord(
        jti=row.jti,
        identity_id=IdentityId(row.identity_id),
        node_id=row.node_id,
        audiences=tuple(row.audiences),
        authority_id=AuthorityId(row.authority_id),
        state=IssuanceState(row.state),
        digest=row.digest,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
    )
