"""Backups: whatever a file holds, it is refused with a sentence or stored as what it says."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from hypothesis import strategies as st

from tests.fakes.history import make_history
from tests.fakes.stores import make_event, transact
from tests.fuzz.harness import answer, check_refusal, fuzz
from tests.fuzz.mutations import BYTE_EDITS, JSON_EDITS, edit_bytes, edit_json, mutated
from troth.core.clock import VirtualClock
from troth.core.errors import TrothError
from troth.store.copies import check_frames, export_database, import_frames
from troth.store.engine import open_database, open_store
from troth.store.schema import read_revision
from troth.wire.backup import (
    Closing,
    Frame,
    Opening,
    Rows,
    SealedKey,
    Shape,
    Sum,
    Tally,
    parse_backup,
    render_backup,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_COLUMNS = {"id": "int", "name": "text", "body": "bytes", "on": "bool"}
_ROWS: list[tuple[int, str | None, bytes, bool]] = [(1, "a", b"\0", True), (2, None, b"", False)]
_TALLY = Tally("journal")
_TALLY.add(_ROWS)
_SUM = _TALLY.finish()
_SHAPE = Shape(name="journal", columns=_COLUMNS, key=["id"], rows=2)
FRAMES = (
    Opening(schema="0001", made_at=NOW, trust_domain="example.org", head=1, tables=[_SHAPE]),
    Rows(table="journal", rows=_ROWS),
    _SUM,
    SealedKey(name="a.key", content=b"troth-key/1\n"),
    Closing(next_ids={"journal": 2}, journal=_SUM),
)
BACKUP = b"".join(render_backup(FRAMES))


@fuzz(mutated(BACKUP, BACKUP[:40], b"troth-backup/1\n" + bytes(40)))
def fuzz_backup(data: bytes) -> None:
    """A file after damage: what is accepted is what was written, since the hash allows no other."""
    found = answer(lambda: list(parse_backup(io.BytesIO(data).read)))
    assert found is None or found == list(FRAMES)


@dataclass(frozen=True)
class Original:
    """A database with a history, copied: its frames as plain values, and a place for copies."""

    frames: list[dict[str, Any]]
    folder: Path


@contextmanager
def open_original() -> Iterator[Original]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder}/troth.db"
        asyncio.run(make_history(folder, url))
        key = SealedKey(name="x509-1.key", content=b"troth-key/1\n")
        frames = export_database(open_database(url), NOW, lambda: (key,))
        kept = (bytes, datetime)
        plain = [msgspec.to_builtins(frame, builtin_types=kept) for frame in frames]
        for frame in plain:
            if frame["type"] == "rows":
                frame["rows"] = [list(row) for row in frame["rows"]]
        yield Original(plain, folder)


_CHANGES = st.tuples(
    st.integers(0, 60),  # which frame: the first and the last say the most
    st.lists(JSON_EDITS, min_size=1, max_size=2) | BYTE_EDITS,
)
_MOVES = st.tuples(st.integers(0, 60), st.sampled_from(["drop", "repeat", "first"]))


@fuzz(
    st.tuples(st.lists(_CHANGES | _MOVES, max_size=3), st.booleans()),
    examples=30,
    stage=open_original,
)
def fuzz_backup_frames(found: tuple[list[Any], bool], original: Original) -> None:
    """A file that somebody wrote on purpose: hash and, on demand, all sums are right."""
    changes, sum_again = found
    bodies = _change(original.frames, changes)
    frames = answer(lambda: list(parse_backup(io.BytesIO(_render(bodies)).read)))
    if frames is None:
        return
    if sum_again:
        frames = _sum_again(frames)
        data = answer(lambda: b"".join(render_backup(frames)))
        assert data is not None
        assert list(parse_backup(io.BytesIO(data).read)) == frames
    sound = answer(check_frames, frames, lambda *_: None) is not None
    path = original.folder / "copy.db"
    try:
        _store(f"sqlite:///{path}", frames, sound)
    finally:
        for file in original.folder.glob("copy.db*"):
            file.unlink()


def _change(seeds: list[dict[str, Any]], changes: list[Any]) -> list[bytes]:
    encode = msgspec.msgpack.Encoder().encode
    bodies = [encode(frame) for frame in seeds]
    for number, change in changes:
        at = (number - 1) % len(bodies) if bodies else 0  # 0 is the last
        if not bodies:
            break
        if change == "drop":
            del bodies[at]
        elif change == "repeat":
            bodies.insert(at, bodies[at])
        elif change == "first":
            bodies.insert(0, bodies.pop(at))
        elif change and len(change[0]) == 3:
            # What MessagePack can't say, such as a number of 400 digits, isn't in a file either,
            # and bytes that were changed before may say nothing any more.
            with suppress(OverflowError, UnicodeError, msgspec.MsgspecError, TypeError):
                bodies[at] = encode(edit_json(msgspec.msgpack.decode(bodies[at]), change))
        else:
            bodies[at] = edit_bytes(bodies[at], change)
    return bodies


def _render(bodies: list[bytes]) -> bytes:
    """The bodies of frames as a file whose hash is right."""
    return b"".join(render_backup([msgspec.Raw(body) for body in bodies]))  # type: ignore[misc]


def _sum_again(frames: list[Frame]) -> list[Frame]:
    """The same frames with sums that fit the rows before them, the journal's in its own order."""
    tallies: dict[str, Tally] = {}
    sealed: list[tuple[int, Any]] = []
    shapes = {shape.name: shape for f in frames if isinstance(f, Opening) for shape in f.tables}
    done: list[Frame] = []
    for frame in frames:
        if isinstance(frame, Rows):
            tallies.setdefault(frame.table, Tally(frame.table)).add(frame.rows)
            if frame.table == "journal" and "position" in getattr(
                shapes.get("journal"), "columns", ()
            ):
                place = list(shapes["journal"].columns).index("position")
                rows = [row for row in frame.rows if len(row) > place]
                sealed += [(row[place], row) for row in rows if isinstance(row[place], int)]
        elif isinstance(frame, Sum):
            frame = tallies.get(frame.table, Tally(frame.table)).finish()
        elif isinstance(frame, Closing):
            journal = Tally("journal")
            journal.add(row for _, row in sorted(sealed, key=lambda pair: pair[0]))
            frame = Closing(next_ids=frame.next_ids, journal=journal.finish())
        done.append(frame)
    return done


def _store(url: str, frames: list[Frame], sound: bool) -> None:
    try:
        import_frames(open_database(url), frames, lambda *_: None)
    except TrothError as error:
        check_refusal(error)
        link = open_database(url).open_link()
        try:
            assert read_revision(link.connection) is None, "a part of it was kept"
        finally:
            link.close()
        return
    assert sound, "what no check would pass was kept"
    store = open_store(url, clock=VirtualClock(NOW))
    try:
        transact(store, lambda tx: tx.journal.append(make_event()))
    finally:
        store.close()
