"""Packing: closed segments become Parquet, and so do sealed events.

What is written is read back and compared before it counts: a segment's records with its Merkle
root, so that the segment may be deleted. All of it can be broken off at any moment and done again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from troth.archive import eventrows
from troth.archive.decisionrows import (
    COLUMNS,
    KEPT,
    STAGED,
    Staged,
    read_row,
    stage_entry,
)
from troth.archive.engine import DamagedArchive, Link, locate
from troth.archive.layout import JOURNAL, ArchiveFile, Table, find_day
from troth.archive.parquet import (
    CALLERS,
    LAYOUT,
    Label,
    SegmentPart,
    Selection,
    read_label,
    write_lines,
    write_parquet,
)
from troth.archive.record import count_microseconds, place_microseconds
from troth.archive.segment import RECORD, Damage, DamagedSegment, Footer, Segment
from troth.archive.workshop import Workshop
from troth.audit.entry import StoredEvent
from troth.audit.merkle import Tree, hash_leaf
from troth.core.errors import Internal, NotFound, Refused

FLUSHED = 2_000
"""Records that are held before they are written down."""

# What is put together here are names of columns: values are bound.
_SELECT = f"""
    SELECT {COLUMNS}
    FROM (SELECT *, ? AS server, ?::BIGINT AS segment FROM read_json(?, {STAGED}))
    ORDER BY su, t, segment, i
"""  # noqa: S608 - names of columns
_MOST = f"LIMIT {CALLERS + 1}"
_STAGED_CALLERS = f"""
    SELECT DISTINCT ca FROM read_json(?, {STAGED}) {_MOST}
"""  # noqa: S608 - names of columns, a number of ours
_ENTRIES = f"""
    SELECT {KEPT} FROM read_parquet(?, hive_partitioning = false)
    WHERE unmapped.segment = ? ORDER BY unmapped."index"
"""  # noqa: S608 - names of columns
_EVENTS = f"""
    SELECT {eventrows.COLUMNS} FROM read_json(?, {eventrows.STAGED}) ORDER BY su, t, p
"""  # noqa: S608 - names of columns
_STORED = f"""
    SELECT {eventrows.KEPT} FROM read_parquet(?, hive_partitioning = false)
    ORDER BY metadata."sequence"
"""  # noqa: S608 - names of columns
_COMMITMENTS = """
    SELECT metadata."sequence", metadata.event_code, epoch_us(time_dt), unmapped.commitment
    FROM read_parquet(?, hive_partitioning = false) WHERE metadata."sequence" BETWEEN ? AND ?
"""


@dataclass(frozen=True, slots=True)
class Packed:
    """What became of a segment: the names of its files, in the order of days."""

    server: str
    number: int
    rows: int
    files: tuple[str, ...]


class Packer:
    """Packs in a workshop. Belongs to one thread."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop

    # A segment

    def pack_segment(self, path: Path) -> Packed:
        """Have a closed segment's records in the archive, and know that they are.

        `DamagedSegment` if they don't lead to the root in its footer: then it stays as it is.
        """
        with Segment(path) as segment, self._workshop.engine.connect() as link:
            footer = segment.footer
            if footer is None:
                raise DamagedSegment(f"{path} isn't closed, so it can't be packed.")
            server, number = segment.header.server, segment.header.number
            files = self._find_holding(server, number, footer)
            if files:
                _check_same(link, files, number, footer)
            if not files or not _leads_to(link, locate(files), number, footer):
                files = self._pack(link, segment, footer)
                self._check_current(link, files, footer)
        return Packed(server, number, footer.count, tuple(file.name for file in files))

    def _find_holding(self, server: str, number: int, footer: Footer) -> list[ArchiveFile]:
        """Files that may have this segment already."""
        first, last = find_day(footer.first), find_day(footer.last)
        current, _ = self._workshop.list_current(Table.DECISIONS, server, first, last)
        return [one for one in current if one.first <= number <= one.last]

    def _pack(self, link: Link, segment: Segment, footer: Footer) -> list[ArchiveFile]:
        server, number = segment.header.server, segment.header.number
        made: dict[ArchiveFile, Path] = {}
        labels: dict[ArchiveFile, Label] = {}
        for day, rows in sorted(self._stage(segment, footer).items()):
            file = ArchiveFile(Table.DECISIONS, day, server, number, number)
            lines = self._name_stage(day)
            callers = list_callers(link, _STAGED_CALLERS, [str(lines)])
            labels[file] = Label(LAYOUT, rows, (_describe_part(number, footer, rows),), callers)
            made[file] = self._workshop.work / f"decisions-{day}.parquet"
            selected = Selection(Table.DECISIONS, _SELECT, [server, number, str(lines)])
            write_parquet(link, selected, made[file], labels[file])
            lines.unlink()
        if not _leads_to(link, [str(path) for path in made.values()], number, footer):
            raise Internal(f"{segment.path} doesn't come back from Parquet as it was.")
        for file, local in made.items():
            self._workshop.deliver(link, local, file, labels[file])
        return list(made)

    def _check_current(self, link: Link, made: Sequence[ArchiveFile], footer: Footer) -> None:
        """`Refused` if what was made doesn't count since other files replace it, and those haven't
        got the segment."""
        held = self._find_holding(made[0].writer, made[0].first, footer)
        if set(made) <= set(held) or _leads_to(link, locate(held), made[0].first, footer):
            return
        wider = ", ".join(sorted(one.name for one in set(held) - set(made)))
        raise Refused(
            f"Segment {made[0].first} can't be packed: {wider} was put together without it, and "
            "would count instead. Its file stays and is searched as it is. Restore the archive and "
            "DATA/decisions from one backup."
        )

    def _stage(self, segment: Segment, footer: Footer) -> dict[date, int]:
        """Write the records down as lines, a file a day; how many each has."""
        tree = Tree()
        counts: dict[date, int] = defaultdict(int)
        held: dict[date, list[Staged]] = defaultdict(list)

        def flush() -> None:
            for day, rows in held.items():
                write_lines(self._name_stage(day), rows, more=day in counts)
                counts[day] += len(rows)
            held.clear()

        otherwise = count_microseconds(footer.first)
        for found in segment.walk():
            if isinstance(found, Damage) or found.kind != RECORD:
                continue
            row = stage_entry(tree.size, found.payload, otherwise)
            tree.add(hash_leaf(found.payload))
            held[find_day(place_microseconds(row.t))].append(row)
            if tree.size % FLUSHED == 0:
                flush()
        flush()
        if tree.size != footer.count or tree.root != footer.root:
            raise DamagedSegment(
                f"{segment.path} is damaged: its records don't lead to the root in its footer. "
                "Restore it from a backup; until then it isn't packed, and what can be read of it "
                "is searched as it is."
            )
        return counts

    def _name_stage(self, day: date) -> Path:
        return self._workshop.work / f"decisions-{day}.ndjson"

    # Events

    def pack_events(self, events: Sequence[StoredEvent]) -> list[ArchiveFile]:
        """Have sealed events that follow each other in the archive, and know that they are; the
        files that were made.

        The same ones again, or more behind them, are no error: what a file has already isn't
        written once more. `Refused` if it has other events at their positions.
        """
        days: dict[date, list[StoredEvent]] = defaultdict(list)
        for event in events:
            days[find_day(place_microseconds(event.at))].append(eventrows.strip_event(event))
        made = []
        with self._workshop.engine.connect() as link:
            for day, some in sorted(days.items()):
                held, _ = self._workshop.list_current(Table.EVENTS, JOURNAL, day, day)
                left = find_uncovered(held, events[0].position, events[-1].position)
                _check_held(link, held, [one for one in some if one.position not in left])
                new = [one for one in some if one.position in left]
                if new:
                    file = ArchiveFile(Table.EVENTS, day, JOURNAL, left[0], left[-1])
                    self._write_events(link, file, new)
                    made.append(file)
        return made

    def _write_events(self, link: Link, file: ArchiveFile, events: Sequence[StoredEvent]) -> None:
        lines = self._workshop.work / f"events-{file.day}.ndjson"
        local = self._workshop.work / f"events-{file.day}.parquet"
        write_lines(lines, map(eventrows.stage_event, events))
        label = Label(LAYOUT, len(events))
        write_parquet(link, Selection(Table.EVENTS, _EVENTS, [str(lines)]), local, label)
        lines.unlink()
        _compare_events(link, local, events)
        self._workshop.deliver(link, local, file, label)


def find_uncovered(held: Sequence[ArchiveFile], first: int, last: int) -> range:
    """The positions of a batch that its file on a day is to have: those at either end that one of
    the day's files reaches over are there already. A file within the batch is replaced."""
    for file in sorted(held):
        if file.first <= first <= file.last:
            first = file.last + 1
    for file in sorted(held, reverse=True):
        if file.first <= last <= file.last:
            last = file.first - 1
    return range(first, last + 1)


def list_callers(link: Link, select: str, values: Sequence[object]) -> tuple[str, ...] | None:
    """Who asked, unless they are too many."""
    found = link.run(select, values)
    return None if len(found) > CALLERS else tuple(sorted(row[0] for row in found))


def _describe_part(number: int, footer: Footer, rows: int) -> SegmentPart:
    return SegmentPart(
        number,
        footer.count,
        footer.root.hex(),
        rows,
        footer.first,
        footer.last,
        footer.closed_at,
    )


def _check_same(link: Link, files: Sequence[ArchiveFile], number: int, footer: Footer) -> None:
    """`Refused` if what the archive has under a segment's number is of another one: then a database
    and a folder were restored that don't belong together, and nothing may be overwritten."""
    for file in files:
        for part in read_label(link, file).segments:
            if part.number == number and part.root != footer.root.hex():
                raise Refused(
                    f"The archive has another segment {number} of this server already, in "
                    f"{file.name}. Restore the database and DATA/decisions from one backup."
                )


def _leads_to(link: Link, names: Sequence[str], number: int, footer: Footer) -> bool:
    """Whether the records that these files have of a segment lead to its root."""
    tree = Tree()
    try:
        for row in link.stream(_ENTRIES, [list(names), number]):
            entry = read_row(row)
            if entry.index != tree.size:
                return False
            tree.add(hash_leaf(entry.data))
    except (DamagedArchive, NotFound):
        return False
    return tree.size == footer.count and tree.root == footer.root


def _check_held(link: Link, held: Sequence[ArchiveFile], events: Sequence[StoredEvent]) -> None:
    """`Refused` unless these events are in the files: then a database and an archive don't belong
    together, and neither may make the other's events disappear."""
    if not events:
        return
    values = [locate(held), events[0].position, events[-1].position]
    there = set(link.run(_COMMITMENTS, values))
    for event in events:
        if (event.position, event.type, event.at, event.digest) not in there:
            raise Refused(
                f"The archive has another event {event.position}, or none, among those of "
                f"{held[0].day}. Restore the database and the archive from one backup, or move "
                "that day's events away from the archive."
            )


def _compare_events(link: Link, local: Path, events: Sequence[StoredEvent]) -> None:
    """`Internal` unless the file holds these events."""
    rows = link.stream(_STORED, [[str(local)]])
    for row, event in zip(rows, events, strict=True):
        if eventrows.read_row(row) != event:
            raise Internal(f"Event {event.position} doesn't come back from Parquet as it was.")
