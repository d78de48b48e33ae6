"""An anchor that is a file: it only grows, by one signed note after the other.

It belongs on another machine, or on a medium that nobody can write again, such as a share that
only takes appends. Between two notes stands an empty line; a note that was cut off by a crash is
ended by one too, and readers pass it over.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from troth.core.errors import Invalid, Unavailable
from troth.drivers.anchors import Place
from troth.drivers.durability import sync_directory

_GAP = b"\n\n"


def open_anchor(place: Place) -> FileAnchor:
    """The anchor at an absolute path; `Invalid` for any other."""
    path = Path(place.target)
    if not path.is_absolute():
        raise Invalid("the path must be absolute.")
    return FileAnchor(path)


@dataclass(slots=True)
class FileAnchor:
    """See `Anchor`. Appends in a thread of its own: a share that is away may hang for ever, which
    must hold up nothing else, nor the end of the process."""

    path: Path
    _running: Future[None] | None = None

    async def deliver(self, note: bytes) -> None:
        """Append; on the disk when this returns. `Unavailable` while an earlier one hangs."""
        if self._running is not None and not self._running.done():
            raise Unavailable(f"{self.path} hangs: an earlier checkpoint is still being appended.")
        running = self._running = Future()
        running.set_running_or_notify_cancel()  # who gives up waiting doesn't cancel it
        threading.Thread(
            target=_run, args=(running, self.path, note), name="anchor", daemon=True
        ).start()
        try:
            await asyncio.wrap_future(running)
        except OSError as error:
            raise Unavailable(
                f"{self.path} can't be appended to: {error.strerror or 'unknown reason'}."
            ) from error


def _run(running: Future[None], path: Path, note: bytes) -> None:
    try:
        _append(path, note)
    except Exception as error:  # noqa: BLE001 - whoever waits is told
        running.set_exception(error)
    else:
        running.set_result(None)


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
    sync_directory(path.parent)
