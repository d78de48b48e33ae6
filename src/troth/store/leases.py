"""The gateway to leases: which node does a background task for now."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import bindparam, delete, or_, select, text, update

from troth.store.columns import Moment
from troth.store.session import Session
from troth.store.tables import leases

_t = leases.c
_HOLDER = select(_t.holder).where(_t.name == bindparam("wanted"))
_ADD = text(
    "INSERT INTO leases (name, holder, expires_at) VALUES (:name, :holder, :expires_at) "
    "ON CONFLICT DO NOTHING"
).bindparams(bindparam("expires_at", type_=Moment))


class LeaseGateway:
    """Leases by name. A lease spares work; what it guards must be right without it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, name: str, holder: str, now: datetime, ttl: timedelta) -> bool:
        """Take or renew a lease; False while somebody else holds it.

        That of a server that is known to have ended is free at once.
        """
        values = {"holder": holder, "expires_at": now + ttl}
        taken = self._session.execute(
            update(leases).where(_t.name == name, or_(_t.holder == holder, _t.expires_at <= now)),
            values,
        )
        if taken.rowcount:
            return True
        other = self.find_holder(name)
        if other is None:
            return bool(self._session.execute(_ADD, {"name": name, **values}).rowcount)
        if not self._session.is_gone(other):
            return False
        statement = update(leases).where(_t.name == name, _t.holder == other)
        return bool(self._session.execute(statement, values).rowcount)

    def is_taken(self, name: str, holder: str, now: datetime) -> bool:
        """Whether somebody other than `holder` has the lease, so that `take` would fail."""
        query = select(_t.holder).where(_t.name == name, _t.holder != holder, _t.expires_at > now)
        other = self._session.execute(query).scalar()
        return other is not None and not self._session.is_gone(other)

    def find_holder(self, name: str) -> str | None:
        """Who took a lease last, if it wasn't given back; it may have run out."""
        return self._session.execute(_HOLDER, {"wanted": name}).scalar()

    def release(self, name: str, holder: str) -> bool:
        """Give a lease back; False if `holder` no longer held it."""
        released = self._session.execute(delete(leases).where(_t.name == name, _t.holder == holder))
        return bool(released.rowcount)
