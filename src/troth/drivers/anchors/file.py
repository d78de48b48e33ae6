"""An anchor that is a file: it only grows, by one signed note after the other.

It belongs on another machine, or on a medium that nobody can write again, such as a share that
only takes appends. Between two notes stands an empty line; a note that was cut off by a crash is
ended by one too, and readers pass it over.
"""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from troth.core.errors import Invalid, Unavailable
from troth.drivers.anchors import Place

_GAP = b"\n\n"


def open_anchor(place: Place) -> FileAnchor:
    """The anchor at an absolute path; `Invalid` for any other."""
    path = Path(place.target)
    if not path.is_absolute():
        raise Invalid(f"{place.target[:200]!r} must be an absolute path.")
    return FileAnchor(path)


@dataclass(frozen=True, slots=True)
class FileAnchor:
    """See `Anchor`."""

    path: Path

    async def deliver(self, note: bytes) -> None:
        """Append; on the disk when this returns."""
        try:
            await asyncio.to_thread(_append, self.path, note)
        except OSError as error:
            raise Unavailable(
                f"{self.path} can't be appended to: {error.strerror or 'unknown reason'}."
            ) from error


def _append(path: Path, note: bytes) -> None:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, 0o644)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise Unavailable(f"{path} is no plain file: choose another path.")
        tail = os.pread(handle, len(_GAP), max(0, found.st_size - len(_GAP)))
        before = b"" if tail in (b"", _GAP) else _GAP
        view = memoryview(before + note.rstrip(b"\n") + _GAP)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
