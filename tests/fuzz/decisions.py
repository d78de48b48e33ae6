"""The decision log: files after damage, and records of whoever wrote them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from hypothesis import strategies as st

from tests.fakes.decisions import EVER, NOON, make_record, make_records
from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import JSON, mutated
from troth.archive.following import DecisionFollower
from troth.archive.log import DecisionLog, Edge
from troth.archive.record import decode_record, encode_record
from troth.archive.segment import (
    FOOTER_SIZE,
    HEADER_SIZE,
    RECORD,
    Header,
    Segment,
    parse_footer,
    parse_header,
    render_frame,
)
from troth.archive.writing import Disk, OpenSegment
from troth.audit.merkle import compute_root
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Refused

_HEADER = Header("a1b2c3d4", 1, NOON, b"saltsalt")
_CLOCK = VirtualClock(NOON)
_ENTRY = encode_record(make_record())[1]
_LATER = msgspec.msgpack.encode([*asdict(make_record(1)).values(), "more"])


def _write() -> tuple[bytes, bytes]:
    """A segment that is open, and one that is closed."""
    with TemporaryDirectory() as name:
        segment = OpenSegment(Path(name), _HEADER, Disk())
        for start in range(0, 6, 2):
            segment.write([encode_record(record) for record in make_records(2, start)])
        growing = segment.path.read_bytes()
        segment.finish(_CLOCK)
        return growing, segment.path.read_bytes()


_OPEN, _CLOSED = _write()


@contextmanager
def open_folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        folder = Path(name) / "decisions"
        folder.mkdir(mode=0o700)
        yield folder


class _Growing:
    """A log that gets its first segment once it is followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._edges = iter([Edge(0, 0, 0)])

    @property
    def edge(self) -> Edge:
        return next(self._edges, Edge(0, 0, 1))


def _frame(payload: bytes) -> bytes:
    """A segment with an intact frame around whatever that is."""
    return _OPEN + render_frame(RECORD, payload[:100_000], _HEADER.seed)


@fuzz(
    mutated(_OPEN, _CLOSED, _OPEN[:HEADER_SIZE]) | mutated(_ENTRY, _LATER).map(_frame),
    examples=150,
    stage=open_folder,
)
def fuzz_decision_segment(content: bytes, folder: Path) -> None:
    """A file of which anything became: a start copes, and what is read is bounded by it."""
    for path in folder.iterdir():
        path.unlink()
    path = folder / "0000000001.decisions"
    path.write_bytes(content)
    answer(parse_header, content)
    answer(parse_footer, content[-FOOTER_SIZE:], _HEADER)
    follower = DecisionFollower(_Growing(folder))  # type: ignore[arg-type]
    assert len(follower.read(3)) <= 3
    log = DecisionLog(folder, _CLOCK, SeededEntropy(), "a1b2")
    try:
        closed = log.list_closed()
        assert len(closed) <= 1
        words: list[str] = []
        found = answer(lambda: list(log.scan(*EVER, on_damage=words.append)))
        if found is not None and not words and closed:
            assert len(found) <= closed[0].footer.count
        for index in (0, 5):
            answer(log.prove, 1, index)
        answer(log.find_proof, make_record(3).id)
        if path.exists():
            try:
                with Segment(path) as segment:
                    end = HEADER_SIZE
                    for one in segment.walk():
                        assert one.end > end
                        end = one.end
            except Refused:
                pass
    finally:
        log.close()
    assert len(os.listdir(folder)) <= 1


@fuzz(mutated(_ENTRY, _LATER) | JSON.map(lambda value: _encode(value)))
def fuzz_decision_record(entry: bytes) -> None:
    """What is read of an entry can be written again, and says the same."""
    found = answer(decode_record, entry)
    if found is not None:
        again = answer(encode_record, found)
        if again is not None:
            assert msgspec.msgpack.encode(
                asdict(decode_record(again[1]))
            ) == msgspec.msgpack.encode(asdict(found))


def _encode(value: object) -> bytes:
    """An array of that many times the same, or nothing where MessagePack hasn't it."""
    try:
        return msgspec.msgpack.encode([value] * 16)
    except (OverflowError, UnicodeEncodeError):
        return b"\x90"


@fuzz(
    st.tuples(
        st.binary(max_size=40) | st.just(bytes(32)),
        st.integers(-2, 1 << 70),
        st.integers(-2, 1 << 70),
        st.lists(st.just(bytes(32)) | st.binary(max_size=33), max_size=70),
    )
)
def fuzz_decision_proof(found: tuple[bytes, int, int, list[bytes]]) -> None:
    leaf, index, size, path = found
    root = answer(compute_root, leaf, index, size, path)
    assert root is None or len(root) == 32
