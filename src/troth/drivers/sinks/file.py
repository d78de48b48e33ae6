"""A sink that is a file: a message a line, durable before it counts as delivered.

It is renamed when it is large, and when a day (UTC) is over: ``events.jsonl`` becomes
``events-20260131T235959Z-1.jsonl``. What a crash or a full disk left of an unfinished write is cut
off before anything follows it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import stat
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from troth.core.clock import Clock
from troth.core.errors import Invalid
from troth.drivers.durability import sync_directory
from troth.drivers.sinks import Away, Message, Target

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK = 1 << 16
_BEGINNINGS = (b"{", b"CEF:")
"""What messages begin with, in one format and the other."""


class Disk:
    """What the sink asks of the kernel; a test hands in one that fails."""

    def write(self, handle: int, data: bytes, place: int) -> None:
        """Write all of it at `place`."""
        view = memoryview(data)
        while view:
            done = os.pwrite(handle, view, place)
            view, place = view[done:], place + done

    def sync(self, handle: int) -> None:
        """Return once what was written survives a loss of power."""
        os.fdatasync(handle)


def open_sink(target: Target, secret: str, clock: Clock) -> FileSink:
    """A sink for the file that the URL names: ``file:///PATH``."""
    return FileSink(target, clock)


def parse_path(url: str) -> Path:
    """The path in a ``file:`` URL; `Invalid` unless it is absolute and on this machine."""
    problem = Invalid("it must be file:///PATH, an absolute path of a file.")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise problem from error
    path = unquote(parts.path)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query:
        raise problem
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise problem
    return Path(path)


class FileSink:
    """Implements `Sink`. Writing happens in a thread."""

    def __init__(self, target: Target, clock: Clock, disk: Disk | None = None) -> None:
        self._path = parse_path(target.url)
        self._largest = target.rotate_bytes
        self._kept = target.keep_files
        self._clock = clock
        self._disk = disk or Disk()
        self._file: _Open | None = None

    async def deliver(self, batch: Sequence[Message]) -> None:
        """Append a line each, and have them on the disk."""
        data = b"".join(message.content + b"\n" for message in batch)
        # Not cancelled in the middle: two threads must never write at once.
        writing = asyncio.ensure_future(asyncio.to_thread(self._append, data))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])
            raise

    async def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            await asyncio.to_thread(os.close, file.handle)

    def _append(self, data: bytes) -> None:
        try:
            file = self._prepare(len(data))
            try:
                self._disk.write(file.handle, data, file.size)
                self._disk.sync(file.handle)
            except OSError:
                os.ftruncate(file.handle, file.size)
                raise
            file.size += len(data)
        except OSError as error:
            self._drop()
            raise Away(
                f"Can't write {self._path}: {error.strerror or 'unknown reason'}. Make room, or "
                "mend what is wrong with the disk or its permissions."
            ) from error

    def _prepare(self, size: int) -> _Open:
        """The file that takes `size` more bytes now."""
        file, today = self._file, self._clock.now().astimezone(UTC).date()
        if file is not None and not file.is_still(self._path):
            self._drop()  # somebody moved it away, or wrote to it
            file = None
        file = file or self._open(today)
        if file.size and (file.day != today or file.size + size > self._largest):
            self._drop()
            self._rotate(self._path)
            file = self._open(today)
        self._file = file
        return file

    def _open(self, today: date) -> _Open:
        handle = os.open(self._path, _FLAGS, 0o600)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise Away(f"{self._path} is no plain file: name another one.")
            self._claim(handle)
            size = _find_end(handle, found.st_size)
            if size != found.st_size:
                self._cut(handle, size)
            sync_directory(self._path.parent)
        except BaseException:
            os.close(handle)
            raise
        day = datetime.fromtimestamp(found.st_mtime, UTC).date() if size else today
        file = self._file = _Open(handle, found.st_dev, found.st_ino, size, day)
        return file

    def _claim(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Away(
                f"Another process writes {self._path}: give each a file of its own."
            ) from None

    def _cut(self, handle: int, size: int) -> None:
        """Take off a line that was never finished, and so never acknowledged, if it is ours."""
        found = os.pread(handle, max(map(len, _BEGINNINGS)), size)
        if not any(one.startswith(found[: len(one)]) for one in _BEGINNINGS):
            raise Away(f"{self._path} is no file of this sink: move it away, or name another one.")
        os.ftruncate(handle, size)

    def _drop(self) -> None:
        if self._file is not None:
            os.close(self._file.handle)
            self._file = None

    def _rotate(self, path: Path) -> None:
        moment = f"{self._clock.now().astimezone(UTC):%Y%m%dT%H%M%SZ}"
        # Above those of the same second, also where some of them are gone already.
        number = 1 + max((n for at, n, _ in _find_rotated(path) if at == moment), default=0)
        path.rename(path.with_name(f"{path.stem}-{moment}-{number}{path.suffix}"))
        if self._kept:
            for old in list_rotated(path)[: -self._kept]:
                old.unlink(missing_ok=True)
        sync_directory(path.parent)


class _Open:
    """The file that is written to: `size` is where what was acknowledged ends."""

    def __init__(self, handle: int, device: int, inode: int, size: int, day: date) -> None:
        self.handle, self.size, self.day = handle, size, day
        self._identity = (device, inode)

    def is_still(self, path: Path) -> bool:
        """Whether this is the file of that name, and nobody else has altered its size."""
        try:
            found = path.stat(follow_symlinks=False)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity and found.st_size == self.size


def list_rotated(path: Path) -> list[Path]:
    """What was renamed of `path`, the oldest first."""
    return [one for _, _, one in _find_rotated(path)]


def _find_rotated(path: Path) -> list[tuple[str, int, Path]]:
    pattern = re.compile(
        rf"{re.escape(path.stem)}-([0-9]{{8}}T[0-9]{{6}}Z)-([0-9]{{1,9}}){re.escape(path.suffix)}",
        re.ASCII,
    )
    matches = ((pattern.fullmatch(one.name), one) for one in path.parent.iterdir())
    return sorted((match[1], int(match[2]), one) for match, one in matches if match)


def _find_end(handle: int, size: int) -> int:
    """Where the last whole line ends."""
    end = size
    while end:
        start = max(0, end - _CHUNK)
        at = os.pread(handle, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
