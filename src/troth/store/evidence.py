"""The gateway to evidence for and against identities."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, insert, select

from troth.core.errors import NotFound
from troth.core.ids import EvidenceId, IdentityId
from troth.store.session import Session
from troth.store.tables import evidence
from troth.trust.evidence import Evidence

_MICROSECOND = timedelta(microseconds=1)
_CHUNK = 500  # engines bound how many parameters a statement may have
_t = evidence.c
_LIST = select(evidence).where(_t.identity_id == bindparam("wanted")).order_by(_t.id)
_LIST_ALL = (
    select(evidence)
    .where(_t.identity_id.in_(bindparam("wanted", expanding=True)))
    .order_by(_t.identity_id, _t.id)
)


class EvidenceGateway:
    """Evidence by id and by identity; ids are in the order in which it was added."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, evidence_id: str) -> Evidence:
        """The evidence; `NotFound` if there is none, or none any more."""
        query = select(evidence).where(_t.id == evidence_id)
        row = self._session.execute(query).first()
        if row is None:
            raise NotFound(
                f"There is no evidence with the id {evidence_id[:80]!r}: it was withdrawn, or "
                "counts no more. `troth trust show NAME` lists what there is."
            )
        return _read(row)

    def add(self, added: Evidence) -> None:
        """Store new evidence; `Conflict` if its id is taken."""
        self._session.insert(insert(evidence), _write(added), {"id": "The evidence's id is taken."})

    def list(self, identity_id: IdentityId) -> tuple[Evidence, ...]:
        """All of an identity, what was added first before the rest. Some of it may have ended."""
        return tuple(map(_read, self._session.execute(_LIST, {"wanted": identity_id})))

    def list_all(
        self, identity_ids: Iterable[IdentityId]
    ) -> dict[IdentityId, tuple[Evidence, ...]]:
        """As `list` for each of these identities."""
        wanted = list(identity_ids)
        found: dict[IdentityId, tuple[Evidence, ...]] = dict.fromkeys(wanted, ())
        for start in range(0, len(wanted), _CHUNK):
            rows = self._session.execute(_LIST_ALL, {"wanted": wanted[start : start + _CHUNK]})
            for one in map(_read, rows):
                found[one.identity_id] += (one,)
        return found

    def count_living(self, identity_id: IdentityId, now: datetime) -> int:
        """How many of an identity still count."""
        query = select(func.count()).where(_t.identity_id == identity_id, _t.ends_at > now)
        return self._session.execute(query).scalar() or 0

    def withdraw(self, evidence_id: EvidenceId) -> None:
        """Take it back. The journal keeps what it was."""
        self._session.execute(delete(evidence).where(_t.id == evidence_id))

    def purge(self, now: datetime, limit: int) -> int:
        """Forget at most `limit` of what counts no more at `now`; how many went."""
        old = select(_t.id).where(_t.ends_at <= now).limit(limit)
        return self._session.execute(delete(evidence).where(_t.id.in_(old))).rowcount


def _write(added: Evidence) -> dict[str, Any]:
    return {
        "id": added.id,
        "identity_id": added.identity_id,
        "source": added.source,
        "kind": added.kind,
        "weight": added.weight,
        "half_life": added.half_life // _MICROSECOND,
        "at": added.at,
        "ends_at": added.ends_at,
        "reason": added.reason,
        "added_by": added.added_by,
    }


def _read(row: Row[Any]) -> Evidence:
    return Evidence(
        id=EvidenceId(row.id),
        identity_id=IdentityId(row.identity_id),
        source=row.source,
        kind=row.kind,
        weight=row.weight,
        half_life=row.half_life * _MICROSECOND,
        at=row.at,
        reason=row.reason,
        added_by=row.added_by,
    )
