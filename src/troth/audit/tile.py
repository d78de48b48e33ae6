"""Tiles: a log's hashes in files of 256, from which anybody computes its root and every proof.

C2SP tlog-tiles. Tile `index` of `level` holds the roots of the complete subtrees of 256**level
leaves that begin at leaf ``index * 256**(level + 1)``. The last one of a level may be partial: its
name says how many hashes it has. Entries lie in bundles of 256 (``tile/entries/…``), and so does
what stands beside them (``detail/…``, not of C2SP).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from struct import Struct

from troth.audit.merkle import EMPTY_ROOT, HASH_SIZE, hash_node
from troth.core.errors import Invalid, NotFound, Refused
from troth.core.logsize import LARGEST_SIZE

WIDTH = 256
"""Hashes of a full tile, entries of a full bundle."""
HIGHEST_LEVEL = 63
_BITS = 8
_KEPT = 64
"""Tiles that are kept while proofs are computed: half a megabyte. No proof needs more."""

Read = Callable[[str], bytes]
"""The bytes of a file of the log, by its name; raises `NotFound` if there is none, `DamagedTile` if
what is there can't be one."""

_NAME = re.compile(
    r"(?:tile/(?:(0|[1-9][0-9]?)|(entries))|detail)"
    r"/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?",
    re.ASCII,
)
_LONGEST_NAME = 64
_PAIRS = Struct(f"{2 * HASH_SIZE}s").iter_unpack


class Kind(StrEnum):
    """What lies in a file of the log."""

    HASHES = "hashes"
    ENTRIES = "entries"
    DETAILS = "details"


@dataclass(frozen=True, slots=True)
class TileName:
    """A file of the log. `level` is 0 for entries and details; `width` `WIDTH` if it is full."""

    kind: Kind
    level: int
    index: int
    width: int

    def __str__(self) -> str:
        """The path below the log's root."""
        if self.kind is Kind.ENTRIES:
            return name_entries(self.index, self.width)
        if self.kind is Kind.DETAILS:
            return name_details(self.index, self.width)
        return name_tile(self.level, self.index, self.width)


class DamagedTile(Refused):
    """A file of a log doesn't hold what its name says; `name` is its path."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


def name_tile(level: int, index: int, width: int = WIDTH) -> str:
    """The path of a tile of hashes: ``tile/0/x001/x234/067``, with ``.p/W`` if it is partial."""
    if not 0 <= level <= HIGHEST_LEVEL:
        raise ValueError(f"there is no level {level}")
    return f"tile/{level}/{_name_index(index, width)}"


def name_entries(index: int, width: int = WIDTH) -> str:
    """The path of a bundle of entries."""
    return f"tile/entries/{_name_index(index, width)}"


def name_details(index: int, width: int = WIDTH) -> str:
    """The path of what stands beside the entries of a bundle."""
    return f"detail/{_name_index(index, width)}"


def _name_index(index: int, width: int) -> str:
    if index < 0 or not 1 <= width <= WIDTH:
        raise ValueError(f"there is no tile {index} of width {width}")
    path = f"{index % 1000:03d}"
    while index := index // 1000:
        path = f"x{index % 1000:03d}/{path}"
    return path if width == WIDTH else f"{path}.p/{width}"


def parse_name(path: str) -> TileName:
    """What the path below the log's root names; `Invalid` if no tile is ever called so."""
    found = _NAME.fullmatch(path) if len(path) <= _LONGEST_NAME else None
    if found is None:
        raise Invalid("No file of a log has such a name (C2SP tlog-tiles).")
    level, width = int(found[1] or 0), int(found[4] or WIDTH)
    index = int(found[3].replace("x", "").replace("/", ""))
    if level > HIGHEST_LEVEL or (found[4] and width >= WIDTH) or found[3].startswith("x000"):
        raise Invalid("No file of a log has such a name (C2SP tlog-tiles).")
    if index << (_BITS * (level + 1)) > LARGEST_SIZE:
        raise Invalid("No log is as large as the name of this tile says.")
    kind = Kind.HASHES if found[1] else Kind.ENTRIES if found[2] else Kind.DETAILS
    return TileName(kind, level, index, width)


def measure_width(size: int, level: int, index: int) -> int:
    """How many hashes the tile has in a tree of `size` leaves; 0 if it isn't there."""
    return max(0, min(WIDTH, (size >> (_BITS * level)) - index * WIDTH))


def list_tiles(size: int) -> Iterator[TileName]:
    """The tiles of hashes of a tree of `size` leaves, level by level from the leaves on."""
    level, count = 0, size
    while count:
        for index in range(-(-count // WIDTH)):
            yield TileName(Kind.HASHES, level, index, min(WIDTH, count - index * WIDTH))
        level, count = level + 1, count >> _BITS


def read_tile(read: Read, level: int, index: int, width: int) -> bytes:
    """The tile's first `width` hashes.

    A partial tile that is gone is cut from the full one that took its place. `NotFound` names the
    tile if there is neither, `DamagedTile` one that is too short or too long.
    """
    name = name_tile(level, index, width)
    try:
        found, held = read(name), width
    except NotFound:
        if width == WIDTH:
            raise NotFound(f"{name} is missing.") from None
        full = name_tile(level, index)
        try:
            found, held = read(full), WIDTH
        except NotFound:
            raise NotFound(f"{name} is missing, and so is {full}.") from None
        name = full
    if len(found) != held * HASH_SIZE:
        what = "was cut off" if len(found) < held * HASH_SIZE else "holds more than a tile does"
        raise DamagedTile(
            name, f"{name} has {len(found)} bytes and not {held * HASH_SIZE}: it {what}."
        )
    return found[: width * HASH_SIZE]


def fold(hashes: bytes) -> bytes:
    """The root above the hashes, of which there are a power of two, one after the other."""
    # Pairs as they lie beside each other: a quarter faster than `hash_node` on two of them, and
    # every tile of every log goes through here.
    while len(hashes) > HASH_SIZE:
        hashes = b"".join([sha256(b"\x01" + pair).digest() for (pair,) in _PAIRS(hashes)])
    return hashes


class Tiles:
    """The tiles of a tree of `size` leaves; keeps the ones that it read last."""

    __slots__ = ("_kept", "_read", "size")

    def __init__(self, read: Read, size: int) -> None:
        if not 0 <= size <= LARGEST_SIZE:
            raise Invalid(f"There is no log of {size} entries.")
        self.size = size
        self._read = read
        self._kept: dict[tuple[int, int], bytes] = {}

    def read(self, level: int, index: int) -> bytes:
        """The hashes of a tile, as many as it has at this size; as `read_tile`."""
        place = (level, index)
        found = self._kept.pop(place, None)
        if found is None:
            width = measure_width(self.size, level, index)
            if not width:
                raise NotFound(f"A tree of {self.size} entries has no tile {index} of {level}.")
            found = read_tile(self._read, level, index, width)
            if len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
        self._kept[place] = found  # at the end: what was used least recently stands first
        return found

    def hash_range(self, start: int, end: int) -> bytes:
        """MTH of the leaves from `start` to before `end`, which must be a subtree of the tree."""
        if not 0 <= start < end <= self.size:
            raise ValueError(f"there are no leaves from {start} to {end} among {self.size}")
        peaks = []
        while start < end:
            height = (end - start).bit_length() - 1
            peaks.append(self._find_node(start >> height, height))
            start += 1 << height
        found = peaks.pop()
        while peaks:
            found = hash_node(peaks.pop(), found)
        return found

    def _find_node(self, number: int, height: int) -> bytes:
        """The root of complete subtree `number` of ``2**height`` leaves."""
        level, depth = divmod(height, _BITS)
        place = number << depth
        hashes = self.read(level, place // WIDTH)
        at = place % WIDTH * HASH_SIZE
        return fold(hashes[at : at + (HASH_SIZE << depth)])


def compute_tree_root(read: Read, size: int) -> bytes:
    """The root of the log's first `size` entries, from the fewest tiles that say it.

    It shows nothing about the tiles below those: `verification` looks at all.
    """
    return Tiles(read, size).hash_range(0, size) if size else EMPTY_ROOT


def prove_inclusion(read: Read, index: int, size: int) -> tuple[bytes, ...]:
    """PATH(`index`, first `size` entries) of RFC 6962, section 2.1.1.

    As true as the tiles are: verify it before you hand it on. `NotFound` if there is no such entry.
    """
    if not 0 <= index < size:
        raise NotFound(f"There is no entry {index} in a log of {size}.")
    tiles = Tiles(read, size)
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if index < middle:
            path.append(tiles.hash_range(middle, end))
            end = middle
        else:
            path.append(tiles.hash_range(start, middle))
            start = middle
    return tuple(reversed(path))


def prove_consistency(read: Read, old: int, new: int) -> tuple[bytes, ...]:
    """PROOF(`old`, first `new` entries) of RFC 6962, section 2.1.2; empty for ``old == 0``.

    `Invalid` if the sizes are the wrong way round.
    """
    if not 0 <= old <= new:
        raise Invalid(f"A log of {new} entries can't continue one of {old}.")
    if old in (0, new):
        return ()
    tiles = Tiles(read, new)
    proof = []
    start, end, whole = 0, new, True
    while end != old:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if old <= middle:
            proof.append(tiles.hash_range(middle, end))
            end = middle
        else:
            proof.append(tiles.hash_range(start, middle))
            start, whole = middle, False
    if not whole:
        proof.append(tiles.hash_range(start, end))
    return tuple(reversed(proof))
