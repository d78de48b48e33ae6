"""Where files of the archive are made, looked at, and given away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from troth.archive.decisionrows import IDS, TOUCHED
from troth.archive.depot import Depot
from troth.archive.engine import Engine, Link
from troth.archive.layout import COMPANIONS, ArchiveFile, Table, choose_current
from troth.archive.parquet import LAYOUT, Label, Selection, check_whole, write_parquet
from troth.archive.sums import DamagedFile

LEFT = (".parquet", ".ndjson")
SPILLED = "duckdb_temp"

SAYING = {Table.TOUCHED: TOUCHED, Table.IDS: IDS}
"""What is written beside a file of decisions: of its rows."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """A depot, an engine that may use `work`, and that folder: of one process at a time, and on the
    file system of a depot that is a folder too."""

    depot: Depot
    engine: Engine
    work: Path

    def list_current(
        self, table: Table, writer: str, first: date, last: date
    ) -> tuple[list[ArchiveFile], list[ArchiveFile]]:
        """A writer's files of these days that count, and those that others replace."""
        held = self.depot.list_files(table, first, last)
        return choose_current(file for file, _ in held if file.writer == writer)

    def deliver(self, link: Link, local: Path, file: ArchiveFile, label: Label) -> None:
        """Give a file away; before one of decisions, what stands beside it."""
        if file.table is Table.DECISIONS:
            for table in COMPANIONS:
                beside = local.with_name(f"{table}-{local.name}")
                said = Selection(table, SAYING[table], [[str(local)]])
                write_parquet(link, said, beside, Label(LAYOUT, label.rows))
                self._put(beside, file.beside(table))
        self._put(local, file)

    def remove(self, files: Iterable[ArchiveFile]) -> None:
        """Remove files, and what stands beside them."""
        for file in files:
            self.depot.remove(file)
            if file.table is Table.DECISIONS:
                for table in COMPANIONS:
                    self.depot.remove(file.beside(table))

    def remove_widowed(self, writer: str, day: date) -> None:
        """Remove what stands beside files of decisions that aren't there: a crash left it."""
        there = {file for file, _ in self.depot.list_files(Table.DECISIONS, day, day)}
        for table in COMPANIONS:
            for file, _ in self.depot.list_files(table, day, day):
                if file.writer == writer and file.beside(Table.DECISIONS) not in there:
                    self.depot.remove(file)

    def empty(self) -> None:
        """Remove what a crash left in the folder: half a file, or what was sorted on the disk."""
        for left in self.work.iterdir():
            if left.name.endswith(LEFT) or left.name.startswith(SPILLED):
                left.unlink(missing_ok=True)

    def _put(self, local: Path, file: ArchiveFile) -> None:
        self.depot.put(local, file)
        blob = self.depot.open(file)
        try:
            check_whole(blob, f"{self.depot.describe()}/{file.name}")
        except DamagedFile:
            self.depot.remove(file)
            raise
        finally:
            blob.close()
