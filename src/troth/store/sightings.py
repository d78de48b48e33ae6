"""The gateway to sightings: what templates made, and whether somebody still uses it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, select, update

from troth.core.errors import Internal
from troth.core.ids import IdentityId, NodeId
from troth.identity.attendance import Phase, Sighting
from troth.store.session import Session
from troth.store.tables import sightings

_MICROSECOND = timedelta(microseconds=1)
_OPEN = (Phase.ATTENDED.value, Phase.UNATTENDED.value, Phase.EXPIRED.value)
_t = sightings.c
# Built once: building and hashing a statement costs more than running it.
_FIND = select(sightings).where(_t.identity_id == bindparam("wanted"))
_LATEST = (
    select(sightings)
    .where(_t.template == bindparam("template"), _t.binding == bindparam("binding"))
    .order_by(_t.created_at.desc(), _t.identity_id)
    .limit(1)
)


class SightingGateway:
    """Sightings by identity, by workload, and those to look at."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, identity_id: IdentityId) -> Sighting | None:
        """The sighting of an identity, or None."""
        row = self._session.execute(_FIND, {"wanted": identity_id}).first()
        return None if row is None else _read(row)

    def find_latest(self, template: str, binding: str) -> Sighting | None:
        """The last identity that this template made for this workload, or None."""
        row = self._session.execute(_LATEST, {"template": template, "binding": binding}).first()
        return None if row is None else _read(row)

    def add(self, sighting: Sighting) -> None:
        """Store a new one; `Conflict` if its identity has one."""
        taken = {"identity_id": f"The identity {sighting.identity_id} was met before."}
        self._session.insert(insert(sightings).inline(), _write(sighting), taken)

    def save(self, sighting: Sighting) -> None:
        """Store a changed one."""
        changed = self._session.execute(
            update(sightings).where(_t.identity_id == sighting.identity_id), _write(sighting)
        )
        if not changed.rowcount:
            raise Internal(f"The identity {sighting.identity_id} has no sighting to change.")

    def due(self, now: datetime, limit: int) -> list[Sighting]:
        """Those to look at now, the longest due first."""
        query = select(sightings).where(_t.phase.in_(_OPEN), _t.due_at <= now)
        rows = self._session.execute(query.order_by(_t.due_at, _t.identity_id).limit(limit))
        return [_read(row) for row in rows]

    def count_since(self, node_id: NodeId, moment: datetime) -> int:
        """How many identities were made at the word of a node since `moment`."""
        query = select(func.count()).where(_t.node_id == node_id, _t.created_at > moment)
        return self._session.execute(query).scalar() or 0

    def count_in(self, phase: Phase) -> int:
        """How many are in `phase`."""
        query = select(func.count()).where(_t.phase == phase.value)
        return self._session.execute(query).scalar() or 0

    def list_in(self, phase: Phase, limit: int) -> list[Sighting]:
        """The first of those in `phase` that are due."""
        query = select(sightings).where(_t.phase == phase.value)
        rows = self._session.execute(query.order_by(_t.due_at, _t.identity_id).limit(limit))
        return [_read(row) for row in rows]


def _write(sighting: Sighting) -> dict[str, Any]:
    return {
        "identity_id": sighting.identity_id,
        "template": sighting.template,
        "binding": sighting.binding,
        "node_id": sighting.node_id,
        "phase": sighting.phase.value,
        "seen_at": sighting.seen_at,
        "due_at": sighting.due_at,
        "ends_at": sighting.ends_at,
        "span": sighting.span // _MICROSECOND,
        "grace": sighting.grace // _MICROSECOND,
        "created_at": sighting.created_at,
    }


def _read(row: Row[Any]) -> Sighting:
    return Sighting(
        identity_id=IdentityId(row.identity_id),
        template=row.template,
        binding=row.binding,
        node_id=NodeId(row.node_id),
        phase=Phase(row.phase),
        seen_at=row.seen_at,
        due_at=row.due_at,
        ends_at=row.ends_at,
        span=row.span * _MICROSECOND,
        grace=row.grace * _MICROSECOND,
        created_at=row.created_at,
    )
