"""What an archive holds, computed again from its rows: the Merkle roots of segments, and all else
that is told of them.

For who verifies: what the files say of themselves is what they are looked for by, not what counts.
The entry that a row gives back leads to the root; everything else in the row, in the label and in
the files beside it must be what this version writes of that entry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from troth.archive import eventrows
from troth.archive.decisionrows import (
    COLUMNS,
    KEPT,
    STAGED,
    TOUCHED_BY_MONTH,
    Staged,
    read_row,
    stage_entry,
)
from troth.archive.depot import FolderDepot
from troth.archive.engine import Bounds, Engine, Link, locate
from troth.archive.layout import (
    COMPANIONS,
    ArchiveFile,
    Table,
    begin_day,
    choose_current,
    find_day,
    find_month,
)
from troth.archive.packing import FLUSHED, list_callers
from troth.archive.parquet import CALLERS, Label, write_lines
from troth.archive.reading import Damages, Labels, Reader
from troth.archive.record import count_microseconds, place_microseconds
from troth.archive.workshop import SAYING
from troth.audit.entry import StoredEvent
from troth.audit.merkle import Tree, hash_leaf
from troth.core.errors import Invalid, NotFound

PATIENT = Bounds(memory=1 << 30, seconds=3600.0)
"""All of a segment is read at once, and sorted."""
DAY = 86_400_000_000
"""Microseconds."""
NAMED = 5
"""Records that are named of those that are wrong."""

# What is put together in these statements are names of columns and statements of ours: whatever
# comes from a file or from outside is bound.
_ROWS = "FROM read_parquet(?, hive_partitioning = false)"
_OF_SEGMENT = f"{_ROWS} WHERE unmapped.server = ? AND unmapped.segment = ?"
_SEGMENT = f'SELECT {KEPT} {_OF_SEGMENT} ORDER BY unmapped."index"'
_WRITTEN = f"""
    SELECT {COLUMNS}
    FROM (SELECT *, ? AS server, ?::BIGINT AS segment FROM read_json(?, {STAGED}))
"""  # noqa: S608 - names of columns
_OTHERWISE = f"""
    SELECT unmapped."index" FROM (SELECT * {_OF_SEGMENT} EXCEPT ALL {_WRITTEN})
    ORDER BY 1 LIMIT {NAMED}
"""  # noqa: S608 - statements of ours
_PARTS = f"""
    SELECT unmapped.server, unmapped.segment, count(*),
        count(*) FILTER (WHERE epoch_us(time_dt) NOT BETWEEN ? AND ?)
    {_ROWS} GROUP BY ALL ORDER BY ALL
"""
_CALLERS = f"SELECT DISTINCT api.service.uid {_ROWS} LIMIT {CALLERS + 1}"
_EVENTS = f'SELECT {eventrows.KEPT} {_ROWS} ORDER BY metadata."sequence"'
_EVENTS_WRITTEN = f"""
    SELECT {eventrows.COLUMNS} FROM read_json(?, {eventrows.STAGED})
"""  # noqa: S608 - names of columns
_EVENTS_OTHERWISE = f"""
    SELECT metadata."sequence" FROM (SELECT * {_ROWS} EXCEPT ALL {_EVENTS_WRITTEN})
    ORDER BY 1 LIMIT {NAMED}
"""  # noqa: S608 - statements of ours
_NO_EVENT = StoredEvent(0, "none", 0, "", "", 0, "", "{}", None, b"")
_DIFFERENT = """
    SELECT 1 WHERE EXISTS (({made}) EXCEPT ALL SELECT * {rows})
        OR EXISTS (SELECT * {rows} EXCEPT ALL ({made}))
"""
_COLUMNS = f"DESCRIBE SELECT * {_ROWS}"


class MissingRecords(Invalid):
    """Records of a segment aren't there."""


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file of decisions that counts, and what it says about itself."""

    file: ArchiveFile
    label: Label


@dataclass(frozen=True, slots=True)
class HeldSegment:
    """A segment that the archive has something of, in these files."""

    server: str
    number: int
    files: tuple[HeldFile, ...]


class RootReader:
    """An archive in a folder, read by one thread. Close it after use."""

    def __init__(self, folder: Path) -> None:
        """`NotFound` if there is no such folder."""
        if not folder.is_dir():
            raise NotFound(f"There is no folder {folder}.")
        self._depot = FolderDepot(folder)
        self._work = TemporaryDirectory(prefix="troth-")
        work = Path(self._work.name)
        self._lines = work / "lines.ndjson"
        self._engine = Engine(self._depot, replace(PATIENT, spill=work), work)

    def close(self) -> None:
        """Give back what it holds."""
        self._engine.close()
        self._work.cleanup()

    def list_files(self, damages: Damages, table: Table = Table.DECISIONS) -> list[HeldFile]:
        """The files of decisions or events, in order; those that can't be read are told to
        `damages`."""
        written = self._write_example(table)
        held = self._depot.list_files(table, date.min, date.max)
        files, _ = choose_current(file for file, _ in held)
        with self._engine.connect() as link:
            reader = Reader(link, damages)
            labels = Labels().read(reader, files)
            known = link.run(*written)
            for file in list(labels):
                if reader.read([file], _COLUMNS) != known and file not in reader.without:
                    damages.add(f"{file.name} has other columns than this version of troth writes.")
                    del labels[file]
        return [HeldFile(file, labels[file]) for file in files if file in labels]

    def list_segments(self, files: Iterable[HeldFile]) -> Iterator[HeldSegment]:
        """What there is, in order."""
        holding: dict[tuple[str, int], list[HeldFile]] = defaultdict(list)
        for held in files:
            for part in held.label.segments:
                holding[held.file.writer, part.number].append(held)
        for (server, number), some in sorted(holding.items(), key=lambda one: one[0]):
            yield HeldSegment(server, number, tuple(some))

    def _write_example(self, table: Table) -> tuple[str, list[object]]:
        """A statement that tells a table's columns, and what is bound in it."""
        if table is Table.EVENTS:
            write_lines(self._lines, [eventrows.stage_event(_NO_EVENT)])
            return f"DESCRIBE {_EVENTS_WRITTEN}", [str(self._lines)]
        write_lines(self._lines, [stage_entry(0, b"", 0)])
        return f"DESCRIBE {_WRITTEN}", ["", 0, str(self._lines)]

    # Segments

    def compute_root(self, held: HeldSegment) -> tuple[bytes, int]:
        """The root over a segment's records, and how many there are.

        `DamagedArchive` names files that aren't any more what was written, `MissingRecords` says
        that some aren't there, `Invalid` what else isn't in order: a row that says something else
        than its record. Holds a few records at a time, and has all as lines on the disk.
        """
        names, tree = locate(one.file for one in held.files), Tree()
        parts = [
            part for one in held.files for part in one.label.segments if part.number == held.number
        ]
        otherwise = min(count_microseconds(part.first) for part in parts)
        lines: list[Staged] = []
        self._lines.unlink(missing_ok=True)
        with self._engine.connect() as link:
            for row in link.stream(_SEGMENT, [names, held.server, held.number]):
                entry = read_row(row)
                if entry.index != tree.size:
                    raise _explain_gap(held, entry.index, tree.size)
                tree.add(hash_leaf(entry.data))
                lines.append(stage_entry(entry.index, entry.data, otherwise))
                if len(lines) == FLUSHED:
                    write_lines(self._lines, lines, more=True)
                    lines.clear()
            if tree.size < max(part.count for part in parts):
                raise _explain_gap(held, tree.size + 1, tree.size)
            write_lines(self._lines, lines, more=True)
            self._compare_rows(link, held, names)
        return tree.root, tree.size

    def _compare_rows(self, link: Link, held: HeldSegment, names: Sequence[str]) -> None:
        place = [held.server, held.number]
        found = link.run(_OTHERWISE, [names, *place, *place, str(self._lines)])
        if found:
            raise Invalid(
                f"Rows of segment {held.number} of server {held.server} say something else than "
                f"their records: {', '.join(str(index) for (index,) in found)}"
                f"{', …' if len(found) == NAMED else ''}. A search finds what isn't so."
            )

    # Events

    def read_events(self, held: HeldFile) -> Iterator[StoredEvent]:
        """A file's events by their positions, as `eventrows.read_row` gives them.

        At its end `Invalid`, if the file says something else than they do.
        """
        names, file, rows = locate([held.file]), held.file, 0
        lines: list[eventrows.Staged] = []
        self._lines.unlink(missing_ok=True)
        with self._engine.connect() as link:
            for row in link.stream(_EVENTS, [names]):
                rows += 1
                if None in row[:8] or not row[1]:
                    raise Invalid(f"Event {row[0]} has no content.")
                event = eventrows.read_row(row)
                if find_day(place_microseconds(event.at)) != file.day:
                    raise Invalid(f"Event {event.position} isn't of that day.")
                lines.append(eventrows.stage_event(event))
                if len(lines) == FLUSHED:
                    write_lines(self._lines, lines, more=True)
                    lines.clear()
                yield event
            write_lines(self._lines, lines, more=True)
            found = link.run(_EVENTS_OTHERWISE, [names, str(self._lines)]) if rows else []
        if found:
            told = ", ".join(str(position) for (position,) in found)
            raise Invalid(f"Rows say something else than their events: {told}.")
        if rows != held.label.rows:
            raise Invalid(f"It has {rows} events and says that it has {held.label.rows}.")

    # Files

    def check_file(self, held: HeldFile) -> Iterator[tuple[str, str]]:
        """What isn't in order with a file and those beside it, each with the file's name.

        `DamagedArchive` as above.
        """
        file, label = held.file, held.label
        name = locate([file])
        with self._engine.connect() as link:
            parts = [(file.writer, part.number, part.rows) for part in label.segments]
            begin = count_microseconds(begin_day(file.day))
            found = link.run(_PARTS, [begin, begin + DAY - 1, name])
            if [row[:3] for row in found] != sorted(parts) or label.rows != sum(
                row[2] for row in found
            ):
                yield file.name, "It has rows of other segments than it says, or more or fewer."
            if any(row[3] for row in found):
                yield file.name, "It has rows of another day."
            if label.callers != list_callers(link, _CALLERS, [name]):
                yield file.name, "It names other callers than its rows have: a search misses some."
            there = {one for one, _ in self._list_beside(file)}
            for table in COMPANIONS:
                beside = file.beside(table)
                if beside in there and _differs(link, SAYING[table], name, locate([beside])):
                    yield beside.name, "It says something else than the decisions it stands beside."

    def check_months(self, files: Sequence[HeldFile]) -> Iterator[tuple[str, str]]:
        """The same of what is counted by month, where a search believes it."""
        held = self._depot.list_files(Table.MONTHS, date.min, date.max)
        months, _ = choose_current(file for file, _ in held)
        damages = Damages()
        with self._engine.connect() as link:
            labels = Labels().read(Reader(link, damages), months)
            for month, label in labels.items():
                of_month = [
                    one.file
                    for one in files
                    if (one.file.writer, find_month(one.file.day)) == (month.writer, month.day)
                ]
                if label.files != tuple(file.name for file in of_month):
                    continue  # a search leaves it aside
                touched = locate(file.beside(Table.TOUCHED) for file in of_month)
                if _differs(link, TOUCHED_BY_MONTH, touched, locate([month])):
                    yield month.name, "It says something else than the days that it counts."
        for words in damages.tell():
            yield Table.MONTHS.value, words

    def _list_beside(self, file: ArchiveFile) -> list[tuple[ArchiveFile, int]]:
        return [
            one for table in COMPANIONS for one in self._depot.list_files(table, file.day, file.day)
        ]


def _differs(link: Link, sql: str, names: Sequence[str], beside: Sequence[str]) -> bool:
    """Whether a file holds other rows than a statement makes of others."""
    compared = _DIFFERENT.format(made=sql, rows=_ROWS)
    return bool(link.run(compared, [names, beside, beside, names]))


def _explain_gap(held: HeldSegment, found: int, wanted: int) -> Invalid:
    where = f"of segment {held.number} of server {held.server}"
    if found > wanted:
        return MissingRecords(f"Record {wanted} {where} is missing.")
    return Invalid(f"Record {found} {where} is there twice.")
