"""The gateway to cursors: how far each consumer has read the journal."""

from __future__ import annotations

from sqlalchemy import bindparam, insert, select, update

from troth.core.errors import Conflict
from troth.store.session import Session
from troth.store.tables import cursors

_t = cursors.c
_FIND = select(_t.position).where(_t.name == bindparam("wanted"))


class CursorGateway:
    """Positions by consumer. Saved in the transaction that holds the consumer's results."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, name: str) -> int:
        """The last position that `name` is done with; 0 if it never read."""
        return self.find(name) or 0

    def find(self, name: str) -> int | None:
        """The same; None if nothing was ever saved, not even a beginning."""
        position: int | None = self._session.execute(_FIND, {"wanted": name}).scalar()
        return position

    def save(self, name: str, position: int) -> None:
        """Move the cursor forward.

        `Conflict` if it stands further already: another node was faster, and this transaction's
        results would be there twice.
        """
        moved = self._session.execute(
            update(cursors)
            .where(_t.name == name, _t.position <= position)
            .values(position=position)
        )
        if moved.rowcount:
            return
        ahead = Conflict(f"The cursor '{name}' is past {position} already; read on from there.")
        if self.find(name) is not None:
            raise ahead
        self._session.insert(
            insert(cursors), {"name": name, "position": position}, {"name": ahead.detail}
        )
