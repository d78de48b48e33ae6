"""Freeze the newest schema with data in it, once, when its migration lands.

``python -m tests.contract.versions`` writes ``NNNN.sqlite.sql`` beside this file; it is committed
with the release and never changes again. `tests/contract/test_versions.py` upgrades each.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from pathlib import Path

from tests.fakes.history import make_history
from troth.store.schema import HEAD


def main() -> None:
    """Write the file, unless it is there."""
    target = Path(__file__).with_name(f"{HEAD}.sqlite.sql")
    if target.exists():
        raise SystemExit(f"{target.name} is frozen.")
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(make_history(Path(name)))
        database = sqlite3.connect(Path(name) / "troth.db")
        target.write_text("\n".join(database.iterdump()) + "\n", encoding="utf-8")
        database.close()


if __name__ == "__main__":
    main()
