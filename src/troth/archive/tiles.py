"""The log's tiles, entries and details in a place, and how they grow.

They are made from sealed events alone, so they can be made again as long as those are there; and
they hold all that those hold, so a journal that lost events gets them back from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec

from troth.archive.place import Place
from troth.audit.entry import (
    StoredEvent,
    join_details,
    join_entries,
    read_leaf,
    render_entry,
    restore_event,
    split_details,
    split_entries,
)
from troth.audit.merkle import EMPTY_ROOT, HASH_SIZE, hash_leaf, hash_node
from troth.audit.tile import (
    WIDTH,
    compute_tree_root,
    fold,
    name_details,
    name_entries,
    name_tile,
)
from troth.core.errors import Invalid, NotFound, Refused

SIZE = "size"
CHECKPOINT = "checkpoint"
KEYS = "vkey"


class DamagedLog(Refused):
    """The place doesn't hold any more what was written to it."""


class _Edge(msgspec.Struct, frozen=True):
    """How far the place is complete: the file `SIZE`."""

    root: str
    size: int


@dataclass(slots=True)
class _Grown:
    """The right edge: per level the hashes of its partial tile, and the bundles of level 0."""

    size: int
    levels: list[list[bytes]]
    entries: list[bytes]
    details: list[bytes]
    outdated: list[str] = field(default_factory=list)
    """Folders of partial files that full ones took the place of."""

    def add_hash(self, one: bytes, level: int = 0) -> None:
        """Add a leaf's hash, or the root of a tile that is full."""
        if level == len(self.levels):
            self.levels.append([])
        self.levels[level].append(one)


class LogFolder:
    """A log in a place. One thread at a time; what is read may be read by any.

    `size` is how many entries are there and durable, `root` the root over them.
    """

    def __init__(self, place: Place, *, cut_back: bool = False) -> None:
        """Open what is there. `DamagedLog` if its edge isn't what was written last.

        With `cut_back` it ends after its last full bundle: what follows is to be appended again.
        """
        self.place = place
        self.size = 0
        self.root = EMPTY_ROOT
        self._grown = _Grown(0, [], [], [])
        if cut_back:
            self._cut_back()
        else:
            self._load()

    def read(self, name: str) -> bytes:
        """A file of the log by its name; `NotFound` if there is none."""
        return self.place.read(name)

    def append(self, events: Sequence[StoredEvent]) -> None:
        """Add the events that follow, in their order; they count once `settle` has returned.

        `Invalid` if they don't follow.
        """
        grown = self._grown
        for event in events:
            if event.position != grown.size + 1:
                raise Invalid(
                    f"The log has {grown.size} entries: the event at position {event.position} "
                    "doesn't follow."
                )
            leaf, beside = render_entry(event)
            grown.entries.append(leaf)
            grown.details.append(beside)
            grown.add_hash(sha256(b"\x00" + leaf).digest())
            grown.size += 1
            if not grown.size % WIDTH:
                self._complete()

    def settle(self) -> None:
        """Make durable what was appended, with the partial tiles of this very size."""
        grown = self._grown
        if grown.size == self.size:
            return
        for level, hashes in enumerate(grown.levels):
            if hashes:
                index = grown.size >> (8 * (level + 1))
                self.place.add(name_tile(level, index, len(hashes)), b"".join(hashes))
        if grown.entries:
            index, width = divmod(grown.size, WIDTH)
            self.place.add(name_entries(index, width), join_entries(grown.entries))
            self.place.add(name_details(index, width), join_details(grown.details))
        self.place.settle()
        root = _join_levels(grown.levels)
        self.place.write(SIZE, msgspec.json.encode(_Edge(root.hex(), grown.size)))
        self.place.settle()
        self.size, self.root = grown.size, root
        while grown.outdated:
            self.place.remove(grown.outdated.pop())

    def compute_root(self, size: int) -> bytes:
        """The root over the first `size` entries, from what is on disk. With it the partial tiles
        of that size are there: they must be for every checkpoint that is published."""
        if size > self.size:
            raise NotFound(f"The log has {self.size} entries, not yet {size}.")
        for level in range(64):
            index, width = divmod(size >> (8 * level), WIDTH)
            if not size >> (8 * level):
                break
            if width:
                self._cut(name_tile(level, index, width), level, index, width)
        index, width = divmod(size, WIDTH)
        if width and index == self.size // WIDTH and self._is_missing(name_entries(index, width)):
            entries, details = self._read_pair(index)
            self.place.write(name_entries(index, width), join_entries(entries[:width]))
            self.place.write(name_details(index, width), join_details(details[:width]))
        self.place.settle()
        return compute_tree_root(self.read, size)

    def abandon(self) -> None:
        """Forget what was appended since the last `settle`: it is written again next time."""
        self._load()

    def save(self, name: str, data: bytes) -> None:
        """Keep the checkpoint, or the keys, for those who read the files."""
        try:
            if self.place.read(name) == data:
                return
        except NotFound:
            pass
        self.place.write(name, data)
        self.place.settle()

    def list_events(self, after: int, until: int) -> Iterator[StoredEvent]:
        """Events after position `after` up to position `until`, as they were in the journal.

        `DamagedLog` names what can't be read any more.
        """
        for index in range(after // WIDTH, -(-until // WIDTH)):
            for place, event in enumerate(self._read_bundle(index), index * WIDTH + 1):
                if after < place <= until:
                    yield event

    def list_entries(self, after: int, until: int) -> Iterator[tuple[int, bytes]]:
        """Entries after position `after` up to `until`, each with its position."""
        for index in range(after // WIDTH, -(-until // WIDTH)):
            entries, _ = self._read_pair(index)
            for position, entry in enumerate(entries, index * WIDTH + 1):
                if after < position <= until:
                    yield position, entry

    def list_lost(self, last: StoredEvent | None, limit: int) -> list[StoredEvent]:
        """Events after the journal's `last`, at most `limit`, if the log goes on from that one."""
        head = 0 if last is None else last.position
        if head >= self.size:
            return []
        if last is not None and self.find_entry(head)[0] != render_entry(last)[0]:
            return []
        return list(self.list_events(head, min(self.size, head + limit)))

    def find_entry(self, position: int) -> tuple[bytes, bytes]:
        """The entry of the event at that position, and what lies beside it; `NotFound`."""
        index, at = divmod(position - 1, WIDTH)
        if not 1 <= position <= self.size:
            raise NotFound(f"The log has no entry for position {position}.")
        entries, details = self._read_pair(index)
        return entries[at], details[at]

    def redact(self, position: int) -> bytes:
        """Take the detail beside an entry away for good; the commitment that stays. Again is no
        error, and neither is an entry that isn't settled yet."""
        if not 1 <= position <= self._grown.size:
            raise NotFound(f"The log has no entry for position {position}.")
        index, at = divmod(position - 1, WIDTH)
        name = name_details(index)
        if index == self._grown.size // WIDTH:
            entries, details = self._grown.entries, self._grown.details
            details[at] = b""
            # All that ever were: a crash may have left some that are wider than what counts.
            for width in range(at + 1, WIDTH):
                self._redact_partial(index, width, at)
        else:
            entries, details = self._read_pair(index, WIDTH)
            if details[at]:
                details[at] = b""
                self.place.write(name, join_details(details))
            self.place.remove(f"{name}.p")
        self.place.settle()
        return bytes.fromhex(read_leaf(entries[at]).detail)

    def set_aside(self, suffix: str) -> str:
        """Begin again with nothing; where the old files are now."""
        where = self.place.set_aside(suffix)
        self._load()
        return where

    # How it grows

    def _complete(self) -> None:
        """Write the bundles and tiles that the last entry completed."""
        grown, level = self._grown, 0
        index = grown.size // WIDTH - 1
        self._add_full(name_entries(index), join_entries(grown.entries))
        self._add_full(name_details(index), join_details(grown.details))
        grown.entries, grown.details = [], []
        while len(grown.levels[level]) == WIDTH:
            hashes = grown.levels[level]
            index = (grown.size >> (8 * (level + 1))) - 1
            self._add_full(name_tile(level, index), b"".join(hashes))
            grown.levels[level] = []
            level += 1
            grown.add_hash(fold(b"".join(hashes)), level)

    def _add_full(self, name: str, data: bytes) -> None:
        self.place.add(name, data)
        self._grown.outdated.append(f"{name}.p")

    # What is there

    def _load(self) -> None:
        try:
            edge = msgspec.json.decode(self.place.read(SIZE), type=_Edge)
        except NotFound:
            self.size, self.root, self._grown = 0, EMPTY_ROOT, _Grown(0, [], [], [])
            return
        except ValueError as error:
            raise self._damaged(SIZE) from error
        levels = []
        level = 0
        while edge.size >> (8 * level):
            index, width = divmod(edge.size >> (8 * level), WIDTH)
            levels.append(self._read_hashes(level, index, width))
            level += 1
        index, width = divmod(edge.size, WIDTH)
        entries, details = self._read_pair(index, width) if width else ([], [])
        root = _join_levels(levels)
        if root.hex() != edge.root or list(map(hash_leaf, entries)) != (levels or [[]])[0]:
            raise self._damaged(f"{name_entries(index, width or WIDTH)} or a tile beside it")
        self._grown = _Grown(edge.size, levels, entries, details)
        self.size, self.root = edge.size, root

    def _cut_back(self) -> None:
        """Compute the edge from the full tiles below it."""
        try:
            size = msgspec.json.decode(self.place.read(SIZE), type=_Edge).size // WIDTH * WIDTH
        except (NotFound, ValueError) as error:
            raise self._damaged(SIZE) from error
        if not size:
            raise self._damaged("the only bundle")
        levels: list[list[bytes]] = [[]]
        while count := size >> (8 * len(levels)):
            first, below = count // WIDTH * WIDTH, len(levels) - 1
            full = (self._read_hashes(below, index, WIDTH) for index in range(first, count))
            levels.append([fold(b"".join(hashes)) for hashes in full])
        self._grown = _Grown(size, levels, [], [])
        self.settle()

    def _read_hashes(self, level: int, index: int, width: int) -> list[bytes]:
        if not width:
            return []
        name = name_tile(level, index, width)
        try:
            data = self._read_wide(name, name_tile(level, index))[: width * HASH_SIZE]
        except NotFound as error:
            raise self._damaged(name) from error
        if len(data) != width * HASH_SIZE:
            raise self._damaged(name)
        return [data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE)]

    def _cut(self, name: str, level: int, index: int, width: int) -> None:
        """Write a partial tile from the wider one that is there, unless a full one is."""
        now = (self.size >> (8 * level)) - index * WIDTH
        if now >= WIDTH or not self._is_missing(name):
            return
        wider = b"".join(self._read_hashes(level, index, now))
        self.place.write(name, wider[: width * HASH_SIZE])

    def _is_missing(self, name: str) -> bool:
        try:
            self.place.read(name)
        except NotFound:
            return True
        return False

    def _find_width(self, index: int) -> int:
        return min(WIDTH, self.size - index * WIDTH)

    def _read_pair(self, index: int, width: int = 0) -> tuple[list[bytes], list[bytes]]:
        """The entries of a bundle and what lies beside them."""
        width = width or self._find_width(index)
        name, beside = name_entries(index, width), name_details(index, width)
        try:
            entries = split_entries(self._read_wide(name, name_entries(index)))[:width]
            details = split_details(self._read_wide(beside, name_details(index)))[:width]
        except (NotFound, Invalid) as error:
            raise self._damaged(f"{name} or {beside}") from error
        if not len(entries) == len(details) == width:
            raise self._damaged(f"{name} or {beside}")
        return entries, details

    def _read_wide(self, name: str, full: str) -> bytes:
        """A file, or the full one that took its place (or will, after a crash before its size was
        written)."""
        try:
            return self.place.read(name)
        except NotFound:
            if name == full:
                raise
            return self.place.read(full)

    def _read_bundle(self, index: int) -> Iterable[StoredEvent]:
        entries, details = self._read_pair(index)
        for at, (entry, beside) in enumerate(zip(entries, details, strict=True)):
            try:
                yield restore_event(entry, beside)
            except Invalid as error:
                name = name_entries(index, self._find_width(index))
                raise self._damaged(f"entry {at} of {name}") from error

    def _redact_partial(self, index: int, width: int, at: int) -> None:
        name = name_details(index, width)
        try:
            details = split_details(self.place.read(name))
        except NotFound:
            return
        except Invalid:
            self.place.remove(name)  # damaged: nobody can use it
            return
        if details[at]:
            details[at] = b""
            self.place.write(name, join_details(details))

    def _damaged(self, what: str) -> DamagedLog:
        return DamagedLog(
            f"The log at {self.place.describe()} is damaged: {what} isn't what was written. Run "
            "`troth audit verify` on it to see what else is; restore it from a copy, or move it "
            "away: what the database still holds is written anew."
        )


def _join_levels(levels: Sequence[Sequence[bytes]]) -> bytes:
    """The root over what the partial tiles of all levels cover (RFC 9162, section 2.1.1): the
    largest complete subtrees stand to the left, so they are joined from the right."""
    found = b""
    for hashes in levels:
        for peak in reversed(_list_peaks(hashes)):
            found = hash_node(peak, found) if found else peak
    return found or EMPTY_ROOT


def _list_peaks(hashes: Sequence[bytes]) -> list[bytes]:
    """Roots of the complete subtrees over these, the largest first."""
    peaks, at, width = [], 0, len(hashes)
    for power in range(width.bit_length() - 1, -1, -1):
        if width >> power & 1:
            peaks.append(fold(b"".join(hashes[at : at + (1 << power)])))
            at += 1 << power
    return peaks
