"""The segment that grows, what is done to its file, and how one is closed that a crash left open.

Belongs to the log's one thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from troth.archive.record import decode_record, place_microseconds
from troth.archive.segment import (
    DRAFT,
    RECORD,
    Damage,
    Footer,
    Header,
    Segment,
    name_segment,
    render_frame,
    render_mark,
)
from troth.audit.merkle import Tree, hash_leaf
from troth.core.clock import Clock
from troth.core.errors import Invalid

Entry = tuple[int, bytes]
"""The time of a record in microseconds, and its bytes."""

_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class Disk:
    """What the log asks of the kernel; a test hands in one that fails."""

    def write(self, handle: int, data: bytes, place: int) -> None:
        """Write all of it at `place`."""
        view = memoryview(data)
        while view:
            done = os.pwrite(handle, view, place)
            view, place = view[done:], place + done

    def sync(self, handle: int) -> None:
        """Return once what was written survives a loss of power."""
        os.fdatasync(handle)

    def truncate(self, handle: int, size: int) -> None:
        """Cut the file."""
        os.ftruncate(handle, size)


def sync_folder(folder: Path) -> None:
    """Return once names in `folder` survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class OpenSegment:
    """A segment that is written to; `durable` is where what was acknowledged ends."""

    def __init__(self, folder: Path, header: Header, disk: Disk) -> None:
        """Make the file. Its name appears with a whole header in it, or never."""
        self.header = header
        self.path = folder / name_segment(header.number)
        self._disk = disk
        self._seed = header.seed
        self._tree = Tree()
        self._first = self._last = 0
        self._spoilt = False
        draft = self.path.with_name(self.path.name + DRAFT)
        self._handle = os.open(draft, _FLAGS | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            begin = header.render()
            disk.write(self._handle, begin, 0)
            disk.sync(self._handle)
            draft.rename(self.path)
            sync_folder(folder)
        except BaseException:
            os.close(self._handle)
            raise
        self.durable = len(begin)

    @property
    def count(self) -> int:
        """How many records are durable here."""
        return self._tree.size

    def write(self, entries: Sequence[Entry]) -> None:
        """Make these durable, as one group; if that fails none of them is there afterwards."""
        seed = self._seed
        pieces = [render_mark(self.header, self.durable, seed)]
        pieces += [render_frame(RECORD, entry, seed) for _, entry in entries]
        self._put(b"".join(pieces))
        times = [at for at, _ in entries]
        first, last = min(times), max(times)
        self._first = min(self._first, first) if self._tree.size else first
        self._last = max(self._last, last) if self._tree.size else last
        for _, entry in entries:
            self._tree.add(hash_leaf(entry))

    def finish(self, clock: Clock) -> Footer:
        """Write the footer, and close the file. It holds a record at least."""
        first, last = place_microseconds(self._first), place_microseconds(self._last)
        footer = Footer(self._tree.size, self._tree.root, first, last, clock.now())
        self._put(footer.render(self.header))
        self.release()
        return footer

    def release(self) -> None:
        """Close the file as it is; a footer comes with the next start."""
        os.close(self._handle)

    def _put(self, data: bytes) -> None:
        if self._spoilt:
            self._take_back()
        try:
            self._disk.write(self._handle, data, self.durable)
            self._disk.sync(self._handle)
        except BaseException:
            self._spoilt = True
            self._take_back()
            raise
        self.durable += len(data)

    def _take_back(self) -> None:
        """Cut what a failed write left: what comes next must follow what was acknowledged."""
        self._disk.truncate(self._handle, self.durable)
        self._spoilt = False


def recover_segment(path: Path, clock: Clock, disk: Disk) -> Footer | None:
    """Close a segment that a crash left open; None if it held nothing, and is gone.

    What was acknowledged stays, and of the write that was cut off whatever is whole. Raises
    `DamagedSegment` if its header can't be read, and leaves it alone.
    """
    tree = Tree()
    times: list[datetime] = []
    cut = damaged = 0
    with Segment(path) as segment:
        end = segment.size
        for found in segment.walk(segment.size):
            if isinstance(found, Damage):
                if found.torn:
                    cut, end = found.end - found.start, found.start
                else:
                    damaged += found.end - found.start
            elif found.kind == RECORD:
                tree.add(hash_leaf(found.payload))
                times = _widen(times, found.payload)
        header = segment.header
    if not tree.size and not damaged:
        path.unlink()
        sync_folder(path.parent)
        return None
    now = clock.now()
    first, last = (min(times), max(times)) if times else (now, now)
    footer = Footer(tree.size, tree.root, first, last, now, cut, damaged)
    handle = os.open(path, _FLAGS)
    try:
        disk.truncate(handle, end)
        disk.write(handle, footer.render(header), end)
        disk.sync(handle)
    finally:
        os.close(handle)
    return footer


def _widen(times: list[datetime], entry: bytes) -> list[datetime]:
    """The earliest and the latest of `times` and the record's."""
    try:
        at = decode_record(entry).at
    except Invalid:
        return times  # of a version that keeps its time elsewhere
    return [min(at, *times), max(at, *times)] if times else [at, at]
