"""Decisions as they are recorded: read from the files, so that recording them costs no more."""

from __future__ import annotations

from contextlib import suppress

from troth.archive.log import DecisionLog
from troth.archive.record import DecisionRecord, decode_record
from troth.archive.segment import (
    HEADER_SIZE,
    RECORD,
    DamagedSegment,
    Frame,
    Segment,
    list_segments,
)
from troth.core.errors import Invalid


class DecisionFollower:
    """Reads what one log gets from now on, in the order in which it is written.

    Belongs to one reader. What is damaged is passed over; what is removed before it is read is
    missed.
    """

    def __init__(self, decisions: DecisionLog) -> None:
        self._decisions = decisions
        self._seen = edge = decisions.edge
        self._number = edge.number or edge.last + 1
        self._offset = edge.durable if edge.number else HEADER_SIZE

    @property
    def is_behind(self) -> bool:
        """Whether there may be something to read; looking costs nothing."""
        return self._decisions.edge != self._seen

    def read(self, most: int) -> list[DecisionRecord]:
        """The next ones, at most so many; reads files, not for the event loop."""
        edge = self._decisions.edge
        found: list[DecisionRecord] = []
        for number, path in list_segments(self._decisions.folder):
            if number < self._number:
                continue
            if number > self._number:
                self._number, self._offset = number, HEADER_SIZE
            try:
                with Segment(path) as segment:
                    end = edge.durable if number == edge.number else None
                    if end is None and number > edge.last:
                        break  # opened since: the next look knows how far it goes
                    whole = self._read_segment(segment, end, most, found)
            except (FileNotFoundError, DamagedSegment):
                continue
            if not whole:
                return found
        self._seen = edge
        return found

    def _read_segment(
        self, segment: Segment, end: int | None, most: int, found: list[DecisionRecord]
    ) -> bool:
        """Whether all of it was read."""
        for one in segment.walk(end, self._offset):
            if isinstance(one, Frame) and one.kind == RECORD:
                if len(found) >= most:
                    return False
                with suppress(Invalid):  # of a later version, perhaps
                    found.append(decode_record(one.payload))
            self._offset = one.end
        return True
