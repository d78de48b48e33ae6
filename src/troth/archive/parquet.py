"""Writing the archive's Parquet files, on the local disk, checked before they are given away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from troth.archive.depot import Blob
from troth.archive.engine import Link, quote
from troth.archive.layout import ArchiveFile, Table
from troth.archive.sums import CheckedFile, DamagedFile, add_sums

LAYOUT = "1"
"""The version of the columns. A later one may add some."""
SMALLEST_GROUP, LARGEST_GROUP = 8_192, 65_536
"""Rows of a row group: in small ones little is read for one identity, but each must be known."""
STEP = 2_048
"""Rows on which DuckDB works at once."""
GROUPS = 256
"""How many row groups a large file has, about."""
ZSTD_LEVEL = 6
CALLERS = 1_000
"""Callers whom a file names; with more of them it names none, and may have anybody."""

_encoder = msgspec.json.Encoder()


Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class SegmentPart(msgspec.Struct, frozen=True):
    """What a file has of a segment: `rows` of its `count` records, whose Merkle root is `root`."""

    number: Number
    count: Number
    root: str
    rows: Number
    first: Moment
    last: Moment
    closed_at: Moment


class Label(msgspec.Struct, frozen=True):
    """What a file says about itself, in Parquet's key-value metadata under ``troth``."""

    layout: str
    rows: Number
    segments: tuple[SegmentPart, ...] = ()
    callers: tuple[str, ...] | None = None
    """Who asked; None if they are too many to be named."""
    files: tuple[str, ...] = ()
    """Of a month: the names of the files of decisions that it counts."""


class Selection(NamedTuple):
    """Rows for a table: a statement of ours, and what is bound in it."""

    table: Table
    sql: str
    values: Sequence[Any]


def read_label(link: Link, file: ArchiveFile) -> Label:
    """A file's label. `DamagedFile` or `NotFound` if it can't be read."""
    try:
        return msgspec.json.decode(link.files.look(file.name).label, type=Label)
    except msgspec.DecodeError as error:
        raise DamagedFile(
            f"{file.name} can't be read: it isn't what this version of troth writes. Move it away, "
            "or restore it from a backup."
        ) from error


def choose_group(table: Table, rows: int) -> int:
    """Rows of a row group in a file of so many rows: a multiple of what the engine works on."""
    smallest = SMALLEST_GROUP if table in (Table.DECISIONS, Table.EVENTS) else STEP
    return min(max(rows // GROUPS // STEP * STEP, smallest), LARGEST_GROUP)


def write_parquet(link: Link, rows: Selection, path: Path, label: Label) -> None:
    """Have the rows of a query in a file, with checksums, on the disk.

    Partly written it is no Parquet; whoever finds it there begins again.
    """
    path.unlink(missing_ok=True)
    told = msgspec.json.encode(label)
    link.run(
        f"COPY ({rows.sql}) TO {quote(str(path))} (FORMAT parquet, COMPRESSION zstd, "
        f"COMPRESSION_LEVEL {ZSTD_LEVEL}, PARQUET_VERSION v2, "
        f"ROW_GROUP_SIZE {choose_group(rows.table, label.rows)}, "
        f"KV_METADATA {{troth: {quote(told.decode())}}})",
        rows.values,
    )
    path.chmod(0o600)
    add_sums(path, told)


def write_lines(path: Path, rows: Iterable[msgspec.Struct], *, more: bool = False) -> None:
    """Lines of JSON for the engine to read; `more` of them for a file that has some."""
    with open(path, "ab" if more else "wb") as lines:
        lines.write(_encoder.encode_lines(list(rows)))


def check_whole(blob: Blob, name: str) -> None:
    """Read a file to its end; `DamagedFile` if it isn't what was written."""
    file = CheckedFile(blob, name)
    for start in file.list_blocks():
        file.read(start, 1)
