"""The Merkle roots of the segments that an archive has, computed again from its rows.

For who verifies: what the files say of themselves is what they are looked for by, not what counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from troth.archive.decisionrows import KEPT, read_row
from troth.archive.depot import FolderDepot
from troth.archive.engine import Bounds, Engine, locate
from troth.archive.layout import ArchiveFile, Table, choose_current
from troth.archive.reading import Damages, Labels, Reader
from troth.audit.merkle import Tree, hash_leaf
from troth.core.errors import Invalid, NotFound

PATIENT = Bounds(memory=1 << 30, seconds=3600.0)
"""All of a segment is read at once, and sorted."""

# What is put together here are names of columns: values are bound.
_SEGMENT = f"""
    SELECT {KEPT} FROM read_parquet(?, hive_partitioning = false)
    WHERE unmapped.server = ? AND unmapped.segment = ? ORDER BY unmapped."index"
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class HeldSegment:
    """A segment that the archive has something of, in these files."""

    server: str
    number: int
    files: tuple[ArchiveFile, ...]


class RootReader:
    """An archive in a folder, read by one thread. Close it after use."""

    def __init__(self, folder: Path) -> None:
        """`NotFound` if there is no such folder."""
        if not folder.is_dir():
            raise NotFound(f"There is no folder {folder}.")
        self._depot = FolderDepot(folder)
        self._engine = Engine(self._depot, PATIENT)

    def close(self) -> None:
        """Give back what it holds."""
        self._engine.close()

    def list_segments(self, damages: Damages) -> Iterator[HeldSegment]:
        """What there is, in order; files that can't be read are told to `damages`."""
        held = self._depot.list_files(Table.DECISIONS, date.min, date.max)
        files, _ = choose_current(file for file, _ in held)
        with self._engine.connect() as link:
            labels = Labels().read(Reader(link, damages), files)
        holding: dict[tuple[str, int], list[ArchiveFile]] = defaultdict(list)
        for file, label in labels.items():
            for part in label.segments:
                holding[file.writer, part.number].append(file)
        for (server, number), some in sorted(holding.items()):
            yield HeldSegment(server, number, tuple(sorted(some)))

    def compute_root(self, held: HeldSegment) -> tuple[bytes, int]:
        """The root over a segment's records, and how many there are.

        `DamagedArchive` names files that aren't any more what was written, `Invalid` says what
        isn't in order. Holds a few records at a time.
        """
        tree = Tree()
        values = [locate(held.files), held.server, held.number]
        with self._engine.connect() as link:
            for row in link.stream(_SEGMENT, values):
                entry = read_row(row)
                if entry.index != tree.size:
                    raise Invalid(
                        f"Record {tree.size} of segment {held.number} of server {held.server} is "
                        "missing, or there twice."
                    )
                tree.add(hash_leaf(entry.data))
        return tree.root, tree.size
