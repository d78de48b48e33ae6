"""One file of decisions: a header, frames, and a footer once it is closed.

    header  8s magic | u16 version | u16 size | 16s server | u64 number | i64 opened | 8s salt | u32
    frame   u32 kind and size | u32 checksum | payload

All numbers are big-endian, times microseconds since 1970. The checksum is CRC-32 of the frame
without it, begun with the header's own, so that a frame of another file doesn't fit. Each group of
records that was made durable together begins with a mark. What is damaged before a mark had been
acknowledged; what is damaged behind the last one is the write that a crash cut off. A mark and a
footer hold the salt, which no caller knows: nothing in a record can be taken for one.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from troth.archive.record import LARGEST, count_microseconds, place_microseconds
from troth.core.errors import Invalid, Refused

MAGIC = b"TROTHDEC"
VERSION = 1
SALT_SIZE = 8
RECORD, MARK, FOOTER = 0, 1, 2
CHUNK = 1 << 20
"""Bytes read at once; more than the largest frame."""

_HEADER = struct.Struct(">8sHH16sQq8s")
_SUM = struct.Struct(">I")
_HEAD = struct.Struct(">II")
_MARK = struct.Struct(">8sQ")
_FOOTER = struct.Struct(">8sQ32sqqqQQ")
HEADER_SIZE = _HEADER.size + _SUM.size
HEAD_SIZE = _HEAD.size
FOOTER_SIZE = HEAD_SIZE + _FOOTER.size
_KIND_SHIFT = 30
_SIZE_MASK = (1 << _KIND_SHIFT) - 1
_NAME = re.compile(r"([0-9]{10})\.decisions", re.ASCII)
DRAFT = ".new"
PACKED = ".packed"
"""Stands behind the name of a segment whose records the archive has: it may go."""


class DamagedSegment(Refused):
    """A file doesn't hold any more what was written to it."""


@dataclass(frozen=True, slots=True)
class Header:
    """Whose segment this is: the server's id, the number among its segments, since when."""

    server: str
    number: int
    opened_at: datetime
    salt: bytes

    def render(self) -> bytes:
        """The first bytes of the file."""
        opened = count_microseconds(self.opened_at)
        name = self.server.encode("ascii")
        if len(name) > 16:
            raise ValueError(f"the server's id {self.server!r} is longer than 16 bytes")
        plain = _HEADER.pack(MAGIC, VERSION, HEADER_SIZE, name, self.number, opened, self.salt)
        return plain + _SUM.pack(crc32(plain))

    @property
    def seed(self) -> int:
        """What the checksums of this file's frames begin with."""
        return crc32(self.render())


@dataclass(frozen=True, slots=True)
class Footer:
    """What a closed segment says about itself.

    `first` and `last` are the earliest and latest time of a record; `cut` counts the bytes of an
    unfinished write that were taken off after a crash, `damaged` those that were lost later on.
    """

    count: int
    root: bytes
    first: datetime
    last: datetime
    closed_at: datetime
    cut: int = 0
    damaged: int = 0

    def render(self, header: Header) -> bytes:
        """The last frame of the file."""
        times = (count_microseconds(at) for at in (self.first, self.last, self.closed_at))
        payload = _FOOTER.pack(header.salt, self.count, self.root, *times, self.cut, self.damaged)
        return render_frame(FOOTER, payload, header.seed)


@dataclass(frozen=True, slots=True)
class ClosedSegment:
    """A segment that grows no more; `size` is the file's, in bytes."""

    server: str
    number: int
    size: int
    footer: Footer


class Frame(NamedTuple):
    """An intact frame and the place behind it."""

    kind: int
    payload: bytes
    end: int


class Damage(NamedTuple):
    """Bytes that are no frames; `torn` if nothing behind them was ever acknowledged."""

    start: int
    end: int
    torn: bool


def name_segment(number: int) -> str:
    """The file's name: in the order of names is in the order of time."""
    return f"{number:010d}.decisions"


def find_number(path: Path) -> int | None:
    """The number of the segment that the file is named after, or None."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else None


def list_segments(folder: Path) -> list[tuple[int, Path]]:
    """Numbers and files of all segments, in their order."""
    found = ((find_number(path), path) for path in folder.iterdir())
    return sorted((number, path) for number, path in found if number is not None)


def list_packed(folder: Path) -> list[tuple[int, Path]]:
    """The same for segments that the archive has."""
    found = ((find_number(path.with_suffix("")), path) for path in folder.glob(f"*{PACKED}"))
    return sorted((number, path) for number, path in found if number is not None)


def render_frame(kind: int, payload: bytes, seed: int) -> bytes:
    """A frame around `payload`."""
    word = (kind << _KIND_SHIFT | len(payload)).to_bytes(4, "big")
    return word + crc32(payload, crc32(word, seed)).to_bytes(4, "big") + payload


def render_mark(header: Header, offset: int, seed: int) -> bytes:
    """The frame before a group at `offset`: all that stands before it is durable."""
    return render_frame(MARK, _MARK.pack(header.salt, offset), seed)


def parse_header(data: bytes) -> Header:
    """The header at the beginning of a file; `Invalid` if it is damaged or of a later version."""
    if len(data) < HEADER_SIZE or not data.startswith(MAGIC):
        raise Invalid("it doesn't begin as a segment does")
    plain, (found,) = data[: _HEADER.size], _SUM.unpack_from(data, _HEADER.size)
    _, version, size, server, number, opened, salt = _HEADER.unpack(plain)
    if version != VERSION or size != HEADER_SIZE:
        raise Invalid(f"it has format {version}, and this version of troth reads {VERSION}")
    if crc32(plain) != found:
        raise Invalid("its header is damaged")
    try:
        name = server.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise Invalid("its header is damaged") from None
    return Header(name, number, place_microseconds(opened), salt)


def parse_footer(data: bytes, header: Header) -> Footer | None:
    """The footer in the last `FOOTER_SIZE` bytes of a file; None if that is no footer of it."""
    if len(data) != FOOTER_SIZE:
        return None
    payload = data[HEAD_SIZE:]
    if render_frame(FOOTER, payload, header.seed) != data:
        return None
    salt, count, root, first, last, closed, cut, damaged = _FOOTER.unpack(payload)
    if salt != header.salt:
        return None
    first_at, last_at, closed_at = map(place_microseconds, (first, last, closed))
    return Footer(count, root, first_at, last_at, closed_at, cut, damaged)


class Segment:
    """A segment that is read. Belongs to one thread; `close` it, or use it in a ``with``."""

    def __init__(self, path: Path) -> None:
        """Open the file; `DamagedSegment` names it if its header can't be read."""
        self.path = path
        self._handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self.size = os.fstat(self._handle).st_size
            self.header = parse_header(os.pread(self._handle, HEADER_SIZE, 0))
            tail = max(HEADER_SIZE, self.size - FOOTER_SIZE)
            self.footer = parse_footer(os.pread(self._handle, FOOTER_SIZE, tail), self.header)
        except Invalid as error:
            os.close(self._handle)
            raise DamagedSegment(
                f"{path} can't be read: {error.detail}. Restore it from a backup, or move it away."
            ) from error
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    @property
    def end(self) -> int:
        """Where the records end, if it is closed; else where the file does."""
        return self.size if self.footer is None else self.size - FOOTER_SIZE

    def walk(self, end: int | None = None, start: int = HEADER_SIZE) -> Iterator[Frame | Damage]:
        """All frames from `start`, where one begins, to before `end` in their order, and what lies
        between them that is none.

        Holds `CHUNK` bytes at most.
        """
        stop = self.end if end is None else end
        seed = self.header.seed
        place = start
        while place < stop:
            data = os.pread(self._handle, min(CHUNK, stop - place), place)
            used = 0
            for frame in split_frames(data, seed):
                used = frame.end
                yield Frame(frame.kind, frame.payload, place + used)
            if used == 0:
                mark = self._find_mark(place + 1, stop)
                yield Damage(place, stop if mark is None else mark, mark is None)
                if mark is None:
                    return
                used = mark - place
            place += used

    def contains(self, needle: bytes, end: int | None = None) -> bool:
        """Whether these bytes stand anywhere in the file: far faster than looking at frames."""
        stop = self.end if end is None else end
        return self._search(needle, HEADER_SIZE, stop) is not None

    def _find_mark(self, start: int, stop: int) -> int | None:
        """Where the next mark begins."""
        salt, seed = self.header.salt, self.header.seed
        place = start + HEAD_SIZE  # the salt stands behind the head
        while (found := self._search(salt, place, stop)) is not None:
            begin = found - HEAD_SIZE
            wanted = render_mark(self.header, begin, seed)
            if os.pread(self._handle, len(wanted), begin) == wanted:
                return begin
            place = found + 1
        return None

    def _search(self, needle: bytes, place: int, stop: int) -> int | None:
        while place + len(needle) <= stop:
            data = os.pread(self._handle, min(CHUNK, stop - place), place)
            if (found := data.find(needle)) >= 0:
                return place + found
            if len(data) < len(needle):
                return None  # the file became shorter
            place += len(data) - len(needle) + 1
        return None


def split_frames(data: bytes, seed: int) -> Iterator[Frame]:
    """The intact frames at the beginning of `data`, up to one that is damaged or incomplete."""
    at, size = 0, len(data)
    while at + HEAD_SIZE <= size:
        word, wanted = _HEAD.unpack_from(data, at)
        end = at + HEAD_SIZE + (word & _SIZE_MASK)
        if end > size or (word & _SIZE_MASK) > LARGEST:
            return
        payload = data[at + HEAD_SIZE : end]
        if crc32(payload, crc32(data[at : at + 4], seed)) != wanted:
            return
        yield Frame(word >> _KIND_SHIFT, payload, end)
        at = end
