"""The archive's files as DuckDB reads them: through fsspec, checked, and never by another name.

Loaded where DuckDB is: it brings fsspec with it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Any

from fsspec import AbstractFileSystem  # type: ignore[import-untyped]  # it has no stubs

from troth.archive.depot import Blob, Depot
from troth.archive.layout import parse_name
from troth.archive.sums import CheckedFile, DamagedFile
from troth.core.errors import NotFound, TrothError

PROTOCOL = "archive"
"""What the names begin with by which DuckDB knows the files: ``archive://decisions/day=…``."""
OPEN = 64
"""Files that stay open, with their checksums in memory."""
REMEMBERED = 256
"""Files of which it is known what went wrong with them."""

_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_PAST = 1 << 29
"""Seconds from then on, 17 years."""


class CheckedFiles(AbstractFileSystem):  # type: ignore[misc]  # its class is untyped
    """The files of a depot, read alone. Safe from several threads."""

    protocol = PROTOCOL
    cachable = False  # fsspec would give one instance to everybody

    def __init__(self, depot: Depot) -> None:
        super().__init__()
        self._depot = depot
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[Blob, CheckedFile]] = OrderedDict()
        self._failed: OrderedDict[str, TrothError] = OrderedDict()

    def find_failures(self, told: str) -> dict[str, TrothError]:
        """What went wrong with which file, by what DuckDB tells of it, whose words hold ours."""
        with self._lock:
            return {name: one for name, one in self._failed.items() if one.detail in told}

    def look(self, name: str) -> CheckedFile:
        """The file with this name; `NotFound` or `DamagedFile` if there is none that is whole."""
        with self._lock:
            found = self._open.get(name)
            if found is not None:
                self._open.move_to_end(name)
                return found[1]
        try:
            blob, checked = self._check(name)
        except TrothError as error:
            self.note(name, error)
            raise
        with self._lock:
            self._open[name] = (blob, checked)
            if len(self._open) > OPEN:
                # Whoever reads it still holds it: it is closed when nobody does.
                self._open.popitem(last=False)
        return checked

    def _check(self, name: str) -> tuple[Blob, CheckedFile]:
        file = parse_name(name)
        if file is None:
            raise NotFound(f"{name!r} is no file of the archive.")
        blob = self._depot.open(file)
        return blob, CheckedFile(blob, f"{self._depot.describe()}/{name}")

    # What DuckDB asks of a file system

    def open(self, path: str, mode: str = "rb", **_: Any) -> _Reader:
        """The file, to be read."""
        name = _strip(path)
        if mode != "rb":
            raise PermissionError(f"{name} is only read")
        return _Reader(self, name, self.look(name))

    def note(self, name: str, error: TrothError) -> None:
        """Keep what went wrong with a file for whoever asked for it."""
        with self._lock:
            self._failed[name] = error
            self._failed.move_to_end(name)
            if len(self._failed) > REMEMBERED:
                self._failed.popitem(last=False)
            if isinstance(error, DamagedFile | NotFound):
                self._open.pop(name, None)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Its size."""
        return {"name": path, "size": self.open(path).size, "type": "file"}

    def modified(self, path: str) -> datetime:
        """A time by which the engine knows whether what it remembers of a file still holds: one of
        the past for each content, since it doesn't trust what may just have changed."""
        return _LONG_AGO + timedelta(seconds=self.look(_strip(path)).stamp % _PAST)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether it can be opened."""
        try:
            self.look(_strip(path))
        except TrothError:
            return False
        return True

    def glob(self, path: str, **_: Any) -> list[str]:
        """The name itself: none has anything to expand."""
        return [path]


class _Reader:
    """A position in a file."""

    def __init__(self, system: CheckedFiles, name: str, file: CheckedFile) -> None:
        self._system = system
        self._name = name
        self._file = file
        self._at = 0
        self.size = file.size

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go there."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        """Where it is."""
        return self._at

    def seekable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        try:
            data = self._file.read(self._at, self.size if size < 0 else size)
        except TrothError as error:
            self._system.note(self._name, error)
            raise
        self._at += len(data)
        return data

    def close(self) -> None:
        """The file stays open for others."""


def _strip(path: str) -> str:
    return path.removeprefix(f"{PROTOCOL}://").lstrip("/")
