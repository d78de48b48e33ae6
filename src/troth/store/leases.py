"""The gateway to leases: which node does a background task for now."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, insert, or_, select, update

from troth.store.session import Session
from troth.store.tables import leases

_t = leases.c


class LeaseGateway:
    """Leases by name. A lease spares work; what it guards must be right without it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, name: str, holder: str, now: datetime, ttl: timedelta) -> bool:
        """Take or renew a lease; False while somebody else holds it."""
        values = {"holder": holder, "expires_at": now + ttl}
        taken = self._session.execute(
            update(leases).where(_t.name == name, or_(_t.holder == holder, _t.expires_at <= now)),
            values,
        )
        if taken.rowcount:
            return True
        if self._session.execute(select(_t.name).where(_t.name == name)).first() is not None:
            return False
        self._session.insert(
            insert(leases), {"name": name, **values}, {"name": f"Somebody else took '{name}'."}
        )
        return True

    def release(self, name: str, holder: str) -> bool:
        """Give a lease back; False if `holder` no longer held it."""
        released = self._session.execute(delete(leases).where(_t.name == name, _t.holder == holder))
        return bool(released.rowcount)
