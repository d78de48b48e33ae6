"""The gateway that looks for sealed events: by who, what, and because of which request.

No index is about times, actors or requests: one would make every event dearer to record, for
questions that are asked rarely. So events are looked for in ranges of positions, the newest first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import starmap
from typing import Any

import sqlalchemy
from sqlalchemy import BigInteger, ColumnElement, and_, func, or_, select, type_coerce

from troth.audit.entry import FAILURE_WORDS, StoredEvent
from troth.audit.found import TASKS
from troth.audit.query import Query
from troth.store.columns import store_document, store_moment
from troth.store.session import Session
from troth.store.tables import is_sealed, journal

_t = journal.c
_AFTER_ALL = "\x7f"
_at = type_coerce(_t.at, BigInteger)
_body = type_coerce(_t.body, sqlalchemy.Text)
_COLUMNS = (
    _t.position,
    _t.type,
    _t.version,
    _t.subject,
    _t.actor,
    _at.label("at"),
    _t.request_id,
    _body.label("body"),
    _t.salt,
    _t.digest,
)
"""As `StoredEvent` has them."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What the times of some events are, in microseconds since 1970: the earliest, the latest, and
    how far one is behind the latest before it."""

    earliest: int
    latest: int
    setback: int


class EventSearchGateway:
    """Reads ranges of positions: ``low`` isn't in the range, ``high`` is."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find_bounds(self) -> tuple[int, int]:
        """The position before the first sealed event here, and that of the last; twice 0 if there
        are none."""
        first = self._session.execute(select(func.min(_t.position)).where(is_sealed)).scalar()
        last = self._session.execute(select(func.max(_t.position)).where(is_sealed)).scalar()
        return (0, 0) if first is None or last is None else (first - 1, last)

    def measure(self, low: int, high: int) -> Stretch | None:
        """The times in the range; None if nothing is there."""
        latest = func.max(_at).over(order_by=_t.position)
        rows = select(_at.label("at"), latest.label("latest")).where(*_range(low, high)).subquery()
        setback = rows.c.latest - rows.c.at
        found: Any = self._session.execute(
            select(func.min(rows.c.at), func.max(rows.c.at), func.max(setback))
        ).one()
        return None if found[0] is None else Stretch(*found)

    def find_time(self, position: int) -> int | None:
        """When the event at that position was, in microseconds since 1970; None if it isn't here.
        ``position`` is one that `find_bounds` spans."""
        return self._session.execute(select(_at).where(_t.position == position)).scalar()

    def page(
        self, query: Query, low: int, high: int, limit: int, *, needle: str = ""
    ) -> list[StoredEvent]:
        """Events in the range that may fit, the newest first, at most `limit`.

        What fits is among them: the caller looks again (`troth.audit.query.fits`). With a `needle`
        only those whose body has it as it is written there.
        """
        wanted = [*_range(low, high), *_narrow(query)]
        if needle:
            wanted.append(_body.contains(needle, autoescape=True))
        rows: Any = self._session.execute(
            select(*_COLUMNS).where(*wanted).order_by(_t.position.desc()).limit(limit)
        )
        return list(starmap(StoredEvent, rows))


def _range(low: int, high: int) -> tuple[ColumnElement[bool], ...]:
    return (_t.position > low, _t.position <= high)


def _narrow(query: Query) -> Iterator[ColumnElement[bool]]:
    """What the database can say of a query without reading bodies as JSON."""
    yield _at >= store_moment(query.since)
    yield _at < store_moment(query.until)
    if query.identity:
        yield or_(_t.subject == query.identity, _t.actor == query.identity)
    if query.action.endswith("."):
        yield and_(_t.type >= query.action, _t.type < f"{query.action}{_AFTER_ALL}")
    elif query.action:
        yield _t.type == query.action
    if query.request_id:
        yield _t.request_id == query.request_id
    if query.resource:
        yield _holds("resource", query.resource)
    if query.task:
        yield or_(*(_holds(name, query.task) for name in TASKS))
    if query.outcome == "failure":
        yield or_(*(_t.type.endswith(word) for word in sorted(FAILURE_WORDS)))


def _holds(name: str, value: str) -> ColumnElement[bool]:
    """Whether a body has that member, wherever: keys are sorted, and no space is between them."""
    text = f"{store_document(name)}:{store_document(value)}"
    return _body.contains(text, autoescape=True)
