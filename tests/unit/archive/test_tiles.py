"""The log's files: what they hold at every size, after crashes, redactions and damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from troth.archive.place import Folder, ObjectStore, Place, open_place
from troth.archive.tiles import SIZE, DamagedLog, LogFolder
from troth.audit.entry import StoredEvent, render_entry, split_details
from troth.audit.merkle import EMPTY_ROOT, Tree, hash_leaf
from troth.audit.tile import compute_tree_root, list_tiles, name_details, name_entries, name_tile
from troth.core.errors import Invalid, NotFound, Unavailable


def make_events(first: int, count: int) -> list[StoredEvent]:
    return [
        StoredEvent(
            position,
            "token.issued",
            1,
            f"spiffe://example.org/svc-{position % 7}",
            "uid:1000",
            1_700_000_000_000_000 + position,
            f"req_{position}",
            f'{{"jti":"{position}"}}',
            position.to_bytes(16, "big"),
            None,
        )
        for position in range(first, first + count)
    ]


def compute_root(events) -> bytes:
    tree = Tree()
    for event in events:
        tree.add(hash_leaf(render_entry(event)[0]))
    return tree.root


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path) -> Place:
    if request.param == "folder":
        return Folder(tmp_path / "log")
    return ObjectStore(f"memory://{tmp_path.name}/log")


def test_nothing_is_an_empty_log(place):
    log = LogFolder(place)
    assert (log.size, log.root) == (0, EMPTY_ROOT)
    with pytest.raises(NotFound):
        log.find_entry(1)


@pytest.mark.parametrize("steps", [[1, 254, 1, 1], [256], [300, 300], [255, 2, 512, 1]])
def test_at_each_size_the_tiles_are_those_of_the_tree(place, steps):
    log, at = LogFolder(place), 0
    for step in steps:
        log.append(make_events(at + 1, step))
        log.settle()
        at += step
        wanted = compute_root(make_events(1, at))
        assert (log.size, log.root) == (at, wanted)
        assert compute_tree_root(log.read, at) == wanted
        for name in list_tiles(at):
            log.read(str(name))
        again = LogFolder(place)
        assert (again.size, again.root) == (at, wanted)
    assert list(log.list_events(0, at)) == make_events(1, at)
    assert list(log.list_events(3, 5)) == make_events(4, 2)


def test_over_65536_entries_there_is_a_second_level(tmp_path):
    log = LogFolder(Folder(tmp_path))
    events = make_events(1, 65_537)
    log.append(events)
    log.settle()
    assert log.root == compute_root(events)
    assert compute_tree_root(LogFolder(Folder(tmp_path)).read, 65_537) == log.root
    assert len(log.read(name_tile(2, 0, 1))) == 32


def test_what_doesnt_follow_is_refused_and_forgotten(place):
    log = LogFolder(place)
    log.append(make_events(1, 2))
    with pytest.raises(Invalid, match="position 9"):
        log.append(make_events(9, 1))
    log.abandon()
    log.append(make_events(1, 3))
    log.settle()
    assert log.size == 3


def test_a_crash_before_the_size_was_written_is_done_again(tmp_path):
    """Full tiles have taken the place of partial ones, and nobody knows of it yet."""
    log = LogFolder(Folder(tmp_path / "log"))
    log.append(make_events(1, 200))
    log.settle()
    size = (tmp_path / "log" / SIZE).read_bytes()
    log.append(make_events(201, 200))
    log.settle()
    (tmp_path / "log" / SIZE).write_bytes(size)

    again = LogFolder(Folder(tmp_path / "log"))
    assert (again.size, again.root) == (200, compute_root(make_events(1, 200)))
    again.append(make_events(201, 300))
    again.settle()
    assert again.root == compute_root(make_events(1, 500))


def test_partial_files_go_once_the_full_ones_are_there(tmp_path):
    log = LogFolder(Folder(tmp_path))
    for at in range(0, 260, 10):
        log.append(make_events(at + 1, 10))
        log.settle()
    left = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.p/*")]
    assert not [name for name in left if name.startswith(("tile/0/000", "detail/000"))]
    assert name_entries(1, 4) in left


def test_a_detail_can_be_taken_away_and_nothing_else_changes(place):
    log = LogFolder(place)
    log.append(make_events(1, 300))
    log.settle()
    for position in (5, 299):
        entry, beside = log.find_entry(position)
        assert beside
        digest = log.redact(position)
        assert log.redact(position) == digest
        assert log.find_entry(position) == (entry, b"")
        (event,) = log.list_events(position - 1, position)
        assert (event.digest, event.salt, event.actor, event.body) == (digest, None, "", "{}")
    log.append(make_events(301, 300))
    log.settle()
    assert log.root == compute_root(make_events(1, 600))
    assert log.find_entry(299)[1] == b""
    assert LogFolder(place).root == log.root


def test_no_older_partial_file_keeps_a_redacted_detail(tmp_path):
    log = LogFolder(Folder(tmp_path))
    for at in range(4):
        log.append(make_events(at + 1, 1))
        log.settle()
    log.redact(2)
    for width in (2, 3, 4):
        assert split_details(log.read(name_details(0, width)))[1] == b""


def test_what_isnt_settled_yet_is_redacted_too(tmp_path):
    """Bundles fill while redactions of the same batch are done: each takes out its own detail."""
    log = LogFolder(Folder(tmp_path))
    log.append(make_events(1, 250))
    log.settle()
    log.append(make_events(251, 300))
    for position in (249, 255, 300, 513, 545):
        log.redact(position)
    for position in (0, 551):
        with pytest.raises(NotFound):
            log.redact(position)
    log.settle()
    for found in (log, LogFolder(Folder(tmp_path))):
        gone = [n for n in range(1, 551) if not found.find_entry(n)[1]]
        assert gone == [249, 255, 300, 513, 545]


@pytest.mark.parametrize("later", [100, 256, 300])
def test_no_file_that_a_crash_left_keeps_a_redacted_detail(tmp_path, later):
    """Partial files whose full one was written, wider ones that don't count, damaged ones."""
    log = LogFolder(Folder(tmp_path))
    log.append(make_events(1, 100))
    log.settle()
    kept = log.read(name_details(0, 100))
    log.append(make_events(101, later - 100))
    log.settle()
    folder = (tmp_path / name_details(0, 100)).parent
    folder.mkdir(exist_ok=True)
    for width in (50, 100, 200):
        (folder / str(width)).write_bytes(kept)
    (folder / "30").write_bytes(b"\xff\xff\xff\xff")
    assert LogFolder(Folder(tmp_path)).redact(5)
    assert list_kept(folder, 5) == []
    # A redaction that was interrupted is done to the end.
    folder.mkdir(exist_ok=True)
    (folder / "50").write_bytes(kept)
    assert LogFolder(Folder(tmp_path)).redact(5)
    assert list_kept(folder, 5) == []


def list_kept(folder: Path, position: int) -> list[str]:
    """Partial and full files of a bundle in which a detail still is."""
    files = [folder.with_suffix(""), *folder.glob("*")]
    return [
        str(path)
        for path in files
        if path.is_file() and split_details(path.read_bytes())[position - 1]
    ]


@pytest.mark.parametrize("name", [name_entries(1, 44), name_tile(0, 1, 44), name_tile(1, 0, 1)])
def test_a_damaged_edge_is_appended_again(tmp_path, name):
    log = LogFolder(Folder(tmp_path))
    log.append(make_events(1, 300))
    log.settle()
    (tmp_path / name).write_bytes(b"\0" * 32)
    with pytest.raises(DamagedLog):
        LogFolder(Folder(tmp_path))
    cut = LogFolder(Folder(tmp_path), cut_back=True)
    assert (cut.size, cut.root) == (256, compute_root(make_events(1, 256)))
    assert LogFolder(Folder(tmp_path)).size == 256
    cut.append(make_events(257, 44))
    cut.settle()
    assert (cut.size, cut.root) == (300, log.root)
    assert list(LogFolder(Folder(tmp_path)).list_events(0, 300)) == make_events(1, 300)


def test_a_cut_needs_its_size_and_the_tiles_below(tmp_path):
    log = LogFolder(Folder(tmp_path))
    log.append(make_events(1, 200))
    log.settle()
    with pytest.raises(DamagedLog):
        LogFolder(Folder(tmp_path), cut_back=True)  # there is no full bundle
    log.append(make_events(201, 400))
    log.settle()
    (tmp_path / name_tile(0, 1)).unlink()
    with pytest.raises(DamagedLog, match=name_tile(0, 1)):
        LogFolder(Folder(tmp_path), cut_back=True)
    (tmp_path / SIZE).write_bytes(b"{")
    with pytest.raises(DamagedLog, match=SIZE):
        LogFolder(Folder(tmp_path), cut_back=True)


def test_a_journal_that_was_set_back_is_told_what_it_lost(place):
    log = LogFolder(place)
    log.append(make_events(1, 300))
    log.settle()
    (last,) = make_events(250, 1)
    assert log.list_lost(last, 1000) == make_events(251, 50)
    assert log.list_lost(last, 20) == make_events(251, 20)
    assert log.list_lost(None, 2) == make_events(1, 2)
    assert log.list_lost(make_events(300, 1)[0], 1000) == []
    other = last._replace(body='{"jti":"forged"}')
    assert log.list_lost(other, 1000) == []


@pytest.mark.parametrize("what", ["flip", "cut", "gone"])
@pytest.mark.parametrize(
    "name",
    [SIZE, name_entries(1, 44), name_details(1, 44), name_tile(0, 1, 44), name_tile(1, 0, 1)],
)
def test_a_damaged_edge_is_named(tmp_path, name, what):
    log = LogFolder(Folder(tmp_path / "log"))
    log.append(make_events(1, 300))
    log.settle()
    path = tmp_path / "log" / name
    content = path.read_bytes()
    if what == "flip":
        path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    elif what == "cut":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    if name == SIZE and what == "gone":
        assert LogFolder(Folder(tmp_path / "log")).size == 0  # all is written anew
        return
    if name.startswith("detail") and what == "flip":
        with pytest.raises(DamagedLog, match=r"detail|entry"):
            list(LogFolder(Folder(tmp_path / "log")).list_events(256, 300))
        return
    with pytest.raises(DamagedLog, match="audit verify"):
        LogFolder(Folder(tmp_path / "log"))


def test_a_damaged_log_is_set_aside_as_a_whole(tmp_path):
    log = LogFolder(Folder(tmp_path / "log"))
    log.append(make_events(1, 3))
    log.settle()
    kept = log.set_aside("forked-3")
    assert kept == str(tmp_path / "log.forked-3")
    assert LogFolder(Folder(tmp_path / "log.forked-3")).size == 3
    assert LogFolder(Folder(tmp_path / "log")).size == log.size == 0


def test_a_full_disk_is_told_and_gone_over(tmp_path, monkeypatch):
    log = LogFolder(Folder(tmp_path))
    log.append(make_events(1, 3))
    log.settle()
    real = os.fdatasync

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    log.append(make_events(4, 300))
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(Unavailable, match="No space left"):
        log.settle()
    monkeypatch.setattr(os, "fdatasync", real)
    log.abandon()
    log.append(make_events(4, 300))
    log.settle()
    assert LogFolder(Folder(tmp_path)).root == compute_root(make_events(1, 303))


def test_an_unknown_object_store_says_what_to_install():
    with pytest.raises(Unavailable, match="nosuch://"):
        open_place("nosuch://bucket/folder")
