"""What a verified log tells of each event, as hashes, for whoever holds an archive against it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from troth.audit.entry import SALT_SIZE, Leaf, find_outcome, render_detail, render_moment
from troth.core.errors import Invalid

if TYPE_CHECKING:
    from troth.audit.entry import StoredEvent

SPARE = 1 << 20
"""Entries beyond twice those that were told for which there is room: what lies between wasn't
readable. So a log that says strange things of its places costs no more than others."""
HASH = 32
_NONE = bytes(HASH)


@dataclass(slots=True)
class ToldEvents:
    """64 bytes and a day for each event up to the last that was told."""

    told: int = 0
    _days: array[int] = field(default_factory=lambda: array("i"))
    _entries: bytearray = field(default_factory=bytearray)
    _details: bytearray = field(default_factory=bytearray)

    def notice(self, leaf: Leaf, beside: bytes) -> None:
        """Take in an entry of the log that was verified, with what lies beside it."""
        missing = leaf.position - 1 - len(self._days)
        self.told += 1
        if missing < 0 or leaf.position > 2 * self.told + SPARE:
            return
        try:
            day = date.fromisoformat(leaf.at[:10]).toordinal()
        except ValueError:
            return
        self._days.extend([0] * missing)
        self._days.append(day)
        self._entries += bytes(HASH * missing) + _hash_leaf(leaf)
        detail = sha256(beside[SALT_SIZE:]).digest() if beside else _NONE
        self._details += bytes(HASH * missing) + detail

    def compare(self, event: StoredEvent) -> bool:
        """Whether it could be seen who did what to whom: the log shows it, and so does the archive.

        `Invalid` if the event isn't the log's, or the log doesn't tell of it.
        """
        at = event.position - 1
        if not 0 <= at < len(self._days) or not self._days[at]:
            raise Invalid(f"The log doesn't tell of event {event.position}.")
        leaf = Leaf(
            at=render_moment(event.at),
            detail=(event.digest or b"").hex(),
            outcome=find_outcome(event.type),
            position=event.position,
            request_id=event.request_id,
            type=event.type,
            version=event.version,
        )
        if _cut(self._entries, at) != _hash_leaf(leaf):
            raise Invalid(f"Event {event.position} isn't the one that the log has there.")
        detail = _cut(self._details, at)
        if event.salt is None or detail == _NONE:
            return False
        if detail != sha256(render_detail(event)).digest():
            raise Invalid(f"Event {event.position} doesn't say what the log commits to.")
        return True

    def list_of(self, day: date, first: int, last: int) -> Iterator[int]:
        """The positions of a day's events, from `first` to `last`."""
        wanted = day.toordinal()
        for at in range(max(first - 1, 0), min(last, len(self._days))):
            if self._days[at] == wanted:
                yield at + 1

    def count_missing(self, held: Iterable[range]) -> int:
        """How many events are in none of these ranges."""
        found = sum(1 for day in self._days if day)
        place = 0
        for one in sorted(held, key=lambda one: one.start):
            span = range(max(place, one.start - 1), min(one.stop - 1, len(self._days)))
            found -= sum(1 for at in span if self._days[at])
            place = max(place, one.stop - 1)
        return found


def _hash_leaf(leaf: Leaf) -> bytes:
    return sha256(msgspec.json.encode(leaf)).digest()


def _cut(hashes: bytearray, at: int) -> bytes:
    return bytes(hashes[at * HASH : (at + 1) * HASH])
