"""The gateway to sealed keys. What lies here is ciphertext: the store never sees a key."""

from __future__ import annotations

import builtins

from sqlalchemy import bindparam, delete, insert, select

from troth.store.session import Session
from troth.store.tables import keys

_t = keys.c
_FIND = select(_t.sealed).where(_t.name == bindparam("wanted"))


class KeyGateway:
    """Sealed keys by name. They never change: they are there, or not."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, name: str, sealed: bytes) -> None:
        """Store something new; `Conflict` if the name is taken."""
        values = {"name": name, "sealed": sealed}
        self._session.insert(insert(keys), values, {"name": f"The key {name!r} exists already."})

    def find(self, name: str) -> bytes | None:
        """What is stored under `name`, or None."""
        row = self._session.execute(_FIND, {"wanted": name}).first()
        return None if row is None else bytes(row.sealed)

    def list(self) -> builtins.list[str]:
        """All names, sorted."""
        return builtins.list(self._session.execute(select(_t.name).order_by(_t.name)).scalars())

    def drop(self, name: str) -> bool:
        """Delete it; whether there was anything."""
        done = self._session.execute(delete(keys).where(_t.name == bindparam("w")), {"w": name})
        return done.rowcount > 0
