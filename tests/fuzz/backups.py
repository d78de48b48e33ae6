"""Backups: whatever a file holds, it is refused with a sentence or read as what it says."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import mutated
from troth.store.copies import check_frames
from troth.wire.backup import (
    Closing,
    Opening,
    Rows,
    SealedKey,
    Shape,
    Tally,
    parse_backup,
    render_backup,
)

_COLUMNS = {"id": "int", "name": "text", "body": "bytes", "on": "bool"}
_ROWS: list[tuple[int, str | None, bytes, bool]] = [(1, "a", b"\0", True), (2, None, b"", False)]
_TALLY = Tally("journal")
_TALLY.add(_ROWS)
_SUM = _TALLY.finish()
_SHAPE = Shape(name="journal", columns=_COLUMNS, key=["id"], rows=2)
FRAMES = (
    Opening(
        schema="0001",
        made_at=datetime(2026, 1, 1, tzinfo=UTC),
        trust_domain="example.org",
        head=1,
        tables=[_SHAPE],
    ),
    Rows(table="journal", rows=_ROWS),
    _SUM,
    SealedKey(name="a.key", content=b"troth-key/1\n"),
    Closing(next_ids={"journal": 2}, journal=_SUM),
)
BACKUP = b"".join(render_backup(FRAMES))


@fuzz(mutated(BACKUP, BACKUP[:40], b"troth-backup/1\n" + bytes(40)))
def fuzz_backup(data: bytes) -> None:
    found = answer(lambda: list(parse_backup(io.BytesIO(data).read)))
    if found is None:
        return
    # What is accepted is what was written: the hash allows nothing else.
    again = answer(lambda: b"".join(render_backup(found)))
    assert again is None or list(parse_backup(io.BytesIO(again).read)) == found
    answer(lambda: check_frames(found, lambda *_: None))
