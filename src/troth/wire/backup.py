"""The form of a backup: frames of MessagePack, and a hash over all of them at the end.

A file is ``troth-backup/1\\n``, then frames (four bytes of length, big-endian, and a MessagePack
map whose `type` says what it is), then four zero bytes and the SHA-256 of everything before these
32 bytes. The first frame describes tables and columns, so that a later version can read it; rows
stand in the order in which they can be stored. The same frames carry a database to another engine.

The hash finds damage, not malice: whoever can write a backup can write what is restored from it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from troth.core.errors import Invalid

MAGIC = b"troth-backup/1\n"
MAX_FRAME = 64 << 20
KINDS = ("int", "text", "bytes", "bool")
"""What a column may hold, besides nothing."""

Cell = int | str | bytes | bool | None
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_LENGTH = 4

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
LastId = Annotated[int, Meta(ge=0, le=1 << 62)]
"""A generated id, after which as many again can be given."""


class Shape(Struct, frozen=True, kw_only=True):
    """A table: its columns with their kinds, the key that rows are ordered by, and their number."""

    name: str
    columns: dict[str, str]
    key: list[str]
    rows: Count


class Opening(Struct, frozen=True, kw_only=True, tag="opening"):
    """The first frame: of what this is a copy, and as of when."""

    schema: Annotated[str, Meta(pattern=r"^[0-9]{4}$(?!\n)")]
    made_at: Annotated[datetime, Meta(tz=True)]
    trust_domain: str
    head: Count
    tables: list[Shape]


class Rows(Struct, frozen=True, kw_only=True, tag="rows"):
    """Rows of one table, in the order of its key; cells in the order of its columns."""

    table: str
    rows: list[tuple[Any, ...]]  # of `Cell`; a union of texts and bytes can't be declared


class Sum(Struct, frozen=True, kw_only=True, tag="sum"):
    """The end of a table: how many rows, and the SHA-256 over them as `Tally` counts it."""

    table: str
    count: Count
    sha256: Digest


class SealedKey(Struct, frozen=True, kw_only=True, tag="key"):
    """A file of the file keystore: ciphertext."""

    name: str
    content: bytes


class Closing(Struct, frozen=True, kw_only=True, tag="closing"):
    """The last frame: where generated ids go on, and the sum of the journal in its sealed order."""

    next_ids: dict[str, LastId]
    journal: Sum


Frame = Opening | Rows | Sum | SealedKey | Closing

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Frame)


class Tally:
    """Counts and hashes rows: one number for a table, wherever it lies."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._count = 0
        self._hash = hashlib.sha256()

    def add(self, rows: Iterable[tuple[Cell, ...]]) -> None:
        """Take in more rows, in the order of the table's key."""
        for row in rows:
            self._count += 1
            self._hash.update(_encoder.encode(row))

    def finish(self) -> Sum:
        """The sum so far."""
        return Sum(table=self._table, count=self._count, sha256=self._hash.hexdigest())


def render_backup(frames: Iterable[Frame]) -> Iterator[bytes]:
    """A file's pieces; each is small enough to be held in memory.

    Raises `Invalid` for what `parse_backup` would refuse: better now than when it is needed.
    """
    total = hashlib.sha256()

    def note(piece: bytes) -> bytes:
        total.update(piece)
        return piece

    yield note(MAGIC)
    for frame in frames:
        body = _encoder.encode(frame)
        if len(body) > MAX_FRAME:
            raise Invalid(
                f"A part of the state ({_name_part(frame)}) takes {len(body) >> 20} MiB, and a "
                f"backup's may take {MAX_FRAME >> 20}. Use PostgreSQL's own backups."
            )
        yield note(len(body).to_bytes(_LENGTH, "big") + body)
    yield note(bytes(_LENGTH))
    yield total.digest()


def _name_part(frame: Frame) -> str:
    return f"rows of {frame.table}" if isinstance(frame, Rows) else type(frame).__name__.lower()


def parse_backup(read: Callable[[int], bytes]) -> Iterator[Frame]:
    """The frames of a file, one after the other; `read` gives up to that many bytes, fewer at the
    end alone.

    Raises `Invalid` for what isn't whole: what came before it must not be kept then.
    """
    total = hashlib.sha256()

    def take(size: int) -> bytes:
        piece = read(size)
        if len(piece) != size:
            raise Invalid("The backup ends too early: the copy is cut off. Use another one.")
        return piece

    magic = read(len(MAGIC))
    if magic != MAGIC:
        raise Invalid("This is no backup of troth's, or one of another version.")
    total.update(magic)
    while True:
        prefix = take(_LENGTH)
        total.update(prefix)
        size = int.from_bytes(prefix, "big")
        if size == 0:
            break
        if size > MAX_FRAME:
            raise Invalid("The backup is damaged: a part of it is too long. Use another one.")
        body = take(size)
        total.update(body)
        yield _read_frame(body)
    if take(total.digest_size) != total.digest() or read(1):
        raise Invalid("The backup is damaged: its hash doesn't fit. Use another one.")


def _read_frame(body: bytes) -> Frame:
    try:
        frame: Frame = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid("The backup is damaged: a part can't be read. Use another one.") from error
    if isinstance(frame, Opening):
        _check_shapes(frame.tables)
    return frame


def _check_shapes(shapes: list[Shape]) -> None:
    names = [shape.name for shape in shapes]
    texts = [*names, *(column for shape in shapes for column in shape.columns)]
    sound = len(set(names)) == len(names) and all(map(_NAME.fullmatch, texts))
    for shape in shapes:
        known = set(shape.columns.values()) <= set(KINDS)
        keyed = shape.key and len(set(shape.key)) == len(shape.key)
        sound = bool(sound and known and keyed and set(shape.key) <= set(shape.columns))
    if not sound:
        raise Invalid("The backup is damaged: its tables make no sense. Use another one.")
