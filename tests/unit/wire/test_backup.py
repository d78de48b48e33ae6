"""A backup is refused when it is made, not when it is needed."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from troth.core.errors import Invalid
from troth.wire import backup
from troth.wire.backup import Closing, Opening, Rows, Tally, parse_backup, render_backup


def test_what_could_not_be_read_back_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "MAX_FRAME", 1 << 20)
    fits = Rows(table="crls", rows=[(bytes(1000),)])
    assert len(list(render_backup([fits]))) == 4
    with pytest.raises(Invalid, match="rows of crls"):
        list(render_backup([fits, Rows(table="crls", rows=[(bytes(1 << 20),)])]))


@pytest.mark.parametrize("number", [1 << 62, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_ids_that_no_database_could_go_on_from_are_refused(number: int) -> None:
    end = Closing(next_ids={"journal": number}, journal=Tally("journal").finish())
    file = io.BytesIO(b"".join(render_backup([end])))
    if number == 1 << 62:
        assert list(parse_backup(file.read)) == [end]
        return
    with pytest.raises(Invalid, match="can't be read"):
        list(parse_backup(file.read))


@pytest.mark.parametrize(
    "change",
    [{"head": 1 << 63}, {"made_at": datetime(2026, 1, 1)}],  # noqa: DTZ001 - what is refused
    ids=["head", "moment"],
)
def test_an_opening_that_a_journal_could_not_tell_of_is_refused(change: dict[str, Any]) -> None:
    sound = Opening(
        schema="0001",
        made_at=datetime(2026, 1, 1, tzinfo=UTC),
        trust_domain="example.org",
        head=1,
        tables=[],
    )
    file = b"".join(render_backup([sound]))
    assert list(parse_backup(io.BytesIO(file).read)) == [sound]
    file = b"".join(render_backup([replace(sound, **change)]))
    with pytest.raises(Invalid, match="can't be read"):
        list(parse_backup(io.BytesIO(file).read))
