"""DuckDB, bounded and shut in: no file but the archive's, no network, no extension from anywhere.

It is imported here alone, and only when a connection is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from troth.archive.layout import ArchiveFile
from troth.core.errors import Internal, Limited, NotFound, TooLarge, TrothError, Unavailable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from troth.archive.checkedfiles import CheckedFiles
    from troth.archive.depot import Depot

Row = tuple[Any, ...]

FETCHED = 1_000
"""Rows that are taken over at once."""
FEW = 4
"""Files of one query up to which their footers are remembered: of many files, reading those is
little of what the query costs."""
REMEMBERED = 48
"""Files whose footers are remembered. Of one with 40 row groups that takes 1.5 MB, which DuckDB
counts as a third of it."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one engine may use: bytes of memory, threads, seconds a query, queries at once (more
    are told to come back after `patience` seconds). `spill` is a folder that sorting may use
    instead of memory."""

    memory: int = 256 << 20
    threads: int = 2
    seconds: float = 30.0
    queries: int = 2
    patience: float = 5.0
    spill: Path | None = None


class DamagedArchive(TrothError):
    """Files that a query met can't be read; `files` says which, by name, and why, in words.
    `missing` if one of them isn't there at all."""

    def __init__(self, files: Mapping[str, str], *, missing: bool = False) -> None:
        super().__init__(" ".join(files.values()))
        self.files = files
        self.missing = missing


class Engine:
    """One DuckDB in memory. Safe from several threads; opened with the first query."""

    def __init__(self, depot: Depot, bounds: Bounds, local: Path | None = None) -> None:
        """`local` is a folder whose files may be read and written besides the depot's."""
        self._depot = depot
        self._bounds = bounds
        self._local = local
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(bounds.queries)
        self._base: DuckDBPyConnection | None = None
        self._files: CheckedFiles | None = None
        self._known: set[str] = set()

    @property
    def files(self) -> CheckedFiles:
        """The depot's files, as this engine reads them."""
        if self._files is None:
            self._open()
        assert self._files is not None
        return self._files

    @contextmanager
    def connect(self) -> Iterator[Link]:
        """A connection for one question, which may be several queries; `Limited` while too many
        have one."""
        if not self._turns.acquire(timeout=self._bounds.patience):
            raise Limited("Too many searches of the archive are running: ask again in a moment.", 5)
        link = Link(self, self._bounds)
        try:
            yield link
        finally:
            link.close()
            if len(self._known) > REMEMBERED:
                self.reopen()
            self._turns.release()

    def remember(self, names: Collection[str]) -> bool:
        """Whether the footers of files that a query reads are to be remembered."""
        few = len(names) <= FEW
        if few:
            self._known.update(names)
        return few

    def open_connection(self) -> DuckDBPyConnection:
        """A connection of its own."""
        return (self._base or self._open()).cursor()

    def reopen(self) -> None:
        """Begin anew with the next query: after a mistake of its own DuckDB answers no more, and
        what it remembers goes in no other way. Who still has a connection keeps the old one."""
        with self._lock:
            self._base = None
            self._known = set()

    def close(self) -> None:
        """Give back what it holds."""
        with self._lock:
            base, self._base = self._base, None
            if base is not None:
                base.close()

    def _open(self) -> DuckDBPyConnection:
        import duckdb

        from troth.archive.checkedfiles import PROTOCOL, CheckedFiles

        with self._lock:
            if self._base is not None:
                return self._base
            spill = str(self._bounds.spill) if self._bounds.spill else ""
            base = duckdb.connect(
                config={
                    "memory_limit": f"{self._bounds.memory >> 10}KiB",
                    "threads": self._bounds.threads,
                    "temp_directory": spill,
                    "autoinstall_known_extensions": False,
                    "autoload_known_extensions": False,
                    "allow_community_extensions": False,
                    "python_enable_replacements": False,
                    "enable_external_file_cache": False,
                }
            )
            self._files = CheckedFiles(self._depot)
            base.register_filesystem(self._files)
            allowed = [f"{PROTOCOL}://", *([f"{self._local}/"] if self._local else [])]
            base.execute(f"SET allowed_directories = [{', '.join(map(quote, allowed))}]")
            base.execute("SET GLOBAL parquet_metadata_cache = true")
            # With DuckDB 2.0.0 the one breaks queries that sort by one column and filter by a field
            # of another; the other looks at each row group of each column before every query.
            without = "late_materialization,statistics_propagation"
            base.execute(f"SET GLOBAL disabled_optimizers = '{without}'")
            base.execute("SET enable_external_access = false")
            self._base = base
            return base


class Link:
    """A connection, opened with the first query. Belongs to one thread."""

    def __init__(self, engine: Engine, bounds: Bounds) -> None:
        self._engine = engine
        self._bounds = bounds
        self._connection: DuckDBPyConnection | None = None
        self._remembers = True

    @property
    def files(self) -> CheckedFiles:
        """The archive's files, checked."""
        return self._engine.files

    def close(self) -> None:
        """Close it, if it was opened."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> DuckDBPyConnection:
        if self._connection is None:
            self._connection = self._engine.open_connection()
            most = int(self._bounds.seconds * 1000)
            self._connection.execute(f"SET max_execution_time = {most}")
            self._remembers = True
        return self._connection

    def read(self, names: Sequence[str], sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of a statement whose first value are names of files; as `run`."""
        connection, remembers = self._connect(), self._engine.remember(names)
        if remembers is not self._remembers:
            connection.execute(f"SET SESSION parquet_metadata_cache = {remembers}")
            self._remembers = remembers
        return self.run(sql, [list(names), *values])

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows. Values are bound, never text in `sql`.

        `DamagedArchive` if files can't be read, `TooLarge` if it takes too long or too much memory.
        """
        return list(self.stream(sql, values))

    def stream(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        """The rows, as they are taken."""
        import duckdb

        try:
            result = self._connect().execute(sql, list(values))
            while rows := result.fetchmany(FETCHED):
                yield from rows
        except duckdb.Error as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> TrothError:
        import duckdb

        failed = self._engine.files.find_failures(str(error))
        if any(isinstance(one, Unavailable) for one in failed.values()):
            return next(one for one in failed.values() if isinstance(one, Unavailable))
        if failed:
            missing = any(isinstance(one, NotFound) for one in failed.values())
            details = {name: one.detail for name, one in failed.items()}
            return DamagedArchive(details, missing=missing)
        if isinstance(error, duckdb.InterruptException):
            return TooLarge(
                f"The archive was searched for {self._bounds.seconds:g} seconds without an end: "
                "ask for less time, or for more about what is wanted."
            )
        if isinstance(error, duckdb.OutOfMemoryException):
            return TooLarge(
                "The search needs more memory than it may have: ask for less time, or for more "
                "about what is wanted."
            )
        if isinstance(error, duckdb.FatalException | duckdb.InternalException):
            self._engine.reopen()
            self.close()
        if isinstance(error, duckdb.IOException) and "No space left" in str(error):
            return Unavailable("There is no room on the disk for the archive: make some.")
        return Internal("The archive's engine can't answer.")


def quote(text: str) -> str:
    """A text of our own in SQL, such as a path: what others say is bound instead."""
    return "'" + text.replace("'", "''") + "'"


def locate(files: Iterable[ArchiveFile]) -> list[str]:
    """The names by which the engine reads files."""
    return [f"archive://{file.name}" for file in files]
