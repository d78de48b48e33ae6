"""The gateway to legal holds: spans of time of which nothing may be removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Row, delete, insert, select

from troth.core.errors import NotFound
from troth.store.columns import store_moment
from troth.store.session import Session
from troth.store.tables import holds

_t = holds.c
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Hold:
    """What happened from `since` to before `until` is kept; without `until` whatever comes, too."""

    name: str
    since: datetime
    until: datetime | None
    reason: str
    placed_by: str
    placed_at: datetime

    def covers_microseconds(self, at: int) -> bool:
        """Whether it keeps what happened at a time, in microseconds since 1970."""
        ends = None if self.until is None else store_moment(self.until)
        return store_moment(self.since) <= at and (ends is None or at < ends)

    def covers_span(self, first: datetime, last: datetime) -> bool:
        """Whether it keeps something between two moments, both included."""
        return self.since <= last and (self.until is None or first < self.until)

    def covers_day(self, day: date) -> bool:
        """Whether it keeps something of a day in UTC, and so all of it."""
        begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return self.since < begin + _DAY and (self.until is None or begin < self.until)


class HoldGateway:
    """Holds by name. There are few, and mostly none."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(self) -> Sequence[Hold]:
        """All of them, by name."""
        return [_read(row) for row in self._session.execute(select(holds).order_by(_t.name))]

    def get(self, name: str) -> Hold:
        """The hold of this name; `NotFound` if there is none."""
        row = self._session.execute(select(holds).where(_t.name == name)).first()
        if row is None:
            raise NotFound(
                f"There is no legal hold {name[:80]!r}; `troth audit hold ls` lists them."
            )
        return _read(row)

    def add(self, hold: Hold) -> None:
        """Place one; `Conflict` if the name is taken."""
        self._session.insert(
            insert(holds), _write(hold), {"name": f"There is a legal hold {hold.name!r} already."}
        )

    def remove(self, name: str) -> None:
        """Release it."""
        self._session.execute(delete(holds).where(_t.name == name))


def _write(hold: Hold) -> dict[str, Any]:
    return {
        "name": hold.name,
        "since": hold.since,
        "until": hold.until,
        "reason": hold.reason,
        "placed_by": hold.placed_by,
        "placed_at": hold.placed_at,
    }


def _read(row: Row[Any]) -> Hold:
    return Hold(row.name, row.since, row.until, row.reason, row.placed_by, row.placed_at)
