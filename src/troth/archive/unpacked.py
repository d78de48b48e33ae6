"""What a server's decision log holds that the archive hasn't got yet: open and closed segments.

Who reads both lists these first and leaves out of the archive what is among them: then nothing is
missed and nothing there twice, whatever is packed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from troth.archive.record import DecisionRecord, decode_record
from troth.archive.segment import (
    PACKED,
    RECORD,
    Damage,
    DamagedSegment,
    Frame,
    Segment,
    list_segments,
    name_segment,
)
from troth.core.errors import Invalid

Words = Sequence[Sequence[bytes]]
"""Of each group at least one must stand in an entry: looking for them costs less than decoding."""


class Spotted(NamedTuple):
    """A record, and where it lies: the segment's number, and which it is there, from 0 on."""

    segment: int
    nth: int
    record: DecisionRecord


class Unpacked:
    """The segments in a log's folder that aren't packed. `edge` tells the number of the open one
    and where it is durable."""

    def __init__(self, folder: Path, edge: Callable[[], tuple[int, int]]) -> None:
        self._folder = folder
        self._edge = edge

    def list_numbers(self) -> list[int]:
        """Their numbers, in their order."""
        return [number for number, _ in list_segments(self._folder)]

    def scan(
        self,
        numbers: Iterable[int],
        since: datetime,
        until: datetime,
        words: Words = (),
        *,
        on_damage: Callable[[str], None],
    ) -> Iterator[Spotted]:
        """Records of these segments from `since` to before `until` in which the words stand.

        Also of one that is packed meanwhile. What is damaged is told in words and left out.
        """
        for number in numbers:
            try:
                yield from self._scan(number, since, until, words, on_damage)
            except FileNotFoundError:
                continue  # removed: with what was too old, or long after it was packed
            except DamagedSegment as error:
                on_damage(error.detail)

    def _scan(
        self,
        number: int,
        since: datetime,
        until: datetime,
        words: Words,
        on_damage: Callable[[str], None],
    ) -> Iterator[Spotted]:
        open_number, durable = self._edge()
        end = durable if number == open_number else None
        with self._open(number) as segment:
            footer = segment.footer
            if end is None and footer and not (footer.first < until and footer.last >= since):
                return
            if not all(any(segment.contains(word, end) for word in group) for group in words):
                return
            index = -1
            for found in segment.walk(end):
                if isinstance(found, Damage):
                    on_damage(describe_damage(segment.path, found))
                elif found.kind == RECORD:
                    index += 1
                    record = _pick(found, words, on_damage)
                    if record is not None and since <= record.at < until:
                        yield Spotted(number, index, record)

    def _open(self, number: int) -> Segment:
        path = self._folder / name_segment(number)
        try:
            return Segment(path)
        except FileNotFoundError:
            return Segment(path.with_name(path.name + PACKED))


def _pick(found: Frame, words: Words, on_damage: Callable[[str], None]) -> DecisionRecord | None:
    entry = found.payload
    if not all(any(word in entry for word in group) for group in words):
        return None
    try:
        return decode_record(entry)
    except Invalid as error:
        on_damage(error.detail)
        return None


def describe_damage(path: Path, damage: Damage) -> str:
    """Where a file is damaged, and what to do."""
    return (
        f"{path} is damaged from byte {damage.start} to {damage.end}: what was recorded there is "
        "lost. Restore the file from a backup, and look at the disk."
    )
