"""Decisions read on from a place that was remembered, however long ago, packed segments among them.

A place is one number, so that it can be kept as a cursor: the segment's, and how many of its
records are done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from troth.archive.log import DecisionLog
from troth.archive.segment import (
    HEADER_SIZE,
    PACKED,
    RECORD,
    Damage,
    DamagedSegment,
    Segment,
    list_packed,
    list_segments,
)
from troth.archive.unpacked import describe_damage

_SHIFT = 26
"""More records than that many bits count don't fit into a segment."""
_MASK = (1 << _SHIFT) - 1


def make_place(segment: int, done: int) -> int:
    """The place behind the first `done` records of a segment."""
    return segment << _SHIFT | done


def split_place(place: int) -> tuple[int, int]:
    """The segment, and how many of its records are done."""
    return place >> _SHIFT, place & _MASK


@dataclass(frozen=True, slots=True)
class Resumed:
    """A record's bytes and the place behind it; or what is damaged there, in words."""

    place: int
    entry: bytes
    damage: str = ""


class DecisionReader:
    """Reads one log on from places. Belongs to one thread at a time; reads files, not for the event
    loop."""

    def __init__(self, decisions: DecisionLog) -> None:
        self._decisions = decisions
        self._known = (0, 0)
        """A place, and the offset in its segment: so that a segment isn't walked again from its
        beginning for each batch of it."""

    def list_numbers(self) -> list[int]:
        """The segments that are there, in their order."""
        return [number for number, _ in self._list_files()]

    def find_end(self) -> int:
        """The place behind all that is durable now."""
        place = 0
        edge = self._decisions.edge
        for number, path in self._list_files()[-1:]:
            place = make_place(number, 0)
            end = edge.durable if number == edge.number else None
            for found in self._walk(number, path, place, end):
                place = found.place
        return place

    def read(self, place: int, most: int, most_bytes: int) -> tuple[list[Resumed], int]:
        """What comes after a place, about so much; and the place to go on from, which is the same
        if there is nothing yet."""
        segment, _ = split_place(place)
        edge = self._decisions.edge
        found: list[Resumed] = []
        size = 0
        for number, path in self._list_files():
            if number < segment:
                continue
            if number > segment:
                place = make_place(number, 0)
            end = edge.durable if number == edge.number else None
            if end is None and number > edge.last:
                break  # opened since: the next look knows how far it goes
            for one in self._walk(number, path, place, end):
                if len(found) >= most or size >= most_bytes:
                    return found, place
                found.append(one)
                size += len(one.entry)
                place = one.place
        return found, place

    def _list_files(self) -> list[tuple[int, Path]]:
        folder = self._decisions.folder
        # Packed ones last: what is packed in between is listed twice rather than not at all.
        return sorted({**dict(list_segments(folder)), **dict(list_packed(folder))}.items())

    def _walk(self, number: int, path: Path, place: int, end: int | None) -> Iterator[Resumed]:
        """The rest of one segment."""
        _, done = split_place(place)
        known, offset = self._known
        at, skip = (offset, 0) if known == place and done else (HEADER_SIZE, done)
        count = done - skip
        try:
            with _open(path) as segment:
                for found in segment.walk(end, at):
                    if isinstance(found, Damage):
                        if count >= done:
                            words = describe_damage(path, found)
                            yield Resumed(make_place(number, count), b"", words)
                    elif found.kind == RECORD:
                        count += 1
                        if count > done:
                            self._known = (make_place(number, count), found.end)
                            yield Resumed(make_place(number, count), found.payload)
        except FileNotFoundError:
            return  # removed
        except DamagedSegment as error:
            yield Resumed(make_place(number, count), b"", error.detail)


def _open(path: Path) -> Segment:
    """The segment, also if it was packed since it was listed."""
    try:
        return Segment(path)
    except FileNotFoundError:
        if path.name.endswith(PACKED):
            raise
        return Segment(path.with_name(path.name + PACKED))
