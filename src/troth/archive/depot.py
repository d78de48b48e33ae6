"""Where the archive's files lie: a folder, or an object store. Files appear whole and durable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from troth.archive.layout import ArchiveFile, Table, parse_name
from troth.archive.objects import ObjectPlace
from troth.archive.writing import sync_folder
from troth.core.errors import NotFound, Unavailable

Held = tuple[ArchiveFile, int]
"""A file and its size in bytes."""


class Blob(Protocol):
    """A file that is read in parts; several threads may."""

    size: int

    def read(self, start: int, size: int) -> bytes:
        """So many bytes from there on; fewer where the file ends."""
        ...

    def close(self) -> None:
        """Done with it."""
        ...


class Depot(Protocol):
    """The archive's files. All methods block; `Unavailable` where the disk or the store can't."""

    def list_files(self, table: Table, first: date, last: date) -> list[Held]:
        """What lies there of these days, in no order; names that are none of ours are left out."""
        ...

    def open(self, file: ArchiveFile) -> Blob:
        """The file; `NotFound` if there is none."""
        ...

    def put(self, local: Path, file: ArchiveFile) -> None:
        """Have a finished file on the local disk appear there, whole and durable; `local` is gone
        afterwards."""
        ...

    def remove(self, file: ArchiveFile) -> None:
        """Remove it; nothing there is no error."""
        ...

    def describe(self) -> str:
        """Where this is, in words that hold no secret."""
        ...


class FolderDepot:
    """A folder, made if it is missing (0700). What is put comes from the same file system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def list_files(self, table: Table, first: date, last: date) -> list[Held]:
        """Look into the folders of these days."""
        found: list[Held] = []
        with self._explain(f"{table}/"):
            for day in self._list_days(table):
                if not first.isoformat() <= day.removeprefix("day=") <= last.isoformat():
                    continue
                try:
                    found += self._list_day(table, day)
                except FileNotFoundError:
                    continue  # removed meanwhile
        return found

    def _list_day(self, table: Table, day: str) -> Iterator[Held]:
        with os.scandir(self.path / table / day) as entries:
            for entry in entries:
                file = parse_name(f"{table}/{day}/{entry.name}")
                if file is not None and (size := _measure(entry)) is not None:
                    yield file, size

    def _list_days(self, table: Table) -> list[str]:
        try:
            return os.listdir(self.path / table)
        except FileNotFoundError:
            return []

    def open(self, file: ArchiveFile) -> Blob:
        """Open it."""
        with self._explain(file.name):
            try:
                return _LocalBlob(self.path / file.name)
            except FileNotFoundError:
                raise NotFound(f"There is no {self.path / file.name}.") from None

    def put(self, local: Path, file: ArchiveFile) -> None:
        """Give it its name."""
        path = self.path / file.name
        with self._explain(file.name):
            handle = os.open(local, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            self._make_folder(path.parent)
            os.rename(local, path)
            sync_folder(path.parent)

    def remove(self, file: ArchiveFile) -> None:
        """Remove it, and the folder of its day with the last one."""
        path = self.path / file.name
        with self._explain(file.name):
            try:
                path.unlink()
                sync_folder(path.parent)
            except FileNotFoundError:
                return
            try:
                path.parent.rmdir()
            except OSError:
                pass  # others are in it

    def describe(self) -> str:
        """The path."""
        return str(self.path)

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            one.mkdir(mode=0o700, exist_ok=True)
            sync_folder(one.parent)

    @contextmanager
    def _explain(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise Unavailable(
                f"The archive's {self.path / name} can't be read or written: {why}. Look at the "
                "disk; it is tried again."
            ) from error


class _LocalBlob:
    """A file on a disk."""

    _handle = -1

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.size = os.fstat(self._handle).st_size

    def read(self, start: int, size: int) -> bytes:
        """Read there."""
        return os.pread(self._handle, size, start)

    def close(self) -> None:
        """Close the file."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __del__(self) -> None:
        self.close()


class ObjectDepot(ObjectPlace):
    """A place on an object store."""

    def list_files(self, table: Table, first: date, last: date) -> list[Held]:
        """List the prefix."""
        with self._explain():
            try:
                listed: dict[str, Any] = self._system.find(f"{self._root}/{table}", detail=True)
            except FileNotFoundError:
                return []
        found: list[Held] = []
        for path, info in listed.items():
            file = parse_name(path[path.rfind(f"{table}/day=") :])
            if file is not None and first <= file.day <= last:
                found.append((file, int(info["size"])))
        return found

    def open(self, file: ArchiveFile) -> Blob:
        """Look how large it is."""
        with self._explain():
            try:
                return _ObjectBlob(self._system, f"{self._root}/{file.name}")
            except FileNotFoundError:
                raise NotFound(f"There is no {file.name} at {self.describe()}.") from None

    def put(self, local: Path, file: ArchiveFile) -> None:
        """Put the object; stores have it whole and durable when they say so."""
        path = f"{self._root}/{file.name}"
        with self._explain():
            self._make_folder(path)
            self._system.put_file(str(local), path)
        local.unlink()

    def remove(self, file: ArchiveFile) -> None:
        """Remove the object."""
        with self._explain():
            try:
                self._system.rm_file(f"{self._root}/{file.name}")
            except FileNotFoundError:
                pass


class _ObjectBlob:
    """An object, read by ranges."""

    def __init__(self, system: Any, path: str) -> None:
        self._system = system
        self._path = path
        self.size = int(system.info(path)["size"])

    def read(self, start: int, size: int) -> bytes:
        """Get the range."""
        found: bytes = self._system.cat_file(self._path, start=start, end=start + size)
        return found

    def close(self) -> None:
        """Nothing is open."""


def open_depot(where: str) -> Depot:
    """A folder by its path, or an object store by its URL.

    ``file://`` is a folder as well: there fsspec's files aren't whole at once.
    """
    path = where.removeprefix("file://")
    return ObjectDepot(path) if "://" in path else FolderDepot(Path(path))


def _measure(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return None  # removed meanwhile
