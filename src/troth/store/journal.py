"""The gateway to the journal: events in the transaction that makes them true, numbered later.

Row ids become visible in the order of commits, not of numbers, as soon as there are several
writers. So nobody reads by row id: the sealer gives each committed row a position, dense and from
1 on, and consumers read sealed positions alone. A database file has one writer: there an event has
its position as it is appended, and is sealed once it is committed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, delete, func, not_, select, update

from troth.audit.entry import StoredEvent
from troth.core.events import Event, SealedEvent
from troth.store.bulk import RangeQuery, RowInsert
from troth.store.columns import store_document, store_moment
from troth.store.session import News, Session
from troth.store.tables import is_sealed, is_waiting, journal

CHANNEL = "troth"
"""Where servers on one database tell each other to look (NOTIFY)."""
SEALED = "sealed"
WAITING = "waiting"

_AFTER_ALL = "\x7f"
"""Sorts after every character that a type may have; text is compared by its bytes everywhere."""

_t = journal.c
# Built once: building and hashing a statement costs more than running it.
_GIVEN = ("type", "version", "subject", "actor", "at", "request_id", "body", "salt")
_APPEND = RowInsert(journal, *_GIVEN)
_APPEND_SEALED = RowInsert(journal, *_GIVEN, counted="position")
_CHUNK = 500  # engines bound how many parameters a statement may have
_COLUMNS = (
    "position",
    "type",
    "version",
    "subject",
    "actor",
    "at",
    "request_id",
    "body",
    "salt",
    "digest",
)
"""As `StoredEvent` has them."""
_STORED = RangeQuery(journal, "position", *_COLUMNS)
_PUT_BACK = RowInsert(journal, *_COLUMNS)
_REDACT = (
    update(journal)
    .where(_t.position == bindparam("wanted"))
    .values(
        subject=bindparam("nobody"),
        actor=bindparam("nobody"),
        body=bindparam("nothing"),
        salt=None,
        digest=bindparam("commitment"),
    )
)
_HEAD = select(func.max(_t.position)).where(is_sealed)
_LAST_WAITING = select(func.max(_t.id)).where(is_waiting)
_first = select(_t.id).where(is_waiting).order_by(_t.id).limit(bindparam("most")).subquery()
_numbered = select(_first.c.id, func.row_number().over(order_by=_first.c.id).label("place"))
_places = _numbered.subquery()
_SEAL = (
    update(journal)
    .where(_t.id == _places.c.id)
    .values(position=bindparam("sealed", type_=_t.position.type) + _places.c.place)
)


class JournalGateway:
    """Append, seal, read what is sealed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def append(self, event: Event) -> None:
        """Record what happens in this transaction; `Internal` in a read."""
        self.append_all([event])

    def append_all(self, events: Sequence[Event], *, patient: bool = False) -> None:
        """Record several events, in their order. If nothing live depends on them, `patient` lets
        them wait a moment for others that are sealed with them."""
        self._session.require_write()
        if events:
            salts = self._session.draw_salts(len(events))
            statement = _APPEND if self._session.shared else _APPEND_SEALED
            self._session.insert_rows(statement, list(map(_write, events, salts)), {})
            news = News.PATIENT if patient else News.URGENT
            self._session.news = max(self._session.news, news)

    def seal(self, limit: int) -> int:
        """Number up to `limit` committed rows in their order; how many there were.

        For the sealer alone, under its lease.
        """
        # One statement numbers them all: a thousand by themselves would be a thousand turns.
        done = self._session.execute(_SEAL, {"most": limit, "sealed": self.head()})
        return done.rowcount

    def notify_sealed(self, holder: str) -> None:
        """Wake the other servers on this database once this is committed; for the sealer alone,
        since NOTIFY makes those who commit at the same time wait for each other."""
        self._session.notify(CHANNEL, f"{SEALED} {holder}")

    def head(self) -> int:
        """The position of the last sealed event; 0 before the first."""
        return self._session.execute(_HEAD).scalar() or 0

    def list_waiting(self, limit: int) -> frozenset[int]:
        """Row ids of the first committed events that aren't sealed yet, at most `limit`.

        What is committed later may have a lower one.
        """
        query = select(_t.id).where(is_waiting).order_by(_t.id).limit(limit)
        return frozenset(self._session.execute(query).scalars())

    def last_waiting(self) -> int:
        """The highest row id of committed events that aren't sealed yet; 0 if there are none."""
        return self._session.execute(_LAST_WAITING).scalar() or 0

    def after(
        self, position: int, limit: int, *, without: Collection[str] = ()
    ) -> list[SealedEvent]:
        """Sealed events after `position`, in order; those of the types in `without` left out."""
        query = select(journal).where(_t.position > position).order_by(_t.position).limit(limit)
        if without:
            query = query.where(_t.type.not_in(without))
        return [_read_sealed(row) for row in self._session.execute(query)]

    def list_stored(self, position: int, limit: int) -> list[StoredEvent]:
        """Sealed events after `position`, in order, as they lie in the database."""
        return list(map(StoredEvent._make, self._session.select_range(_STORED, position, limit)))

    def find_stored(self, position: int) -> StoredEvent | None:
        """The event at that position as it lies in the database, or None."""
        found = self.list_stored(position - 1, 1)
        return found[0] if found and found[0].position == position else None

    def put_back(self, events: Sequence[StoredEvent]) -> None:
        """Store sealed events that the database has lost, with the positions that they had.

        `Conflict` if a position is taken.
        """
        self._session.require_write()
        if events:
            taken = {"position": "The journal has other events at these positions."}
            self._session.insert_rows(_PUT_BACK, events, taken)
            self._session.news = News.URGENT

    def remove_waiting(self, salts: Sequence[bytes]) -> None:
        """Remove events that wait to be sealed and are put back as sealed, told by their salts."""
        for at in range(0, len(salts), _CHUNK):
            some = salts[at : at + _CHUNK]
            self._session.execute(delete(journal).where(is_waiting, _t.salt.in_(some)))

    def trim(
        self, last: int, before: datetime, limit: int, *, keep: Collection[str] = ()
    ) -> tuple[int, int]:
        """Delete sealed events up to position `last` that happened before that moment, at most
        `limit`, but for types that begin with one of `keep`; how many, and the last of them."""
        old = select(_t.position).where(_t.position <= last, _t.position > 0, _t.at < before)
        for prefix in keep:
            old = old.where(not_(_begins(prefix)))
        found = list(self._session.execute(old.order_by(_t.position).limit(limit)).scalars())
        for at in range(0, len(found), _CHUNK):
            some = found[at : at + _CHUNK]
            self._session.execute(delete(journal).where(_t.position.in_(some)))
        return len(found), found[-1] if found else 0

    def redact(self, position: int, digest: bytes) -> None:
        """Take out of a sealed event whom it is about, who did it, and its body; `digest` is what
        the log's leaf holds of them."""
        self._session.execute(
            _REDACT, {"wanted": position, "commitment": digest, "nothing": {}, "nobody": ""}
        )

    def page(
        self,
        *,
        subject: str | None = None,
        type_prefix: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> list[SealedEvent]:
        """Sealed events after a position, in order; of one subject, or of types such as
        ``identity.`` and what begins like it."""
        query = select(journal).where(_t.position > after).order_by(_t.position).limit(limit)
        if subject is not None:
            query = query.where(_t.subject == subject)
            if type_prefix:
                query = query.where(_begins(type_prefix), is_sealed)
        elif type_prefix:
            # A page of each: a rare type stands anywhere in the journal, and an index on types
            # gives those of one alone in their order.
            pages = (query.where(_t.type == one) for one in self._list_types(type_prefix))
            rows = [row for page in pages for row in self._session.execute(page)]
            rows.sort(key=lambda row: row.position)
            return [_read_sealed(row) for row in rows[:limit]]
        return [_read_sealed(row) for row in self._session.execute(query)]

    def _list_types(self, prefix: str) -> list[str]:
        """The types that begin so: some dozens at most, each found by a look at an index."""
        found: list[str] = []
        query = select(func.min(_t.type)).where(_begins(prefix), is_sealed)
        while (one := self._session.execute(query).scalar()) is not None:
            found.append(one)
            query = select(func.min(_t.type)).where(_begins(prefix), is_sealed, _t.type > one)
        return found

    def last_of(self, type_prefix: str) -> int:
        """The position of the last sealed event whose type begins so; 0 if there is none."""
        query = select(func.max(_t.position)).where(_begins(type_prefix), is_sealed)
        return self._session.execute(query).scalar() or 0

    def recent(self, limit: int) -> list[SealedEvent]:
        """The last sealed events, in order: the newest is the last."""
        query = select(journal).where(is_sealed)
        rows = self._session.execute(query.order_by(_t.position.desc()).limit(limit)).all()
        return [_read_sealed(row) for row in reversed(rows)]


def _begins(type_prefix: str) -> ColumnElement[bool]:
    """Whether a type begins so: a range, which an index answers and LIKE on SQLite doesn't."""
    return and_(_t.type >= type_prefix, _t.type < f"{type_prefix}{_AFTER_ALL}")


def _write(event: Event, salt: bytes) -> tuple[Any, ...]:
    return (
        event.type,
        event.version,
        event.subject,
        event.actor,
        store_moment(event.at),
        event.request_id,
        store_document(event.body),
        salt,
    )


def _read_sealed(row: Row[Any]) -> SealedEvent:
    return SealedEvent(row.position, _read(row))


def _read(row: Row[Any]) -> Event:
    return Event(
        type=row.type,
        subject=row.subject,
        actor=row.actor,
        at=row.at,
        request_id=row.request_id,
        body=row.body,
        version=row.version,
    )
