"""A backup is refused when it is made, not when it is needed."""

from __future__ import annotations

import pytest

from troth.core.errors import Invalid
from troth.wire import backup
from troth.wire.backup import Rows, render_backup


def test_what_could_not_be_read_back_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "MAX_FRAME", 1 << 20)
    fits = Rows(table="crls", rows=[(bytes(1000),)])
    assert len(list(render_backup([fits]))) == 4
    with pytest.raises(Invalid, match="rows of crls"):
        list(render_backup([fits, Rows(table="crls", rows=[(bytes(1 << 20),)])]))
