"""Merkle trees: transparency-dev's vectors, and the definition of RFC 6962 written out."""

from __future__ import annotations

import json
from base64 import b64decode
from hashlib import sha256
from pathlib import Path

import pytest

from troth.audit.merkle import EMPTY_ROOT, Tree, compute_root, hash_leaf, hash_node, make_path
from troth.core.errors import Invalid

VECTORS = "shared/data/merkle/testdata/inclusion"
"""Of github.com/transparency-dev/merkle, Apache-2.0, beside the repository."""


def find_vectors() -> list[Path]:
    for folder in Path(__file__).resolve().parents:
        if (folder / VECTORS).is_dir():
            return sorted((folder / VECTORS).rglob("*.json"))
    return []


def test_inclusion_vectors():
    files = find_vectors()
    if not files:
        pytest.skip(f"{VECTORS} is not beside the repository")
    outcomes = {True: 0, False: 0}
    for file in files:
        case = json.loads(file.read_bytes())
        path = [b64decode(one) for one in case["proof"] or ()]
        leaf, root = b64decode(case["leafHash"] or ""), b64decode(case["root"] or "")
        try:
            fits = compute_root(leaf, case["leafIdx"], case["treeSize"], path) == root
        except Invalid:
            fits = False
        assert fits is not case["wantErr"], file
        outcomes[fits] += 1
    assert outcomes[True] > 5
    assert outcomes[False] > 50


def define_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it is written there."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hash_node(define_root(leaves[:split]), define_root(leaves[split:]))


def define_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of section 2.1.1."""
    if len(leaves) <= 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = leaves[:split], leaves[split:]
    if index < split:
        return [*define_path(index, left), define_root(right)]
    return [*define_path(index - split, right), define_root(left)]


LEAVES = [hash_leaf(bytes([number])) for number in range(70)]


def test_the_tree_that_grows_has_the_defined_root_at_every_size():
    tree = Tree()
    assert tree.root == EMPTY_ROOT == define_root([])
    for size, leaf in enumerate(LEAVES, 1):
        tree.add(leaf)
        assert tree.size == size
        assert tree.root == define_root(LEAVES[:size])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 33, 70])
def test_every_leaf_has_the_defined_path_and_it_leads_to_the_root(size):
    leaves = LEAVES[:size]
    for index in range(size):
        path = make_path(leaves, index)
        assert list(path) == define_path(index, leaves)
        assert compute_root(leaves[index], index, size, path) == define_root(leaves)


def test_no_path_leads_to_the_root_for_another_place_or_size():
    leaves = LEAVES[:13]
    root, path = define_root(leaves), make_path(leaves, 5)
    for index in range(-1, 15):
        for size in range(15):
            try:
                fits = compute_root(leaves[5], index, size, path) == root
            except Invalid:
                continue
            # The same turns of the way: a verifier takes the size from where it has the root.
            assert not fits or (index == 5 and 9 <= size <= 16)


def test_what_is_no_path_is_refused():
    path = make_path(LEAVES, 5)
    for broken in (path[:-1], (*path, path[0]), (path[0][:31], *path[1:]), path * 20):
        with pytest.raises(Invalid):
            compute_root(LEAVES[5], 5, len(LEAVES), broken)
    with pytest.raises(IndexError):
        make_path(LEAVES, 70)
