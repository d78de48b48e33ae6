"""Where files of the log lie: a folder, or a place on an object store. Names use ``/``.

A file appears whole or not at all, and survives a loss of power once it was settled.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from troth.archive.objects import ObjectPlace
from troth.audit.tile import DamagedTile
from troth.core.errors import NotFound, Unavailable

DRAFT = ".new"
MANY = 24
"""Files that are waited for one by one; for more the whole file system is."""
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
LARGEST = 64 << 20
"""Bytes of the largest file that is read as a whole."""


class Place(Protocol):
    """Files by name. All methods block; `Unavailable` where the disk or the store can't."""

    def read(self, name: str) -> bytes:
        """The whole file; `NotFound` if there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Have the file hold this: at each moment it is what it was, or this."""
        ...

    def add(self, name: str, data: bytes) -> None:
        """Make a file on which nobody relies yet; it may be damaged by a loss of power until
        `settle` has returned."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, or everything below a name; nothing there is no error."""
        ...

    def settle(self) -> None:
        """Return once all that was written survives a loss of power."""
        ...

    def set_aside(self, suffix: str) -> str:
        """Move everything to a place beside this one, and begin with nothing; where it is now."""
        ...

    def describe(self) -> str:
        """Where this is, in words that hold no secret."""
        ...


class Folder:
    """A folder on a disk, made if it is missing (0700); files are private to their owner."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = str(path)
        self._unsettled: set[str] = set()
        self._added: list[str] = []
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self, name: str) -> bytes:
        """The whole file; `DamagedTile` if what is there is no file."""
        path = self._path / name
        try:
            with open(path, "rb", opener=_open_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise DamagedTile(name, f"{path} is no regular file.")
                return file.read(LARGEST + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound(f"There is no {path}.") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise DamagedTile(name, f"{path} is a symbolic link that leads nowhere.") from error
            raise _explain("read", path, error) from error

    def write(self, name: str, data: bytes) -> None:
        """Write beside the file, then put it in its place."""
        self._put(name, data, durable=True)

    def add(self, name: str, data: bytes) -> None:
        """The same, and wait for the disk later, once for all."""
        self._put(name, data, durable=False)

    def _put(self, name: str, data: bytes, *, durable: bool) -> None:
        path = f"{self._root}/{name}"
        draft = path + DRAFT
        try:
            try:
                handle = os.open(draft, _WRITE, 0o600)
            except FileNotFoundError:
                self._make_parents(Path(path).parent)
                handle = os.open(draft, _WRITE, 0o600)
            try:
                done = os.write(handle, data)
                while done < len(data):
                    done += os.write(handle, data[done:])
                if durable:
                    os.fdatasync(handle)
            finally:
                os.close(handle)
            os.rename(draft, path)
        except OSError as error:
            raise _explain("written", Path(path), error) from error
        self._unsettled.add(path.rpartition("/")[0])
        if not durable:
            self._added.append(path)

    def remove(self, name: str) -> None:
        """Remove it."""
        path = self._path / name
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass  # another one was faster
        except OSError as error:
            raise _explain("removed", path, error) from error

    def settle(self) -> None:
        """Make durable what was written and added since the last time."""
        folders, added = self._unsettled, self._added
        self._unsettled, self._added = set(), []
        try:
            if len(added) > MANY:
                _sync_all(self._root)
                return
            for path in (*added, *folders):
                try:
                    _sync(path)
                except FileNotFoundError:
                    continue  # removed since: partial tiles are
        except OSError as error:
            self._unsettled |= folders
            self._added += added
            raise _explain("synced", self._path, error) from error

    def set_aside(self, suffix: str) -> str:
        """Rename the folder."""
        aside = self._path.with_name(f"{self._path.name}.{suffix}")
        try:
            os.rename(self._path, aside)
            self._path.mkdir(mode=0o700)
            _sync(str(self._path.parent))
        except OSError as error:
            raise _explain("moved", self._path, error) from error
        return str(aside)

    def describe(self) -> str:
        """The path."""
        return str(self._path)

    def _make_parents(self, folder: Path) -> None:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            one.mkdir(mode=0o700, exist_ok=True)
            self._unsettled.add(str(one.parent))


class ObjectStore(ObjectPlace):
    """A place on an object store. Its writes are whole and durable when they return, as object
    stores promise."""

    def read(self, name: str) -> bytes:
        """The whole object."""
        with self._explain():
            try:
                found: bytes = self._system.cat_file(f"{self._root}/{name}", end=LARGEST + 1)
                return found
            except FileNotFoundError:
                raise NotFound(f"There is no {name} at {self.describe()}.") from None

    def add(self, name: str, data: bytes) -> None:
        """Put the object: there is nothing to wait for later."""
        self.write(name, data)

    def write(self, name: str, data: bytes) -> None:
        """Put the object."""
        path = f"{self._root}/{name}"
        with self._explain():
            self._make_folder(path)
            self._system.pipe_file(path, data)

    def remove(self, name: str) -> None:
        """Remove it, or everything below it."""
        with self._explain(), suppress(FileNotFoundError):
            self._system.rm(f"{self._root}/{name}", recursive=True)

    def settle(self) -> None:
        """Nothing to do: an object is durable once it is put."""

    def set_aside(self, suffix: str) -> str:
        """Move all objects under another prefix."""
        aside = f"{self._root}.{suffix}"
        with self._explain(), suppress(FileNotFoundError):
            self._system.mv(self._root, aside, recursive=True)
        return f"{self._scheme}://{aside}"


def open_place(where: str) -> Place:
    """A folder by its path, or a place by its URL."""
    return ObjectStore(where) if "://" in where else Folder(Path(where))


def _open_at_once(path: str, flags: int) -> int:
    """Not to wait for whoever might write into a pipe that stands where a file should."""
    return os.open(path, flags | os.O_NONBLOCK)


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_all(folder: str) -> None:
    """Wait for everything on the file system of this folder (syncfs(2)): for many small files that
    is one wait instead of as many as there are."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(handle):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), folder)
    finally:
        os.close(handle)


def _explain(verb: str, path: Path, error: OSError) -> Unavailable:
    why = error.strerror or type(error).__name__
    return Unavailable(f"{path} can't be {verb}: {why}. Look at the disk; it is tried again.")
