"""Merkle trees as RFC 6962 has them: the root of a growing list, and proofs of inclusion.

Hashes are SHA-256; leaves and nodes are hashed with a byte before them, so that none can be taken
for the other (section 2.1). Paths go from the leaf upwards (section 2.1.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from troth.core.errors import Invalid

HASH_SIZE = 32
EMPTY_ROOT = sha256().digest()
"""The root of no leaf at all."""

LONGEST_PATH = 64
"""More hashes than the path of any leaf has: sizes have 63 bits at most."""


def hash_leaf(entry: bytes) -> bytes:
    """The leaf hash of an entry."""
    return sha256(b"\x00" + entry).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """The hash of the node above two others."""
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """The root of a list that grows at its end; keeps a hash for each one bit of the size."""

    __slots__ = ("_peaks", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._peaks: list[bytes] = []
        """Roots of the complete subtrees, the largest first."""

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._size

    @property
    def root(self) -> bytes:
        """MTH of all leaves so far."""
        if not self._peaks:
            return EMPTY_ROOT
        found = self._peaks[-1]
        for peak in self._peaks[-2::-1]:
            found = hash_node(peak, found)
        return found

    def add(self, leaf: bytes) -> None:
        """Append a leaf by its hash."""
        peaks, carry = self._peaks, self._size
        while carry & 1:
            leaf = hash_node(peaks.pop(), leaf)
            carry >>= 1
        peaks.append(leaf)
        self._size += 1


def make_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """PATH(`index`, `leaves`): what `compute_root` needs beside the leaf; `leaves` are hashes.

    Raises `IndexError` unless ``0 <= index < len(leaves)``.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"there is no leaf {index} among {len(leaves)}")
    path = []
    level = list(leaves)
    while len(level) > 1:
        beside = index ^ 1
        if beside < len(level):
            path.append(level[beside])
        above = [hash_node(*level[at : at + 2]) for at in range(0, len(level) - 1, 2)]
        if len(level) % 2:  # the last one has no neighbour: it is its own subtree
            above.append(level[-1])
        level, index = above, index // 2
    return tuple(path)


def compute_root(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root of a tree of `size` leaves that has `leaf` at `index`, if `path` is its path.

    The caller compares it with a root that it trusts. Raises `Invalid` where no such tree can be
    (RFC 9162, section 2.1.3.2, which says the same of the same trees in steps).
    """
    if not 0 <= index < size:
        raise Invalid(f"The proof is for leaf {index} of {size}: there is none.")
    if len(path) > LONGEST_PATH or any(len(one) != HASH_SIZE for one in (leaf, *path)):
        raise Invalid("The proof holds something that is no SHA-256 hash, or too many of them.")
    found, last = leaf, size - 1
    for beside in path:
        if not last:
            raise Invalid("The proof is longer than the path of its leaf.")
        if index & 1 or index == last:
            found = hash_node(beside, found)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            found = hash_node(found, beside)
        index, last = index >> 1, last >> 1
    if last:
        raise Invalid("The proof is shorter than the path of its leaf.")
    return found
