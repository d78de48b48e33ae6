"""Merkle trees: transparency-dev's vectors, and the definition of RFC 6962 written out."""

from __future__ import annotations

import json
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from troth.audit.merkle import (
    EMPTY_ROOT,
    Tree,
    compute_root,
    hash_leaf,
    hash_node,
    make_path,
    verify_consistency,
    verify_inclusion,
    verify_subtree,
    verify_subtree_inclusion,
)
from troth.core.errors import Invalid

VECTORS = "shared/data/merkle/testdata"
"""Of github.com/transparency-dev/merkle, Apache-2.0, beside the repository."""


def find_vectors(folder: str) -> list[dict[str, Any]]:
    for place in Path(__file__).resolve().parents:
        if (place / VECTORS).is_dir():
            files = sorted((place / VECTORS / folder).rglob("*.json"))
            return [{"file": str(file), **json.loads(file.read_bytes())} for file in files]
    return []


def decode(text: str | None) -> bytes:
    return b64decode(text or "")


def verify_inclusion_case(case: dict[str, Any], proof: list[bytes]) -> None:
    leaf, root = decode(case["leafHash"]), decode(case["root"])
    verify_inclusion(leaf, case["leafIdx"], case["treeSize"], root, proof)


def verify_consistency_case(case: dict[str, Any], proof: list[bytes]) -> None:
    old, new = decode(case["root1"]), decode(case["root2"])
    verify_consistency(case["size1"], old, case["size2"], new, proof)


def verify_subtree_inclusion_case(case: dict[str, Any], proof: list[bytes]) -> None:
    leaf, root = decode(case["leafHash"]), decode(case["root"])
    start, end = case["start"], case["end"]
    verify_subtree_inclusion(leaf, case["leafIdx"], start, end, root, proof)


def verify_subtree_case(case: dict[str, Any], proof: list[bytes]) -> None:
    node, root = decode(case["root1"]), decode(case["root2"])
    verify_subtree(case["start"], case["end"], node, case["size"], root, proof)


@pytest.mark.parametrize(
    ("folder", "verify", "count", "right"),
    [
        ("inclusion", verify_inclusion_case, 98, 6),
        ("consistency", verify_consistency_case, 98, 6),
        ("subtreeinclusion", verify_subtree_inclusion_case, 204, 12),
        ("subtreeconsistency", verify_subtree_case, 118, 12),
    ],
)
def test_every_vector_gives_the_expected_answer(folder, verify, count, right):
    cases = find_vectors(folder)
    if not cases:
        pytest.skip(f"{VECTORS} is not beside the repository")
    outcomes = {True: 0, False: 0}
    for case in cases:
        try:
            verify(case, [decode(one) for one in case["proof"] or ()])
            fits = True
        except Invalid:
            fits = False
        assert fits is not case["wantErr"], case["file"]
        outcomes[fits] += 1
    assert outcomes == {True: right, False: count - right}


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


def define_subproof(start: int, end: int, leaves: list[bytes], known: bool = True) -> list[bytes]:
    """SUBTREE_SUBPROOF of draft-ietf-plants-merkle-tree-certs; with ``start == 0`` it is SUBPROOF
    of RFC 6962, section 2.1.2."""
    if (start, end) == (0, len(leaves)):
        return [] if known else [define_root(leaves)]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = leaves[:split], leaves[split:]
    if end <= split:
        return [*define_subproof(start, end, left, known), define_root(right)]
    if split <= start:
        return [*define_subproof(start - split, end - split, right, known), define_root(left)]
    return [*define_subproof(0, end - split, right, False), define_root(left)]


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


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 33, 40])
def test_every_tree_is_consistent_with_each_that_it_grew_from(size):
    leaves = LEAVES[:size]
    root = define_root(leaves)
    for old in range(1, size + 1):
        proof = define_subproof(0, old, leaves)
        verify_consistency(old, define_root(leaves[:old]), size, root, proof)
        for other in {old - 1, old + 1} - {0, size + 1}:
            with pytest.raises(Invalid):
                verify_consistency(other, define_root(leaves[:old]), size, root, proof)
        with pytest.raises(Invalid):
            verify_consistency(old, hash_leaf(b"another"), size, root, proof)
        with pytest.raises(Invalid):
            verify_consistency(old, define_root(leaves[:old]), size, hash_leaf(b"another"), proof)
        with pytest.raises(Invalid):
            verify_consistency(old, define_root(leaves[:old]), size, root, [*proof, root])


def test_every_subtree_is_found_in_every_tree_that_holds_it():
    for size in range(1, 24):
        leaves = LEAVES[:size]
        for start in range(size):
            for end in range(start + 1, size + 1):
                node = define_root(leaves[start:end])
                if start % (1 << (end - start - 1).bit_length()):
                    with pytest.raises(Invalid, match="no subtree"):
                        verify_subtree(start, end, node, size, define_root(leaves), [])
                    continue
                proof = define_subproof(start, end, leaves)
                verify_subtree(start, end, node, size, define_root(leaves), proof)
                for number in range(len(proof)):
                    broken = [*proof]
                    broken[number] = hash_leaf(broken[number])
                    with pytest.raises(Invalid):
                        verify_subtree(start, end, node, size, define_root(leaves), broken)


def test_of_the_empty_tree_only_its_own_root_is_true():
    verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    for size, root, proof in ((0, LEAVES[0], []), (1, LEAVES[0], []), (0, EMPTY_ROOT, LEAVES[:1])):
        with pytest.raises(Invalid, match="empty tree"):
            verify_consistency(0, EMPTY_ROOT, size, root, proof)


def test_sizes_beyond_all_trees_are_refused():
    with pytest.raises(Invalid):
        verify_subtree(0, 1 << 63, LEAVES[0], 1 << 64, LEAVES[0], [])
    with pytest.raises(Invalid, match="the wrong way"):
        verify_consistency(3, LEAVES[0], 2, LEAVES[0], [])
