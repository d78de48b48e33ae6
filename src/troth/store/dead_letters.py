"""The gateway to dead letters: what a sink's receiver would not take, or what was gone before it
could be sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, select, tuple_, update

from troth.store.session import Session
from troth.store.tables import dead_letters

_t = dead_letters.c


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One event or decision that a sink didn't deliver.

    `source` is ``journal`` or ``decisions/SERVER``, and `position` the place in it. `at` is when it
    was given up. `content` is the event or the decision as it was recorded; empty if it was gone
    from where it was recorded, or was redacted.
    """

    sink: str
    source: str
    position: int
    at: datetime
    reason: str
    content: bytes


class DeadLetterGateway:
    """Dead letters by sink, source and position."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add_all(self, letters: Sequence[DeadLetter]) -> None:
        """Keep these; one that is there already stays as it is."""
        if letters:
            rows = [_write(letter) for letter in letters]
            self._session.execute(self._session.on_conflict_skip(dead_letters, rows))

    def page(self, sink: str, limit: int, after: tuple[str, int] = ("", -1)) -> list[DeadLetter]:
        """Those of a sink behind this source and position, in their order."""
        query = (
            select(dead_letters)
            .where(_t.sink == sink, tuple_(_t.source, _t.position) > tuple_(*after))
            .order_by(_t.source, _t.position)
            .limit(limit)
        )
        return [_read(row) for row in self._session.execute(query)]

    def find(self, sink: str, source: str, position: int) -> DeadLetter | None:
        """One of them, or None."""
        row = self._session.execute(select(dead_letters).where(*_key(sink, source, position)))
        found = row.first()
        return None if found is None else _read(found)

    def remove(self, sink: str, source: str, position: int) -> bool:
        """Forget one: it was delivered, or is to be no more. Whether it was there."""
        done = self._session.execute(delete(dead_letters).where(*_key(sink, source, position)))
        return bool(done.rowcount)

    def count(self) -> dict[str, int]:
        """How many each sink has; a sink without any isn't there."""
        query = select(_t.sink, func.count().label("found")).group_by(_t.sink)
        return {row.sink: row.found for row in self._session.execute(query)}

    def redact(self, source: str, position: int) -> None:
        """Take out what was recorded: from then on it is sent as it lies where it was recorded."""
        self._session.execute(
            update(dead_letters)
            .where(_t.source == source, _t.position == position)
            .values(content=b"")
        )


def _key(sink: str, source: str, position: int) -> tuple[Any, ...]:
    return (_t.sink == sink, _t.source == source, _t.position == position)


def _write(letter: DeadLetter) -> dict[str, Any]:
    return {
        "sink": letter.sink,
        "source": letter.source,
        "position": letter.position,
        "at": letter.at,
        "reason": letter.reason,
        "content": letter.content,
    }


def _read(row: Row[Any]) -> DeadLetter:
    return DeadLetter(row.sink, row.source, row.position, row.at, row.reason, bytes(row.content))
