"""Verification of a whole log, or a part of it, from its files and a checkpoint alone.

Every tile is held against the one above it, every entry against its leaf hash, every detail against
what its entry commits to. What is damaged is named, and the rest is looked at all the same: where a
tile is wrong, its hashes are computed again from what lies below, and whatever leads to the
checkpoint's root is the truth. Nothing is taken from whoever serves the files but the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod

from troth.audit.contents import Contents, Watch, compute_hashes, pick
from troth.audit.flaw import Fault, Findings, describe_run, group
from troth.audit.merkle import EMPTY_ROOT, HASH_SIZE, hash_node
from troth.audit.tile import (
    HIGHEST_LEVEL,
    WIDTH,
    DamagedTile,
    Read,
    fold,
    measure_width,
    name_entries,
    name_tile,
    read_tile,
)
from troth.core.errors import Invalid, NotFound

CHECKPOINT = "checkpoint"
MOST_GUESSES = 1024
"""Combinations of what is read and what is computed that are tried where both are damaged."""

_BITS = 8
_TOLD = 8
"""Runs of wrong hashes of one tile that are told."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Scope:
    """What of a log is verified: entries from `start` to before `end`, from 0 on (None: to its
    end), in whole bundles.

    `leaves`: the entries are troth's own, and their positions and times are looked at. `details`:
    so is what lies beside them; only who has those files can.
    """

    start: int = 0
    end: int | None = None
    leaves: bool = True
    details: bool = True


def verify_log(
    read: Read,
    size: int,
    root: bytes,
    scope: Scope = Scope(),
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Findings:
    """Hold the files of a log against a checkpoint's size and root, which the caller trusts.

    Never raises for what is wrong with the files: it is in the findings. What `read` raises because
    it can't reach them for the moment is the caller's. `progress` is told how
    many entries are done, and of how many; `watch` of troth's own entries, in their order. Holds a
    few tiles at a time. `Invalid` for a scope that the log doesn't have.
    """
    end = size if scope.end is None else scope.end
    if not 0 <= scope.start <= end <= size:
        raise Invalid(f"The log has {size} entries: there are none from {scope.start} to {end}.")
    findings = Findings()
    if size:
        contents = Contents(read, findings, scope.leaves, scope.details, watch)
        _Walk(read, size, root, (scope.start, end), contents, findings, progress).verify()
        contents.conclude(size, end)
    elif root != EMPTY_ROOT:
        words = "The checkpoint has no entry, and another root than that of no entry."
        findings.add(Fault.ALTERED, CHECKPOINT, words)
    return findings


@dataclass(slots=True)
class _Gap:
    """Tiles of a level that are missing with all that is below them, one beside the other: the
    first one's name, the first and the last index, and the entries from `start` to before `end`."""

    name: str
    level: int
    first: int
    last: int
    start: int
    end: int


class _Walk:
    """One way through the tree, from its root down to the leaves within `bounds`."""

    def __init__(
        self,
        read: Read,
        size: int,
        root: bytes,
        bounds: tuple[int, int],
        contents: Contents,
        findings: Findings,
        progress: Progress | None,
    ) -> None:
        self._read, self._size, self._root = read, size, root
        self._start, self._end = bounds
        self._contents, self._findings = contents, findings
        self._progress = progress
        self._done = 0
        self._gone: set[tuple[int, int]] = set()
        """Tiles that are missing with all that is below them, until they are passed over."""
        self._gap: _Gap | None = None

    def verify(self) -> None:
        """Look at everything within the bounds, the oldest entries first."""
        edge = list_edge(self._size)
        found = [self._read_hashes(level, index) for level, index, _ in edge]
        proved = None not in found and fold_edge(found) == self._root
        if not proved:
            found, proved = self._settle_edge(edge, found)
        for (level, index, width), hashes in reversed(list(zip(edge, found, strict=True))):
            if self._pass_over(level, index, width):
                continue
            if level or self._touches(0, index):
                self._descend(level, index, width, hashes, proved)
        self._tell_gap()

    def _descend(
        self, level: int, index: int, width: int, hashes: bytes | None, proved: bool
    ) -> None:
        """Look at what is below a tile, whose hashes are `proved` or only taken for true."""
        if not level:
            self._contents.verify(index, width, hashes, proved)
            self._advance(*self._find_span(level, index, width))
            return
        for number in range(width):
            child = index * WIDTH + number
            if not self._touches(level - 1, child):
                continue
            expected = pick(hashes, number)
            below = self._read_hashes(level - 1, child)
            if self._pass_over(level - 1, child, WIDTH):
                continue
            sure = proved and expected is not None
            if below is None or expected is None or fold(below) != expected:
                below, sure = self._settle(level - 1, child, below, expected, sure)
            self._descend(level - 1, child, WIDTH, below, sure)

    def _touches(self, level: int, index: int) -> bool:
        span = 1 << (_BITS * (level + 1))
        bounded = index * span < self._end and (index + 1) * span > self._start
        return bounded and self._start < self._end

    def _read_hashes(self, level: int, index: int) -> bytes | None:
        """The tile; None if it is missing or has another length, which is noted."""
        width = measure_width(self._size, level, index)
        self._findings.tiles += 1
        try:
            found = read_tile(self._read, level, index, width)
            self._tell_gap()
            return found
        except NotFound as error:
            self._note_missing(level, index, width, error.detail)
        except DamagedTile as error:
            self._findings.add(Fault.CUT, error.name, error.detail)
        return None

    def _note_missing(self, level: int, index: int, width: int, words: str) -> None:
        name, gap = name_tile(level, index, width), self._gap
        start, end = self._find_span(level, index, width)
        follows = gap is not None and (gap.level, gap.last) == (level, index - 1)
        if start >= end or self._has_below(level, index, 1 if follows else HIGHEST_LEVEL):
            self._tell_gap()
            self._findings.add(Fault.MISSING, name, words)
            return
        self._gone.add((level, index))
        if gap is not None and follows:
            gap.last, gap.end = index, end
            return
        self._tell_gap()
        self._gap = _Gap(name, level, index, index, start, end)

    def _tell_gap(self) -> None:
        """What is gone as a whole is told as a whole."""
        gap, self._gap = self._gap, None
        if gap is None:
            return
        words = f"{gap.name} is missing, and so is all that lies below it"
        if gap.last > gap.first:
            words = f"The tiles from {gap.name} to {name_tile(gap.level, gap.last)} are missing, "
            words += "and so is all that lies below them"
        words += f": {describe_run('entry', 'entries', gap.start, gap.end - 1)}."
        self._findings.add(Fault.MISSING, gap.name, words, gap.start, gap.end - 1)

    def _pass_over(self, level: int, index: int, width: int) -> bool:
        """Whether a tile is gone with all that is below it. How much that would be is only what
        the checkpoint says, and needn't ever have been anywhere: it isn't looked for."""
        if (level, index) not in self._gone:
            return False
        self._gone.remove((level, index))
        self._advance(*self._find_span(level, index, width))
        return True

    def _has_below(self, level: int, index: int, depth: int = HIGHEST_LEVEL) -> bool:
        """Whether something is left of what a tile was made from, on the way down to the first of
        its entries that is within the bounds, at most `depth` files."""
        if not level:
            return True  # a single bundle, which is looked at anyway
        first = max(index << (_BITS * (level + 1)), self._start)
        names = [name_tile(at, first >> (_BITS * (at + 1))) for at in reversed(range(level))]
        return any(map(self._is_there, (*names, name_entries(first // WIDTH))[:depth]))

    def _is_there(self, name: str) -> bool:
        try:
            self._read(name)
        except NotFound:
            return False
        except DamagedTile:
            pass  # it is told of in its turn
        return True

    def _find_span(self, level: int, index: int, width: int) -> tuple[int, int]:
        """The entries below a tile that are within the bounds: the first, and the one after the
        last."""
        first = index << (_BITS * (level + 1))
        last = first + (width << (_BITS * level))
        return max(first, self._start), min(last, self._end)

    def _advance(self, start: int, end: int) -> None:
        self._done += max(0, end - start)
        if self._progress is not None:
            self._progress(self._done, self._end - self._start)

    # Where a tile isn't what the one above it says

    def _settle(
        self, level: int, index: int, found: bytes | None, expected: bytes | None, proved: bool
    ) -> tuple[bytes | None, bool]:
        """The hashes to go on with instead of a tile that is missing or wrong, and whether they are
        proved."""
        name = name_tile(level, index)
        choices = self._list_choices(level, index, WIDTH, found)
        if expected is not None:
            for guess in mix(choices):
                if fold(guess) == expected:
                    self._tell_difference(name, found, guess)
                    return guess, proved
        computed = join_last(choices)
        if found is None:
            first = index << (_BITS * (level + 1))
            words = f"Nothing shows whether what is below {name} is right: that tile is gone."
            self._findings.add(Fault.UNPROVED, name_entries(first // WIDTH), words, first)
            return computed, False
        if not proved:
            words = f"{name} doesn't fit the tile above it, which is damaged itself."
            self._findings.add(Fault.UNPROVED, name, words)
        elif computed == found:
            words = f"{name} was altered, and what is below it with it: that part was rewritten."
            self._findings.add(Fault.ALTERED, name, words)
        else:
            words = f"{name} was altered, and what is below it doesn't say what it was."
            self._findings.add(Fault.ALTERED, name, words)
        return found, False

    def _settle_edge(
        self, edge: Sequence[tuple[int, int, int]], found: Sequence[bytes | None]
    ) -> tuple[list[bytes | None], bool]:
        """The same for the tiles at the right edge of the tree, which only together have a root."""
        guesses = [
            list(mix(self._list_choices(level, index, width, hashes)))
            for (level, index, width), hashes in zip(edge, found, strict=True)
        ]
        for guess in islice(product(*guesses), MOST_GUESSES):
            if fold_edge(guess) == self._root:
                for place, wrong, right in zip(edge, found, guess, strict=True):
                    self._tell_difference(name_tile(*place), wrong, right)
                return list(guess), True
        words = f"The tiles don't lead to the checkpoint's root of {self._size} entries: "
        if None in found:
            words += "some of them are missing or damaged."
        else:
            words += "they were altered together, or are those of another log."
        self._findings.add(Fault.ALTERED, CHECKPOINT, words)
        return [some[0] if some else None for some in guesses], False

    def _tell_difference(self, name: str, found: bytes | None, right: bytes) -> None:
        if found is None or found == right:
            return
        count = len(right) // HASH_SIZE
        wrong = [at for at in range(count) if pick(found, at) != pick(right, at)]
        runs = ", ".join(describe_run("hash", "hashes", *run) for run in group(wrong)[:_TOLD])
        words = f"In {name}, {runs} of {count} isn't that of what lies below: altered."
        self._findings.add(Fault.ALTERED, name, words)

    def _list_choices(
        self, level: int, index: int, width: int, found: bytes | None
    ) -> list[list[bytes]]:
        """What each hash of a tile may be: as it was read, and as what is below it says, where all
        of that is within the bounds."""
        choices = [[] if (one := pick(found, at)) is None else [one] for at in range(width)]
        first = index << (_BITS * (level + 1))
        if first < self._start or first + (width << (_BITS * level)) > self._end:
            return choices
        if level:
            for number, some in enumerate(choices):
                some.extend(
                    self._list_roots(level - 1, index * WIDTH + number, pick(found, number))
                )
                if not some:
                    break  # without one of them the others say nothing
        elif (computed := compute_hashes(self._read, index, width)) is not None:
            for number, some in enumerate(choices):
                some.append(computed[number * HASH_SIZE : (number + 1) * HASH_SIZE])
        return [list(dict.fromkeys(some)) for some in choices]

    def _list_roots(self, level: int, index: int, hint: bytes | None) -> list[bytes]:
        """What the root of a subtree may be: from its tile, and from what is below that."""
        try:
            found = read_tile(self._read, level, index, WIDTH)
        except (NotFound, DamagedTile):
            found = None
            if not self._has_below(level, index):
                return []
        root = None if found is None else fold(found)
        if root is not None and root == hint:
            return [root]
        computed = join_last(self._list_choices(level, index, WIDTH, found))
        return [one for one in (root, computed and fold(computed)) if one]


def list_edge(size: int) -> list[tuple[int, int, int]]:
    """Level, index and width of the partial tiles of a tree, from the leaves up."""
    found = []
    level = 0
    while size >> (_BITS * level):
        if width := (size >> (_BITS * level)) % WIDTH:
            found.append((level, size >> (_BITS * (level + 1)), width))
        level += 1
    return found


def fold_edge(tiles: Sequence[bytes | None]) -> bytes:
    """The root of the tree whose partial tiles these are, from the leaves up; none if one lacks."""
    root = b""
    for hashes in tiles:
        if hashes is None:
            return b""
        end = len(hashes) // HASH_SIZE
        for bit in range(_BITS):  # the smallest complete subtree stands last
            if end >> bit & 1:
                start = end - (1 << bit)
                peak = fold(hashes[start * HASH_SIZE : end * HASH_SIZE])
                root = hash_node(peak, root) if root else peak
                end = start
    return root


def mix(choices: Sequence[Sequence[bytes]]) -> Iterator[bytes]:
    """What a tile may have been: as it was read, as it was computed, and where few hashes are in
    question some of each."""
    if not all(choices):
        return
    yield b"".join([some[0] for some in choices])
    count = prod(map(len, choices))
    if count > 1:
        yield b"".join([some[-1] for some in choices])
    if 2 < count <= MOST_GUESSES:
        yield from map(b"".join, product(*choices))


def join_last(choices: Sequence[Sequence[bytes]]) -> bytes | None:
    """The tile as it was computed; None if some of it can't be."""
    return b"".join([some[-1] for some in choices]) if all(choices) else None
