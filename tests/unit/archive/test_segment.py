"""Files: what a crash may leave of one, and what damage looks like."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.decisions import NOON, make_record, make_records
from troth.archive.record import encode_record
from troth.archive.segment import (
    FOOTER_SIZE,
    HEAD_SIZE,
    HEADER_SIZE,
    RECORD,
    Damage,
    DamagedSegment,
    Header,
    Segment,
    list_segments,
    render_mark,
)
from troth.archive.writing import Disk, OpenSegment, recover_segment
from troth.audit.merkle import Tree, hash_leaf
from troth.core.clock import VirtualClock

CLOCK = VirtualClock(NOON)
MARK_SIZE = HEAD_SIZE + 16
SALT = b"saltsalt"


def open_segment(folder: Path, number: int = 1, salt: bytes = SALT) -> OpenSegment:
    return OpenSegment(folder, Header("a1b2c3d4", number, NOON, salt), Disk())


def write_groups(folder: Path, *groups: int, **header) -> tuple[OpenSegment, list[int]]:
    """A segment with groups of so many records, and where each group ends."""
    segment = open_segment(folder, **header)
    ends, start = [], 0
    for size in groups:
        segment.write([encode_record(record) for record in make_records(size, start)])
        ends.append(segment.durable)
        start += size
    return segment, ends


def read_entries(path: Path) -> list[bytes]:
    with Segment(path) as segment:
        frames = list(segment.walk())
    assert not [found for found in frames if isinstance(found, Damage)]
    return [found.payload for found in frames if not isinstance(found, Damage) and not found.kind]


def entries_of(count: int) -> list[bytes]:
    return [encode_record(record)[1] for record in make_records(count)]


def find_root(entries: list[bytes]) -> bytes:
    tree = Tree()
    for entry in entries:
        tree.add(hash_leaf(entry))
    return tree.root


def test_the_first_bytes_are_as_documented(tmp_path):
    segment, ends = write_groups(tmp_path, 1)
    data = segment.path.read_bytes()
    assert segment.path.name == "0000000001.decisions"
    assert segment.path.stat().st_mode & 0o777 == 0o600
    assert data[:12] == b"TROTHDEC\x00\x01\x00\x38"
    assert data[12:28] == b"a1b2c3d4" + bytes(8)
    assert int.from_bytes(data[28:36], "big") == 1
    assert int.from_bytes(data[36:44], "big") == NOON.timestamp() * 1_000_000
    assert data[44:52] == SALT
    assert HEADER_SIZE == 56
    assert data[56:60] == b"\x40\x00\x00\x10"  # a mark of 16 bytes
    assert data[64:72] == SALT
    assert int.from_bytes(data[72:80], "big") == 56
    entry = encode_record(make_record())[1]
    assert data[80:84] == len(entry).to_bytes(4, "big")
    assert data[88:] == entry
    assert ends == [len(data)]


def test_a_closed_segment_says_what_it_holds(tmp_path):
    segment, _ = write_groups(tmp_path, 3, 1, 4)
    footer = segment.finish(CLOCK)
    with Segment(segment.path) as found:
        assert found.footer == footer
        assert found.header == segment.header
        assert found.end == found.size - FOOTER_SIZE
    assert read_entries(segment.path) == entries_of(8)
    assert (footer.count, footer.root) == (8, find_root(entries_of(8)))
    assert (footer.first, footer.last) == (make_record(0).at, make_record(7).at)
    assert FOOTER_SIZE == 96


def test_a_tail_torn_at_any_byte_loses_nothing_that_was_acknowledged(tmp_path):
    segment, (*_, acknowledged, end) = write_groups(tmp_path, 2, 1, 2)
    data = segment.path.read_bytes()
    frame = len(entries_of(5)[4]) + HEAD_SIZE
    for size in range(acknowledged, end + 1):
        segment.path.write_bytes(data[:size])
        footer = recover_segment(segment.path, CLOCK, Disk())
        assert footer is not None
        whole = 5 if size == end else 4 if size >= end - frame else 3
        assert footer.count == whole, size
        kept = {5: end, 4: end - frame, 3: acknowledged}[whole]
        # A whole mark without records is no loss, and stays.
        kept = max(kept, min(size, acknowledged + MARK_SIZE)) if whole == 3 else kept
        kept = acknowledged if size < acknowledged + MARK_SIZE else kept
        assert footer.cut == size - kept
        assert footer.damaged == 0
        assert read_entries(segment.path) == entries_of(whole)
        assert footer.root == find_root(entries_of(whole))


@pytest.mark.parametrize("tail", [bytes(5000), b"\xff" * 77, b"\x00\x00\x01\x00" * 300])
def test_whatever_a_crash_leaves_behind_the_last_group_is_cut(tmp_path, tail):
    segment, (end,) = write_groups(tmp_path, 3)
    with segment.path.open("ab") as file:
        file.write(tail)
    footer = recover_segment(segment.path, CLOCK, Disk())
    assert footer is not None
    assert (footer.count, footer.cut) == (3, len(tail))
    assert segment.path.stat().st_size == end + FOOTER_SIZE


def test_a_torn_footer_is_written_again_alike(tmp_path):
    segment, (end,) = write_groups(tmp_path, 3)
    footer = segment.finish(CLOCK)
    whole = segment.path.read_bytes()
    for size in range(end, end + FOOTER_SIZE):
        segment.path.write_bytes(whole[:size])
        again = recover_segment(segment.path, CLOCK, Disk())
        assert again is not None
        assert (again.root, again.count, again.cut) == (footer.root, 3, size - end)


def test_a_segment_without_records_goes(tmp_path):
    segment = open_segment(tmp_path)
    assert recover_segment(segment.path, CLOCK, Disk()) is None
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_anywhere_is_found_and_named(tmp_path):
    segment, ends = write_groups(tmp_path, 2, 1, 2)
    segment.finish(CLOCK)
    data = segment.path.read_bytes()
    for place in range(HEADER_SIZE, ends[-1]):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        segment.path.write_bytes(flipped)
        with Segment(segment.path) as found:
            damage = [one for one in found.walk() if isinstance(one, Damage)]
        assert len(damage) == 1
        assert damage[0].start <= place < damage[0].end
        # All that comes with a later group is read.
        group = next(end for end in ends if end > place)
        assert damage[0].end == group


def test_a_damaged_header_or_footer_is_noticed(tmp_path):
    segment, ends = write_groups(tmp_path, 1)
    segment.finish(CLOCK)
    data = segment.path.read_bytes()
    for place in range(HEADER_SIZE):
        segment.path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(DamagedSegment, match=r"0000000001\.decisions can't be read: .*backup"):
            Segment(segment.path)
    for place in range(ends[-1], len(data)):
        segment.path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with Segment(segment.path) as found:
            assert found.footer is None


def test_damage_before_an_acknowledged_group_is_never_cut(tmp_path):
    segment, ends = write_groups(tmp_path, 2, 3)
    data = bytearray(segment.path.read_bytes())
    data[ends[0] - 5] ^= 1
    segment.path.write_bytes(data)
    footer = recover_segment(segment.path, CLOCK, Disk())
    assert footer is not None
    assert (footer.count, footer.cut) == (4, 0)
    assert footer.damaged == len(entries_of(2)[1]) + HEAD_SIZE
    kept = [entry for number, entry in enumerate(entries_of(5)) if number != 1]
    assert footer.root == find_root(kept)


def test_a_record_cannot_pass_for_a_mark_or_a_footer(tmp_path):
    # Made by somebody who knows the format and all of another segment, but not this one's salt.
    other, _ = write_groups(tmp_path, 1, number=2, salt=b"theirown")
    other.finish(CLOCK)
    theirs = other.path.read_bytes()
    segment = open_segment(tmp_path)
    mark = b""
    for place in range(HEADER_SIZE, 700, 7):
        mark = render_mark(other.header, place, segment.header.seed)
        segment.write([encode_record(make_record(facts={"f": (mark + theirs[-96:]).hex()}))])
    entry = b"x" + mark + theirs[-FOOTER_SIZE:]
    segment.write([(0, entry)])
    end = segment.durable
    segment.release()
    torn = segment.path.read_bytes()
    segment.path.write_bytes(torn[: end - len(entry) - 8] + b"\xff" + torn[end - len(entry) - 7 :])
    with Segment(segment.path) as found:
        assert found.footer is None
        damage = [one for one in found.walk() if isinstance(one, Damage)]
    assert [(one.end, one.torn) for one in damage] == [(end, True)]


def test_a_frame_of_another_segment_does_not_fit(tmp_path):
    first, _ = write_groups(tmp_path, 2)
    second, _ = write_groups(tmp_path, 2, number=2)
    data = first.path.read_bytes()[:HEADER_SIZE] + second.path.read_bytes()[HEADER_SIZE:]
    first.path.write_bytes(data)
    with Segment(first.path) as found:
        assert [one for one in found.walk() if not isinstance(one, Damage)] == []


def test_records_across_the_bounds_of_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("troth.archive.segment.CHUNK", 1000)
    segment, ends = write_groups(tmp_path, *[3] * 20)
    segment.finish(CLOCK)
    assert read_entries(segment.path) == entries_of(60)
    with Segment(segment.path) as found:
        assert found.contains(make_record(59).id.encode())
        assert not found.contains(make_record(60).id.encode())
    data = bytearray(segment.path.read_bytes())
    data[ends[10]] ^= 1
    segment.path.write_bytes(data)
    with Segment(segment.path) as found:
        frames = list(found.walk())
    assert sum(one.kind == RECORD for one in frames if not isinstance(one, Damage)) == 57
    assert [one[:2] for one in frames if isinstance(one, Damage)] == [(ends[10], ends[11])]


def test_only_files_named_so_are_segments(tmp_path):
    for name in ("0000000002.decisions", "0000000010.decisions", "1.decisions", "x.decisions.new"):
        (tmp_path / name).touch()
    assert [number for number, _ in list_segments(tmp_path)] == [2, 10]
