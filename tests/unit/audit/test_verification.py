"""A log is verified from its files: what is damaged is named, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import aics_tlog
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.logs import FakeLog, make_event, make_events, make_log, show_log
from troth.audit.entry import join_details, join_entries, split_details, split_entries
from troth.audit.flaw import MOST_FLAWS, Fault, Findings, group
from troth.audit.merkle import EMPTY_ROOT, HASH_SIZE, hash_leaf
from troth.audit.tile import DamagedTile, fold, list_tiles, parse_name
from troth.audit.verification import CHECKPOINT, Scope, verify_log
from troth.core.errors import Invalid, NotFound

LARGE = 66_100
"""Three levels, each with a partial tile: level 0 of 52, level 1 of 2, level 2 of 1."""
MIDDLE = 1000
SMALL = 100


def verify(log: FakeLog, size: int | None = None, root: bytes | None = None, **scope) -> Findings:
    return verify_log(
        log.read, log.size if size is None else size, root or log.root, Scope(**scope)
    )


def list_places(findings: Findings) -> list[tuple[Fault, str, int | None, int | None]]:
    return [(flaw.fault, flaw.name, flaw.first, flaw.last) for flaw in findings.flaws]


@pytest.mark.parametrize("size", [1, SMALL, 256, 257, MIDDLE, LARGE])
def test_a_whole_log_is_shown_to_be_what_its_checkpoint_says(size):
    log = show_log(size)
    seen: list[tuple[int, int]] = []
    found = verify_log(log.read, log.size, log.root, progress=lambda *done: seen.append(done))
    assert found == Findings(
        entries=log.size, details=log.size, tiles=len(list(list_tiles(log.size)))
    )
    assert found.intact
    assert seen[-1] == (log.size, log.size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_other_peoples_verifier_agrees_about_it_and_about_each_flipped_byte(tmp_path):
    log = show_log(MIDDLE).copy()
    reader = aics_tlog.MemoryTileReader(log.files)
    assert aics_tlog.audit_tiles(reader, log.size, log.root).bundles == 4
    for name in ("tile/0/002", "tile/1/000.p/3", "tile/0/003.p/232", "tile/entries/001"):
        spoilt = show_log(MIDDLE).copy()
        spoilt.flip(name, 40)
        assert not verify(spoilt).intact
        with pytest.raises(aics_tlog.TileVerificationError):
            aics_tlog.audit_tiles(aics_tlog.MemoryTileReader(spoilt.files), log.size, log.root)


def test_a_log_that_others_wrote_is_verified():
    entries = [b"entry %d" % number for number in range(700)]
    files = aics_tlog.TileWriter(entries).materialise()
    root = aics_tlog.tree_root_from_tiles(aics_tlog.MemoryTileReader(files), 700)

    def read(name: str) -> bytes:
        if name not in files:
            raise NotFound(name)
        return files[name]

    assert verify_log(read, 700, root, Scope(leaves=False)).entries == 700
    flaws = verify_log(read, 700, root).flaws
    assert {flaw.fault for flaw in flaws} == {Fault.MISPLACED, Fault.MISSING}


# One thing is wrong


def flip_tile(log: FakeLog) -> None:
    log.flip("tile/0/001", 5 * HASH_SIZE + 3)


def flip_higher_tile(log: FakeLog) -> None:
    log.flip("tile/1/000.p/3", 2 * HASH_SIZE)


def flip_edge(log: FakeLog) -> None:
    log.flip("tile/0/003.p/232", 231 * HASH_SIZE)


def flip_entry(log: FakeLog) -> None:
    entries = split_entries(log.files["tile/entries/002"])
    entries[17] = entries[17].replace(b"success", b"failure")
    log.files["tile/entries/002"] = join_entries(entries)


def swap_entries(log: FakeLog) -> None:
    entries = split_entries(log.files["tile/entries/000"])
    entries[4], entries[5] = entries[5], entries[4]
    log.files["tile/entries/000"] = join_entries(entries)


def flip_detail(log: FakeLog) -> None:
    details = split_details(log.files["detail/003.p/232"])
    details[9] = details[9].replace(b"payments", b"paymentz")
    log.files["detail/003.p/232"] = join_details(details)


def cut_tile(log: FakeLog) -> None:
    log.files["tile/0/000"] = log.files["tile/0/000"][:-1]


def cut_entries(log: FakeLog) -> None:
    data = log.files["tile/entries/001"]
    log.files["tile/entries/001"] = data[: data.index(b'"position":300,') + 5]


def cut_off_between(log: FakeLog) -> None:
    entries = split_entries(log.files["tile/entries/003.p/232"])
    log.files["tile/entries/003.p/232"] = join_entries(entries[:-2])


def add_entry(log: FakeLog) -> None:
    log.files["tile/entries/000"] += join_entries([b"one more"])


def cut_details(log: FakeLog) -> None:
    log.files["detail/000"] = log.files["detail/000"][:-3]


def lose_tile(log: FakeLog) -> None:
    del log.files["tile/0/002"]


def lose_entries(log: FakeLog) -> None:
    del log.files["tile/entries/002"]


def lose_details(log: FakeLog) -> None:
    del log.files["detail/001"]


DAMAGE: list[tuple[Callable[[FakeLog], None], list[tuple], int, int]] = [
    (flip_tile, [(Fault.ALTERED, "tile/0/001", None, None)], 1000, 1000),
    (flip_higher_tile, [(Fault.ALTERED, "tile/1/000.p/3", None, None)], 1000, 1000),
    (flip_edge, [(Fault.ALTERED, "tile/0/003.p/232", None, None)], 1000, 1000),
    (flip_entry, [(Fault.ALTERED, "tile/entries/002", 529, 529)], 999, 999),
    (swap_entries, [(Fault.ALTERED, "tile/entries/000", 4, 5)], 998, 998),
    (flip_detail, [(Fault.ALTERED, "detail/003.p/232", 777, 777)], 1000, 999),
    (cut_tile, [(Fault.CUT, "tile/0/000", None, None)], 1000, 1000),
    (cut_entries, [(Fault.CUT, "tile/entries/001", 299, 511)], 1000 - 213, 1000 - 213),
    (cut_off_between, [(Fault.CUT, "tile/entries/003.p/232", 998, None)], 998, 998),
    (add_entry, [(Fault.CUT, "tile/entries/000", 256, None)], 1000, 1000),
    (cut_details, [(Fault.CUT, "detail/000", 0, 255)], 1000, 744),
    (lose_tile, [(Fault.MISSING, "tile/0/002", None, None)], 1000, 1000),
    (lose_entries, [(Fault.MISSING, "tile/entries/002", 512, 767)], 744, 744),
    (lose_details, [(Fault.MISSING, "detail/001", 256, 511)], 1000, 744),
]


@pytest.mark.parametrize(
    ("spoil", "flaws", "entries", "details"), DAMAGE, ids=[one[0].__name__ for one in DAMAGE]
)
def test_what_is_damaged_is_named_and_nothing_else(spoil, flaws, entries, details):
    log = show_log(MIDDLE).copy()
    spoil(log)
    found = verify(log)
    assert list_places(found) == flaws
    assert (found.entries, found.details) == (entries, details)
    assert all(flaw.name in flaw.detail for flaw in found.flaws)


@pytest.mark.parametrize(
    ("name", "entries", "details"),
    [
        ("tile/0/001", 1000, 1000),
        ("tile/1/000.p/3", 1000, 1000),
        ("tile/0/003.p/232", 1000, 1000),
        ("tile/entries/002", 744, 744),
        ("detail/002", 1000, 744),
    ],
)
def test_what_cant_be_a_file_is_named(name, entries, details):
    def read(one: str) -> bytes:
        if one == name:
            raise DamagedTile(name, f"{name} is no regular file.")
        return show_log(MIDDLE).read(one)

    found = verify_log(read, MIDDLE, show_log(MIDDLE).root)
    assert [(flaw.fault, flaw.name) for flaw in found.flaws] == [(Fault.CUT, name)]
    assert (found.entries, found.details) == (entries, details)


def test_all_of_it_at_once_is_named_place_by_place():
    log = show_log(MIDDLE).copy()
    for spoil in (flip_tile, flip_higher_tile, flip_edge, flip_entry, swap_entries, flip_detail):
        spoil(log)
    found = verify(log)
    assert {(flaw.name, flaw.first) for flaw in found.flaws} == {
        ("tile/0/001", None),
        ("tile/1/000.p/3", None),
        ("tile/0/003.p/232", None),
        ("tile/entries/002", 529),
        ("tile/entries/000", 4),
        ("detail/003.p/232", 777),
    }
    assert (found.entries, found.details) == (997, 996)


def test_a_tile_and_its_entries_both_damaged_are_told_apart():
    log = show_log(MIDDLE).copy()
    flip_tile(log)
    entries = split_entries(log.files["tile/entries/001"])
    entries[200] = b"something else"
    log.files["tile/entries/001"] = join_entries(entries)
    found = verify(log)
    assert list_places(found) == [
        (Fault.ALTERED, "tile/0/001", None, None),
        (Fault.ALTERED, "tile/entries/001", 456, 456),
    ]
    assert "hash 5 of 256" in found.flaws[0].detail
    assert found.entries == 999


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_an_altered_entry_beside_an_altered_hash_of_the_edge(size):
    log = show_log(size).copy()
    name = next(one for one in log.files if one.startswith("tile/0/") and ".p/" in one)
    log.flip(name, 7)
    bundle = name.replace("tile/0/", "tile/entries/")
    entries = split_entries(log.files[bundle])
    entries[20] = b"something else"
    log.files[bundle] = join_entries(entries)
    first = parse_name(name).index * 256
    assert list_places(verify(log)) == [
        (Fault.ALTERED, name, None, None),
        (Fault.ALTERED, bundle, first + 20, first + 20),
    ]


def test_tiles_of_every_level_are_made_good_from_what_lies_below():
    for name in ("tile/1/000", "tile/2/000.p/1", "tile/1/001.p/2"):
        log = show_log(LARGE).copy()
        log.flip(name, 3)
        found = verify(log)
        assert list_places(found) == [(Fault.ALTERED, name, None, None)]
        assert found.entries == log.size
        del log.files[name]
        found = verify(log)
        assert list_places(found) == [(Fault.MISSING, name, None, None)]
        assert found.entries == log.size


def test_a_part_that_was_rewritten_as_a_whole_is_not_believed():
    log = show_log(MIDDLE).copy()
    entries = split_entries(log.files["tile/entries/001"])
    entries[3] = entries[3].replace(b"success", b"failure")
    log.files["tile/entries/001"] = join_entries(entries)
    log.files["tile/0/001"] = b"".join(map(hash_leaf, entries))
    found = verify(log)
    assert list_places(found) == [(Fault.ALTERED, "tile/0/001", None, None)]
    assert "rewritten" in found.flaws[0].detail
    assert (found.entries, found.details) == (744, 744)


def test_a_log_that_was_rewritten_as_a_whole_isnt_that_of_the_checkpoint():
    events = make_events(1000)
    events[500] = make_event(501, actor="uid:0")
    other = make_log(events)
    found = verify(other, root=show_log(MIDDLE).root)
    assert list_places(found) == [(Fault.ALTERED, CHECKPOINT, None, None)]
    assert "another log" in found.flaws[0].detail
    assert found.entries == 0


def test_a_tile_that_is_gone_with_what_it_is_made_from():
    log = show_log(MIDDLE).copy()
    lose_tile(log)
    flip_entry(log)
    found = verify(log)
    assert list_places(found) == [
        (Fault.MISSING, "tile/0/002", None, None),
        (Fault.UNPROVED, "tile/entries/002", 512, None),
    ]
    assert found.entries == 744
    del log.files["tile/entries/002"]
    assert list_places(verify(log))[-1] == (Fault.MISSING, "tile/entries/002", 512, 767)


def test_the_higher_tiles_are_gone_and_the_rest_is_damaged():
    log = show_log(LARGE).copy()
    for name in ("tile/1/000", "tile/entries/007", "tile/0/007"):
        del log.files[name]
    found = verify(log)
    names = {flaw.name for flaw in found.flaws}
    assert {"tile/1/000", "tile/entries/007", "tile/0/007"} <= names
    assert all(flaw.fault is not Fault.ALTERED for flaw in found.flaws)
    assert found.entries == log.size - 65_536  # nothing leads from the root to the rest


@pytest.mark.parametrize("size", [1 << 24, (1 << 24) + 700, 1 << 40, (1 << 63) - 1])
def test_however_large_the_checkpoint_says_it_is_only_what_is_there_is_looked_at(size):
    asked: list[str] = []

    def read(name: str) -> bytes:
        asked.append(name)
        raise NotFound(name)

    seen: list[tuple[int, int]] = []
    found = verify_log(read, size, b"x" * 32, progress=lambda *done: seen.append(done))
    assert len(asked) < 200
    assert seen[-1] == (size, size)
    assert found.flaw_count < 20
    gone = [flaw for flaw in found.flaws if flaw.fault is Fault.MISSING]
    assert min(flaw.first for flaw in gone if flaw.first is not None) == 0
    assert max(flaw.last for flaw in gone if flaw.last is not None) == size - 1


def test_below_a_tile_that_is_there_what_is_gone_together_is_one_flaw():
    asked: list[str] = []
    files = {"tile/3/000.p/1": bytes(32), "tile/2/000": bytes(256 * 32)}
    files["tile/1/100"] = files["tile/2/000"]

    def read(name: str) -> bytes:
        asked.append(name)
        if name not in files:
            raise NotFound(name)
        return files[name]

    found = verify_log(read, 1 << 24, b"x" * 32)
    gone = [flaw for flaw in found.flaws if flaw.fault is Fault.MISSING and "/1/" in flaw.name]
    assert [(flaw.name, flaw.first, flaw.last) for flaw in gone] == [
        ("tile/1/000", 0, (100 << 16) - 1),
        ("tile/1/101", 101 << 16, (1 << 24) - 1),
    ]
    assert "from tile/1/101 to tile/1/255 are missing" in gone[1].detail
    assert len(asked) < 256 * 20


def test_a_part_that_is_gone_is_told_of_as_one_and_the_rest_is_shown():
    log = show_log(LARGE).copy()
    whole = 65_536
    for name in list(log.files):
        tile = parse_name(name) if name.startswith(("tile/", "detail/")) else None
        if tile is not None and tile.level < 2 and (tile.index << 8 * (tile.level + 1)) < whole:
            del log.files[name]
    found = verify(log)
    assert list_places(found) == [(Fault.MISSING, "tile/1/000", 0, whole - 1)]
    assert found.entries == log.size - whole
    found = verify(log, start=1000, end=2000)
    assert list_places(found) == [(Fault.MISSING, "tile/1/000", 1000, 1999)]


def test_tiles_of_two_levels_are_made_good_from_the_entries():
    log = show_log(LARGE).copy()
    for name in ("tile/1/000", "tile/0/000"):
        del log.files[name]
    found = verify(log)
    assert {place[:2] for place in list_places(found)} == {
        (Fault.MISSING, "tile/1/000"),
        (Fault.MISSING, "tile/0/000"),
    }
    assert found.entries == log.size


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whichever_byte_is_flipped_its_file_is_named(data):
    log = show_log(SMALL).copy()
    names = sorted(name for name in log.files if name.startswith(("tile/", "detail/")))
    name = data.draw(st.sampled_from(names))
    at = data.draw(st.integers(0, len(log.files[name]) - 1))
    log.flip(name, at, data.draw(st.integers(0, 7)))
    found = verify(log)
    assert {flaw.name for flaw in found.flaws} == {name}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whatever_the_files_are_nothing_is_raised_and_nothing_is_believed(data):
    log = show_log(SMALL).copy()
    names = sorted(name for name in log.files if name.startswith(("tile/", "detail/")))
    junk = st.binary(max_size=200)
    for name in data.draw(st.sets(st.sampled_from(names), min_size=1)):
        log.files[name] = data.draw(junk)
    found = verify(log)
    assert not found.intact
    assert found.entries in (0, log.size)


# Ranges


def test_of_a_range_only_what_it_takes_is_read():
    asked: list[str] = []

    def read(name: str) -> bytes:
        asked.append(name)
        return show_log(LARGE).read(name)

    found = verify_log(read, show_log(LARGE).size, show_log(LARGE).root, Scope(1000, 1600))
    assert found.intact
    assert found.entries == 4 * 256  # whole bundles
    assert len(asked) == 3 + 1 + 4 + 8  # the edge, tile/1/000, and four tiles with their bundles
    assert verify(show_log(LARGE), start=66_099).entries == 52
    assert verify(show_log(LARGE), start=5, end=5).entries == 0


def test_a_range_names_what_is_damaged_within_it_alone():
    log = show_log(LARGE).copy()
    log.flip("tile/entries/003", 500)
    log.flip("tile/entries/009", 500)
    found = verify(log, start=768, end=800)
    assert [flaw.name for flaw in found.flaws] == ["tile/entries/003"]
    log.flip("tile/1/000", 3 * HASH_SIZE)
    found = verify(log, start=0, end=256)
    assert [flaw.name for flaw in found.flaws] == ["tile/1/000"]
    assert found.entries == 0  # whether the tile is right can't be told from a part


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (3, 2), (0, 101)])
def test_a_range_that_isnt_there_is_refused(start, end):
    with pytest.raises(Invalid, match="none from"):
        verify(show_log(SMALL), start=start, end=end)


def test_the_empty_log():
    log = FakeLog({}, show_log(SMALL).folder)
    assert verify(log, 0, EMPTY_ROOT).intact
    assert list_places(verify(log, 0, bytes(32))) == [(Fault.ALTERED, CHECKPOINT, None, None)]


def test_flaws_beyond_what_anybody_reads_are_counted():
    found = Findings()
    for number in range(MOST_FLAWS + 5):
        found.add(Fault.ALTERED, f"tile/0/{number}", "altered")
        found.remark("The clock went back.")
    assert (found.flaw_count, len(found.flaws)) == (MOST_FLAWS + 5, MOST_FLAWS)
    assert (found.remark_count, len(found.remarks)) == (MOST_FLAWS + 5, 100)


def test_runs_of_numbers():
    assert group([]) == []
    assert group([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]


def test_fold_is_the_root_of_what_is_complete():
    leaves = [hash_leaf(bytes([number])) for number in range(256)]
    tree = aics_tlog.MerkleTree([bytes([number]) for number in range(256)])
    assert fold(b"".join(leaves)) == tree.root()
