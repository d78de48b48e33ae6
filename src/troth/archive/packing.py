"""Packing: closed segments become Parquet, and the pieces of a day that is over one file.

What is written is read back and compared before it counts: a segment's records with its Merkle
root, so that the segment may be deleted; and a day's file with its pieces. All of it can be broken
off at any moment and done again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import msgspec

from troth.archive.decisionrows import (
    COLUMNS,
    KEPT,
    ORDER,
    STAGED,
    TOUCHED,
    Staged,
    read_row,
    stage_entry,
    write_staged,
)
from troth.archive.depot import Depot
from troth.archive.engine import DamagedArchive, Engine, Link, locate
from troth.archive.layout import ArchiveFile, Table, choose_current, find_day
from troth.archive.parquet import (
    CALLERS,
    LAYOUT,
    Label,
    SegmentPart,
    check_whole,
    read_label,
    write_parquet,
)
from troth.archive.record import count_microseconds, place_microseconds
from troth.archive.segment import RECORD, Damage, DamagedSegment, Footer, Segment
from troth.archive.sums import DamagedFile
from troth.audit.merkle import Tree, hash_leaf
from troth.core.errors import Internal, NotFound

FLUSHED = 2_000
"""Records that are held before they are written down."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What became of a segment: the names of its files, in the order of days."""

    server: str
    number: int
    rows: int
    files: tuple[str, ...]


class Packer:
    """Packs into a depot. Belongs to one thread; `work` is a folder of its own, on the file system
    of a depot that is a folder too."""

    def __init__(self, depot: Depot, engine: Engine, work: Path) -> None:
        self._depot = depot
        self._engine = engine
        self._work = work

    def pack_segment(self, path: Path) -> Packed:
        """Have a closed segment's records in the archive, and know that they are.

        `DamagedSegment` if they don't lead to the root in its footer: then it stays as it is.
        """
        with Segment(path) as segment, self._engine.connect() as link:
            footer = segment.footer
            if footer is None:
                raise DamagedSegment(f"{path} isn't closed, so it can't be packed.")
            server, number = segment.header.server, segment.header.number
            files = self._find_holding(server, number, footer)
            if not files or not _leads_to(link, locate(files), number, footer):
                files = self._pack(link, segment, footer)
        return Packed(server, number, footer.count, tuple(file.name for file in files))

    def compact_day(self, server: str, day: date, apart: Collection[int] = ()) -> int:
        """Make one file of the pieces that a server has of a day; how many of them there were.

        Segments in `apart` have no piece yet though they may get one: no file reaches over them.
        """
        current, replaced = self._list_current(server, day, day)
        merged = 0
        for pieces in split_runs(current, apart):
            if len(pieces) > 1:
                with self._engine.connect() as link:
                    self._merge(link, pieces)
                merged += len(pieces)
                replaced += pieces
        for old in replaced:
            self._depot.remove(old)
        self._remove_widowed(server, day)
        return merged

    def _remove_widowed(self, server: str, day: date) -> None:
        """Remove what says who touched what in files that are no more."""
        there = {file for file, _ in self._depot.list_files(Table.DECISIONS, day, day)}
        for file, _ in self._depot.list_files(Table.TOUCHED, day, day):
            if file.writer == server and replace(file, table=Table.DECISIONS) not in there:
                self._depot.remove(file)

    # A segment

    def _find_holding(self, server: str, number: int, footer: Footer) -> list[ArchiveFile]:
        """Files that may have this segment already."""
        current, _ = self._list_current(server, find_day(footer.first), find_day(footer.last))
        return [one for one in current if one.first <= number <= one.last]

    def _list_current(
        self, server: str, first: date, last: date
    ) -> tuple[list[ArchiveFile], list[ArchiveFile]]:
        held = self._depot.list_files(Table.DECISIONS, first, last)
        return choose_current(file for file, _ in held if file.writer == server)

    def _pack(self, link: Link, segment: Segment, footer: Footer) -> list[ArchiveFile]:
        server, number = segment.header.server, segment.header.number
        made: dict[ArchiveFile, Path] = {}
        labels: dict[ArchiveFile, Label] = {}
        for day, rows in sorted(self._stage(segment, footer).items()):
            file = ArchiveFile(Table.DECISIONS, day, server, number, number)
            lines = self._name_stage(day)
            part = _describe_part(number, footer, rows)
            callers = _list_callers(link, _STAGED_CALLERS, [str(lines)])
            labels[file] = Label(LAYOUT, rows, (part,), callers)
            made[file] = self._work / f"decisions-{day}.parquet"
            write_parquet(link, _SELECT, [server, number, str(lines)], made[file], labels[file])
            lines.unlink()
        if not _leads_to(link, [str(path) for path in made.values()], number, footer):
            raise Internal(f"{segment.path} doesn't come back from Parquet as it was.")
        for file, local in made.items():
            self._deliver(link, file, local, labels[file])
        return list(made)

    def _stage(self, segment: Segment, footer: Footer) -> dict[date, int]:
        """Write the records down as lines, a file a day; how many each has."""
        tree = Tree()
        counts: dict[date, int] = defaultdict(int)
        held: dict[date, list[Staged]] = defaultdict(list)
        begun: set[date] = set()

        def flush() -> None:
            for day, rows in held.items():
                with open(self._name_stage(day), "ab" if day in begun else "wb") as lines:
                    lines.write(write_staged(rows))
                begun.add(day)
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
        return self._work / f"decisions-{day}.ndjson"

    # A day

    def _merge(self, link: Link, pieces: Sequence[ArchiveFile]) -> None:
        names = locate(pieces)
        before = [read_label(link, piece) for piece in pieces]
        rows = sum(label.rows for label in before)
        first, last = min(one.first for one in pieces), max(one.last for one in pieces)
        file = replace(pieces[0], first=first, last=last, revision=0)
        local = self._work / f"merged-{file.day}.parquet"
        callers = _list_callers(link, _CALLERS, [names])
        label = Label(LAYOUT, rows, _join_parts(before), callers)
        write_parquet(link, _MERGE, [names], local, label)
        wanted = link.run(_FINGERPRINT, [names])
        if wanted != link.run(_FINGERPRINT, [[str(local)]]):
            raise Internal(f"The pieces of {file.name} don't come back as they were.")
        self._deliver(link, file, local, label)

    def _deliver(self, link: Link, file: ArchiveFile, local: Path, label: Label) -> None:
        """Give a file away, after what says who touched what in it."""
        touched = local.with_name(f"touched-{local.name}")
        write_parquet(link, TOUCHED, [[str(local)]], touched, Label(LAYOUT, label.rows))
        self._put(touched, file.touched)
        self._put(local, file)

    def _put(self, local: Path, file: ArchiveFile) -> None:
        self._depot.put(local, file)
        blob = self._depot.open(file)
        try:
            check_whole(blob, f"{self._depot.describe()}/{file.name}")
        except DamagedFile:
            self._depot.remove(file)
            raise
        finally:
            blob.close()


# What is put together here are names of columns: values are bound.
_SELECT = f"""
    SELECT {COLUMNS}
    FROM (SELECT *, ? AS server, ?::BIGINT AS segment FROM read_json(?, {STAGED}))
    ORDER BY su, t, segment, i
"""  # noqa: S608
_MERGE = f"SELECT * FROM read_parquet(?, hive_partitioning = false) ORDER BY {ORDER}"  # noqa: S608
_MOST = f"LIMIT {CALLERS + 1}"
_STAGED_CALLERS = f"SELECT DISTINCT ca FROM read_json(?, {STAGED}) {_MOST}"  # noqa: S608
_CALLERS = f"SELECT DISTINCT api.service.uid FROM read_parquet(?) {_MOST}"  # noqa: S608
_FINGERPRINT = """
    SELECT unmapped.segment, count(*), sum(hash(one)::HUGEINT)
    FROM read_parquet(?, hive_partitioning = false) AS one
    GROUP BY unmapped.segment ORDER BY unmapped.segment
"""
"""What the rows are, whatever their order."""
_ENTRIES = f"""
    SELECT {KEPT} FROM read_parquet(?, hive_partitioning = false)
    WHERE unmapped.segment = ? ORDER BY unmapped."index"
"""  # noqa: S608


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


def _join_parts(labels: Iterable[Label]) -> tuple[SegmentPart, ...]:
    """What files have of segments, together."""
    found: dict[int, SegmentPart] = {}
    for part in (part for label in labels for part in label.segments):
        known = found.get(part.number)
        rows = part.rows + (known.rows if known else 0)
        found[part.number] = msgspec.structs.replace(part, rows=rows)
    return tuple(found[number] for number in sorted(found))


def split_runs(files: Iterable[ArchiveFile], apart: Collection[int]) -> list[list[ArchiveFile]]:
    """The files in their order, in runs between which lie the segments in `apart`."""
    runs: list[list[ArchiveFile]] = []
    for file in sorted(files):
        last = runs[-1][-1] if runs else None
        if last is None or any(last.last < number < file.first for number in apart):
            runs.append([])
        runs[-1].append(file)
    return runs


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


def _list_callers(link: Link, select: str, values: Sequence[object]) -> tuple[str, ...] | None:
    """Who asked, unless they are too many."""
    found = link.run(select, values)
    return None if len(found) > CALLERS else tuple(sorted(row[0] for row in found))
