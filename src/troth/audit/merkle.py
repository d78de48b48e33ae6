"""Merkle trees as RFC 6962 has them: the root of a growing list, and proofs about it.

Hashes are SHA-256; leaves and nodes are hashed with a byte before them, so that none can be taken
for the other (section 2.1). Proofs go from the leaf upwards (sections 2.1.1 and 2.1.2). A subtree
is what draft-ietf-plants-merkle-tree-certs calls so: the tree over the leaves from `start` to
before `end`, where `start` is a multiple of the power of two that holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from troth.core.errors import Invalid
from troth.core.logsize import LARGEST_SIZE

HASH_SIZE = 32
EMPTY_ROOT = sha256().digest()
"""The root of no leaf at all."""

LONGEST_PATH = 64
"""As many hashes as any proof has at most: sizes have 63 bits."""


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


def verify_inclusion(
    leaf: bytes, index: int, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """That the tree of `size` leaves with this root has `leaf`, a hash, at `index`.

    `Invalid` unless the proof shows it (RFC 9162, section 2.1.3.2).
    """
    if compute_root(leaf, index, size, proof) != root:
        raise Invalid("The proof leads to another root: the log doesn't hold this entry there.")


def verify_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """That the larger tree begins with all leaves of the smaller one, in their order.

    `Invalid` unless the proof shows it (RFC 9162, section 2.1.4.2). Of the empty tree there is
    nothing to show but that it is the empty one: every tree begins with it, so whoever starts with
    nothing has to say so and not ask for a proof.
    """
    if not old_size:
        if new_size or proof or not old_root == new_root == EMPTY_ROOT:
            raise Invalid("No proof shows anything about an empty tree but that it is empty.")
        return
    verify_subtree(0, old_size, old_root, new_size, new_root, proof)


def verify_subtree_inclusion(
    leaf: bytes, index: int, start: int, end: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """That the subtree from `start` to `end` with this root has `leaf` at `index` of the whole.

    `Invalid` unless the proof shows it (draft-ietf-plants-merkle-tree-certs, "Subtree Inclusion
    Proofs").
    """
    _require_subtree(start, end)
    verify_inclusion(leaf, index - start, end - start, root, proof)


def verify_subtree(
    start: int, end: int, node: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """That the tree of `size` leaves with this root has the subtree with the root `node`.

    `Invalid` unless the proof shows it (draft-ietf-plants-merkle-tree-certs, "Subtree Consistency
    Proofs": for ``start == 0`` it is RFC 9162, section 2.1.4.2). The empty subtree is in all trees.
    """
    _require_subtree(start, end)
    if end > size:
        raise Invalid(f"A tree of {size} entries can't hold {end}: the sizes are the wrong way.")
    if len(proof) > LONGEST_PATH or any(len(one) != HASH_SIZE for one in proof):
        raise Invalid("The proof holds something that is no SHA-256 hash, or too many of them.")
    if start == end:
        if proof or node != EMPTY_ROOT:
            raise Invalid("The root of no entry at all is another one.")
        return
    first, last, edge = start, end - 1, size - 1
    while first != last and (last == edge or last & 1):
        first, last, edge = first >> 1, last >> 1, edge >> 1
    hashes = iter(proof)
    # The whole subtree is a node of the larger tree, or its rightmost complete part comes first.
    below = node if first == last else next(hashes, b"")
    old = new = below
    for beside in hashes:
        if not edge:
            raise Invalid("The proof is longer than one between these sizes.")
        if last & 1 or last == edge:
            if first < last:
                old = hash_node(beside, old)
            new = hash_node(beside, new)
            while not last & 1 and last:
                first, last, edge = first >> 1, last >> 1, edge >> 1
        else:
            new = hash_node(new, beside)
        first, last, edge = first >> 1, last >> 1, edge >> 1
    if edge:
        raise Invalid("The proof is shorter than one between these sizes.")
    if old != node or new != root:
        raise Invalid("The proof leads to other roots: the larger tree doesn't continue this one.")


def _require_subtree(start: int, end: int) -> None:
    if not 0 <= start <= end <= LARGEST_SIZE:
        raise Invalid(f"There are no entries from {start} to {end}.")
    if start < end and start & ((1 << (end - start - 1).bit_length()) - 1):
        raise Invalid(f"The entries from {start} to {end} are no subtree.")
