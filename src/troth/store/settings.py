"""The gateway to settings: values that the server keeps about itself, never secrets."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, insert, select, update

from troth.store.session import Session
from troth.store.tables import settings

_t = settings.c
# Built once: building and hashing a statement costs more than running it.
_FIND = select(_t.value).where(_t.key == bindparam("wanted"))


class SettingGateway:
    """Text values by key."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, key: str) -> str | None:
        """The value, or None if it was never set."""
        row = self._session.execute(_FIND, {"wanted": key}).first()
        return None if row is None else str(row.value)

    def drop(self, key: str) -> None:
        """Forget the value."""
        self._session.execute(delete(settings).where(_t.key == key))

    def set(self, key: str, value: str) -> None:
        """Set the value, whatever it was."""
        changed = self._session.execute(update(settings).where(_t.key == key), {"value": value})
        if not changed.rowcount:
            self._session.insert(
                insert(settings),
                {"key": key, "value": value},
                {"key": f"The setting '{key}' was set by somebody else meanwhile."},
            )
