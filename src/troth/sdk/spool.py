"""The spool: decisions that wait to be reported, in files of the service's own or in memory.

Entries are lines of JSON. Files are only appended to, and gone once all that is in them was
reported; what a process that ended has left, the next one takes over. Once there is no room, the
oldest go, and are counted.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from troth.core.entropy import Entropy
from troth.core.errors import Invalid

SEGMENT_BYTES = 1 << 20
MOST_BYTES = 64 << 20
MOST_IN_MEMORY = 20_000
MAX_LINE = 256 << 10


@dataclass(frozen=True, slots=True)
class Batch:
    """The oldest entries, and up to where they go."""

    entries: Sequence[bytes]
    end: int


class Spool(Protocol):
    """Belongs to one thread at a time. `lost` counts entries that had to go, until it is set."""

    lost: int

    def append(self, entries: Sequence[bytes]) -> None:
        """Keep entries, none of which has a line feed in it."""
        ...

    def read(self, most: int, most_bytes: int) -> Batch:
        """The oldest entries; one at least, if there is any."""
        ...

    def remove(self, batch: Batch) -> None:
        """Forget a batch that was read, and nothing was read since."""
        ...

    def close(self) -> None:
        """Leave what is there to whoever comes next."""
        ...


class MemorySpool:
    """Entries of one process, gone with it."""

    def __init__(self, most: int = MOST_IN_MEMORY) -> None:
        self._entries: deque[bytes] = deque()
        self._most = most
        self._gone = 0
        self.lost = 0

    def append(self, entries: Sequence[bytes]) -> None:
        """Keep entries; the oldest go."""
        self._entries.extend(entries)
        over = len(self._entries) - self._most
        for _ in range(over):
            self._entries.popleft()
        if over > 0:
            self._gone += over
            self.lost += over

    def read(self, most: int, most_bytes: int) -> Batch:
        """The oldest entries."""
        found: list[bytes] = []
        size = 0
        for entry in self._entries:
            size += len(entry)
            if found and (len(found) >= most or size > most_bytes):
                break
            found.append(entry)
        return Batch(found, self._gone + len(found))

    def remove(self, batch: Batch) -> None:
        """Forget them, as far as they are there."""
        while self._gone < batch.end and self._entries:
            self._entries.popleft()
            self._gone += 1

    def close(self) -> None:
        """Nothing is left."""


class FileSpool:
    """Entries in `folder`, that several processes share: each has files of its own, and a lock on
    them for as long as it lives.

    Raises `Invalid` if the folder can't be used, or is open to others.
    """

    def __init__(self, folder: Path, entropy: Entropy, most_bytes: int = MOST_BYTES) -> None:
        self._folder = folder
        self._most = most_bytes
        self._name = entropy.token(8).hex()
        self._number = 0
        self._offset = 0
        self.lost = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat()
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise Invalid(
                    f"{folder} must belong to the service's user, and nobody else may look into "
                    f"it: what is decided stands there. 'chmod 700 {folder}' mends it."
                )
            self._lock = _take_lock(folder / f"{self._name}.lock", create=True)
            self._segments = [(path, path.stat().st_size) for path in self._adopt()]
            self._file = self._begin()
        except OSError as error:
            raise Invalid(f"Decisions can't be kept in {folder}: {error.strerror}.") from error

    def append(self, entries: Sequence[bytes]) -> None:
        """Keep entries; they are on the disk when this returns. The oldest go by the file.

        Raises OSError, after which none of them counts as kept.
        """
        data = b"".join(entry + b"\n" for entry in entries)
        path, size = self._segments[-1]
        if size and size + len(data) > SEGMENT_BYTES:
            self._file.close()
            self._file = self._begin()
            path, size = self._segments[-1]
        try:
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(size)
            self._file.seek(size)
            raise
        self._segments[-1] = (path, size + len(data))
        self._make_room()

    def read(self, most: int, most_bytes: int) -> Batch:
        """The oldest entries, of one file."""
        while True:
            path, _ = self._segments[0]
            with path.open("rb") as file:
                file.seek(self._offset)
                found, end = _read_lines(file, most, most_bytes)
            if found or len(self._segments) == 1:
                return Batch(found, max(end, self._offset))
            self._drop_first()

    def remove(self, batch: Batch) -> None:
        """Forget them; a file of which all was reported is deleted."""
        self._offset = batch.end
        path, size = self._segments[0]
        if self._offset < size:
            return
        if len(self._segments) > 1:
            self._drop_first()
        else:
            self._file.truncate(0)
            self._file.seek(0)
            self._segments[0], self._offset = (path, 0), 0

    def close(self) -> None:
        """Leave what is there to the next process."""
        self._file.close()
        if len(self._segments) == 1 and not self._segments[0][1]:
            self._segments[0][0].unlink(missing_ok=True)
            (self._folder / f"{self._name}.lock").unlink(missing_ok=True)
        self._lock.close()

    def _begin(self) -> IO[bytes]:
        self._number += 1
        path = self._folder / f"{self._name}-{self._number:08}.jsonl"
        file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "r+b")
        self._segments.append((path, 0))
        return file

    def _drop_first(self) -> None:
        path, _ = self._segments.pop(0)
        path.unlink(missing_ok=True)
        self._offset = 0

    def _make_room(self) -> None:
        while len(self._segments) > 1 and sum(size for _, size in self._segments) > self._most:
            path, _ = self._segments[0]
            with path.open("rb") as file:
                file.seek(self._offset)
                self.lost += sum(1 for _ in file)
            self._drop_first()

    def _adopt(self) -> list[Path]:
        """The files of processes that are gone, the oldest first, by new names of this one."""
        left: list[Path] = []
        for path in sorted(self._folder.glob("*.lock")):
            if path.stem == self._name:
                continue
            try:
                lock = _take_lock(path, create=False)
            except OSError:
                continue  # it lives, or somebody else was faster
            with lock:
                for one in sorted(self._folder.glob(f"{path.stem}-*.jsonl")):
                    self._number += 1
                    mine = self._folder / f"{self._name}-{self._number:08}.jsonl"
                    one.rename(mine)
                    left.append(mine)
                path.unlink(missing_ok=True)
        return left


def _take_lock(path: Path, *, create: bool) -> IO[bytes]:
    """An open file with a lock on it that nobody else has; raises OSError."""
    flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
    file = os.fdopen(os.open(path, flags, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _read_lines(file: IO[bytes], most: int, most_bytes: int) -> tuple[list[bytes], int]:
    """Whole lines, and where they end; a last one that a crash cut off is left out."""
    found: list[bytes] = []
    size, end = 0, file.tell()
    while len(found) < most:
        line = file.readline(MAX_LINE)
        if not line.endswith(b"\n"):
            if line and len(line) < MAX_LINE:
                end += len(line)
            break
        size += len(line)
        if found and size > most_bytes:
            break
        found.append(line[:-1])
        end += len(line)
    return found, end
