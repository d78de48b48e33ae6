"""Tiles: their names, what proofs are computed from them, and what is wrong with a damaged one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.audit.test_merkle import define_subproof
from troth.audit.merkle import (
    EMPTY_ROOT,
    HASH_SIZE,
    Tree,
    hash_leaf,
    make_path,
    verify_consistency,
    verify_inclusion,
)
from troth.audit.tile import (
    WIDTH,
    DamagedTile,
    Kind,
    TileName,
    Tiles,
    compute_tree_root,
    fold,
    list_tiles,
    measure_width,
    name_details,
    name_entries,
    name_tile,
    parse_name,
    prove_consistency,
    prove_inclusion,
    read_tile,
)
from troth.core.errors import Invalid, NotFound
from troth.core.logsize import LARGEST_SIZE

SIZE = 70_000
"""The example of C2SP tlog-tiles, "Partial Tiles"."""


def make_leaves(size: int) -> list[bytes]:
    return [hash_leaf(number.to_bytes(4, "big")) for number in range(size)]


def make_tiles(leaves: list[bytes]) -> dict[str, bytes]:
    """All tiles over these leaves, as their definition says."""
    files, level, hashes = {}, 0, leaves
    while hashes:
        above = []
        for index in range(0, len(hashes), WIDTH):
            row = hashes[index : index + WIDTH]
            files[name_tile(level, index // WIDTH, len(row))] = b"".join(row)
            if len(row) == WIDTH:
                above.append(fold(b"".join(row)))
        hashes, level = above, level + 1
    return files


def reader(files: dict[str, bytes]):
    def read(name: str) -> bytes:
        if name not in files:
            raise NotFound(f"{name} isn't here.")
        return files[name]

    return read


def find_root(leaves: list[bytes]) -> bytes:
    tree = Tree()
    for leaf in leaves:
        tree.add(leaf)
    return tree.root


LEAVES = make_leaves(SIZE)
FILES = make_tiles(LEAVES)
read = reader(FILES)


def test_names_are_those_of_the_specification():
    assert name_tile(0, 1234067) == "tile/0/x001/x234/067"
    assert name_tile(3, 5, 17) == "tile/3/005.p/17"
    assert name_entries(0) == "tile/entries/000"
    assert name_entries(999_999, 255) == "tile/entries/x999/999.p/255"
    assert name_details(1_000, 1) == "detail/x001/000.p/1"
    for level, index, width in ((64, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)):
        with pytest.raises(ValueError, match="there is no"):
            name_tile(level, index, width)


NAMES = st.builds(
    TileName,
    st.sampled_from(list(Kind)),
    st.just(0),
    st.integers(0, LARGEST_SIZE >> 8),
    st.integers(1, WIDTH),
)


@given(NAMES)
@example(TileName(Kind.HASHES, 63, 0, 1))
@example(TileName(Kind.HASHES, 6, (LARGEST_SIZE >> 56), 256))
def test_a_name_is_read_as_it_is_written(name):
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/0/1",
        "tile/0/0001",
        "tile/00/001",
        "tile/01/001",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x001/x002",
        "tile/0/x01/002",
        "tile/0/X001/002",
        "tile/0/001.p/0",
        "tile/0/001.p/01",
        "tile/0/001.p/256",
        "tile/0/001.p/999",
        "tile/0/001.p/",
        "tile/0/001.p",
        "tile/0/001/",
        "/tile/0/001",
        "tile/0/001\n",
        "tile/0/٠٠١",
        "tile/0/../../vkey",
        "tile/details/001",
        "tile/7/001",
        "detail/0/001",
        "detail/entries/001",
        "entries/001",
        "checkpoint",
        "tile/0/" + "x001/" * 7 + "001",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/0/" + "x001/" * 1000 + "001",
    ],
)
def test_what_no_tile_is_called_is_refused(path):
    with pytest.raises(Invalid, match="log"):
        parse_name(path)


@given(st.text("tile/entrsda0123x.p", max_size=30))
def test_whatever_is_read_as_a_name_is_written_so(path):
    try:
        name = parse_name(path)
    except Invalid:
        return
    assert str(name) == path


def test_the_tiles_of_a_tree_are_those_of_the_specification():
    names = list(list_tiles(SIZE))
    assert {str(name) for name in names} == FILES.keys()
    full = [name for name in names if name.width == WIDTH]
    assert len([name for name in full if name.level == 0]) == 273
    assert [name for name in names if name.width < WIDTH] == [
        TileName(Kind.HASHES, 0, 273, 112),
        TileName(Kind.HASHES, 1, 1, 17),
        TileName(Kind.HASHES, 2, 0, 1),
    ]
    assert [str(name) for name in list_tiles(256)] == ["tile/0/000", "tile/1/000.p/1"]
    assert not list(list_tiles(0))
    assert all(measure_width(SIZE, one.level, one.index) == one.width for one in names)
    assert measure_width(SIZE, 0, 274) == 0


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, SIZE])
def test_the_root_is_that_of_the_leaves(size):
    files = make_tiles(LEAVES[:size])
    assert compute_tree_root(reader(files), size) == find_root(LEAVES[:size])
    # A partial tile may be deleted once there is the full one.
    assert compute_tree_root(read, size) == find_root(LEAVES[:size])


SMALL = LEAVES[:1500]
SMALL_READ = reader(make_tiles(SMALL))
ROOTS = [EMPTY_ROOT]
_tree = Tree()
for _leaf in SMALL:
    _tree.add(_leaf)
    ROOTS.append(_tree.root)


@given(st.integers(1, 300), st.data())
def test_consistency_proofs_are_as_the_rfc_defines_them(size, data):
    old = data.draw(st.integers(1, size))
    files = reader(make_tiles(SMALL[:size]))
    assert list(prove_consistency(files, old, size)) == define_subproof(0, old, SMALL[:size])


@given(st.data())
def test_proofs_from_tiles_are_those_from_the_leaves(data):
    size = data.draw(st.integers(1, len(SMALL)))
    index = data.draw(st.integers(0, size - 1))
    files = reader(make_tiles(SMALL[:size]))
    path = prove_inclusion(files, index, size)
    assert path == make_path(SMALL[:size], index)
    verify_inclusion(SMALL[index], index, size, ROOTS[size], path)
    old = data.draw(st.integers(1, size))
    proof = prove_consistency(files, old, size)
    verify_consistency(old, ROOTS[old], size, ROOTS[size], proof)


@given(st.integers(0, SIZE - 1))
@example(0)
@example(SIZE - 1)
def test_an_entry_of_the_larger_log_is_proved(index):
    root = compute_tree_root(read, SIZE)
    verify_inclusion(LEAVES[index], index, SIZE, root, prove_inclusion(read, index, SIZE))
    assert Tiles(read, SIZE).hash_range(index, index + 1) == LEAVES[index]


def test_there_is_no_proof_for_what_is_not_there():
    for index in (-1, SIZE):
        with pytest.raises(NotFound, match="no entry"):
            prove_inclusion(read, index, SIZE)
    for old, new in ((2, 1), (-1, 1)):
        with pytest.raises(Invalid):
            prove_consistency(read, old, new)
    assert prove_consistency(read, 0, SIZE) == prove_consistency(read, SIZE, SIZE) == ()


def test_a_partial_tile_that_is_gone_is_cut_from_the_full_one():
    files = make_tiles(LEAVES[:512])
    assert read_tile(reader(files), 0, 1, 10) == b"".join(LEAVES[256:266])
    with pytest.raises(NotFound, match=r"tile/0/002\.p/5 is missing, and so is tile/0/002"):
        read_tile(reader(files), 0, 2, 5)
    with pytest.raises(NotFound, match="tile/0/002 is missing"):
        read_tile(reader(files), 0, 2, WIDTH)


@pytest.mark.parametrize("change", [-1, -32, 1, 32])
def test_a_tile_of_another_length_is_named(change):
    name = name_tile(0, 3)
    tile = FILES[name] + bytes(32)
    damaged = {**FILES, name: tile[: WIDTH * HASH_SIZE + change]}
    with pytest.raises(DamagedTile, match=r"tile/0/003 has \d+ bytes and not 8192") as caught:
        prove_inclusion(reader(damaged), 800, SIZE)
    assert caught.value.name == name
    part = {name_tile(0, 0, 5): bytes(5 * HASH_SIZE + change)}
    with pytest.raises(DamagedTile, match=r"tile/0/000\.p/5 has"):
        compute_tree_root(reader(part), 5)


def test_tiles_are_read_once_and_no_more_than_some_are_kept():
    asked: list[str] = []

    def count(name: str) -> bytes:
        asked.append(name)
        return FILES[name]

    prove_inclusion(count, 40_000, SIZE)
    assert len(asked) == len(set(asked)) <= 6
    tiles = Tiles(count, SIZE)
    for index in range(200):
        tiles.read(0, index)
    del asked[:]
    for index in range(140, 200):
        tiles.read(0, index)
    assert not asked
    tiles.read(0, 0)
    assert asked == [name_tile(0, 0)]
