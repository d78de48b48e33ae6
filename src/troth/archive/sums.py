"""Checksums in Parquet files: what a disk changed is found by the read that meets it.

Parquet has room for a checksum of each page, which hardly any engine writes or looks at; a flipped
byte mostly decodes to other values without a word. So before the footer of each file stands what no
reader of Parquet looks at: a CRC-32 for each 64 KiB before it, and one for the footer; and the
file's label, which is in Parquet's own metadata too, where only a query reads it.

    body | u32 for each block | label
    | 8s magic | u32 block size | u64 body size | u32 label size | u32 footer | u32 self
    | the footer | u32 its size | PAR1

Numbers are big-endian, but the footer's size, which is Parquet's own. Against intent the Merkle
roots in the journal help, not these.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from zlib import crc32

from troth.core.errors import Refused

BLOCK = 64 << 10
LARGEST_FOOTER = 256 << 20
"""Bytes of the largest footer that is read: more than files of ours have."""

_MAGIC = b"TROTHSUM"
_PARQUET = b"PAR1"
_END = struct.Struct("<I4s")
_TRAILER = struct.Struct(">8sIQIII")
_SUM = 4


class DamagedFile(Refused):
    """A file of the archive doesn't hold any more what was written to it."""


class Readable(Protocol):
    """What is read in parts."""

    size: int

    def read(self, start: int, size: int) -> bytes:
        """So many bytes from there on; fewer where it ends."""
        ...


def add_sums(path: Path, label: bytes) -> None:
    """Put checksums and a label into a Parquet file that was just written, and have them on the
    disk.

    A crash in the middle leaves a file without them, or none that is Parquet.
    """
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(handle).st_size
        footer = _read_footer(_Handle(handle, size))
        if footer is None:
            raise DamagedFile(f"{path} isn't Parquet: nothing can be made of it.")
        body = size - len(footer)
        sums = b"".join(
            crc32(os.pread(handle, min(BLOCK, body - at), at)).to_bytes(_SUM, "big")
            for at in range(0, body, BLOCK)
        )
        plain = _TRAILER.pack(_MAGIC, BLOCK, body, len(label), crc32(footer), 0)[:-_SUM]
        own = crc32(plain, crc32(sums + label)).to_bytes(_SUM, "big")
        view = memoryview(sums + label + plain + own + footer)
        while view:
            done = os.pwrite(handle, view, body)
            view, body = view[done:], body + done
        os.fsync(handle)
    finally:
        os.close(handle)


class CheckedFile:
    """A file with checksums, of which nothing is given out that doesn't fit them."""

    def __init__(self, blob: Readable, name: str) -> None:
        """Read the checksums; `DamagedFile` if they can't be."""
        self._blob = blob
        self._name = name
        self.size = blob.size
        footer = _read_footer(blob)
        if footer is None:
            raise self._explain("it doesn't end as Parquet does: it may be cut off")
        end = blob.size - len(footer) - _TRAILER.size
        trailer = blob.read(end, _TRAILER.size) if end > 0 else b""
        if len(trailer) != _TRAILER.size or not trailer.startswith(_MAGIC):
            raise self._explain("its checksums are missing")
        _, block, self._body, label_size, footer_sum, own = _TRAILER.unpack(trailer)
        count = -(-self._body // BLOCK)
        start = end - count * _SUM - label_size
        beside = blob.read(start, end - start) if start == self._body and block == BLOCK else b""
        if crc32(trailer[:-_SUM], crc32(beside)) != own or crc32(footer) != footer_sum:
            raise self._explain("its footer or its checksums are altered")
        self.label = beside[count * _SUM :]
        self._footer = footer
        self.stamp = own
        """Another number for another content."""
        self._sums = struct.unpack_from(f">{count}I", beside)

    def read(self, start: int, size: int) -> bytes:
        """So many bytes from there on, or fewer at the end; `DamagedFile` if they were altered."""
        stop = min(start + size, self.size)
        if start >= stop:
            return b""
        last = self.size - len(self._footer)
        if start >= last:
            return self._footer[start - last : stop - last]
        if stop > self._body:
            # Nothing of Parquet's lies here, but a reader may look ahead of a footer.
            between = self._blob.read(
                max(start, self._body), min(stop, last) - max(start, self._body)
            )
            head = self._read_body(start, self._body) if start < self._body else b""
            return head + between + (self._footer[: stop - last] if stop > last else b"")
        return self._read_body(start, stop)

    def list_blocks(self) -> Iterator[int]:
        """Where each block begins: reading them all looks at the whole file."""
        return iter(range(0, self._body, BLOCK))

    def _read_body(self, start: int, stop: int) -> bytes:
        begin = start - start % BLOCK
        end = min(self._body, stop + -stop % BLOCK)
        data = self._blob.read(begin, end - begin)
        if len(data) != end - begin:
            raise self._explain(f"it ends at byte {begin + len(data)} now: it was cut off")
        view = memoryview(data)
        for at in range(0, len(data), BLOCK):
            if crc32(view[at : at + BLOCK]) != self._sums[(begin + at) // BLOCK]:
                raise self._explain(f"the {BLOCK >> 10} KiB from byte {begin + at} on are altered")
        return data[start - begin : stop - begin]

    def _explain(self, why: str) -> DamagedFile:
        return DamagedFile(
            f"{self._name} is damaged: {why}. Restore it from a backup, or move it away."
        )


class _Handle:
    """An open file as `Readable`."""

    def __init__(self, handle: int, size: int) -> None:
        self._handle = handle
        self.size = size

    def read(self, start: int, size: int) -> bytes:
        return os.pread(self._handle, size, start)


def _read_footer(blob: Readable) -> bytes | None:
    """The footer with its size and the magic bytes behind it; None if it can't be one."""
    end = blob.read(blob.size - _END.size, _END.size) if blob.size > _END.size else b""
    if len(end) != _END.size:
        return None
    size, magic = _END.unpack(end)
    size += _END.size
    if magic != _PARQUET or size > min(blob.size, LARGEST_FOOTER):
        return None
    footer = blob.read(blob.size - size, size)
    return footer if len(footer) == size else None
