"""What is in the database, read beside the servers, whichever engine it is."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import psycopg

CHUNK = 500


class Records(Protocol):
    """One consistent look at a time."""

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of one query."""
        ...

    def size(self) -> int:
        """How many bytes the database takes on disk."""
        ...


class SqliteRecords:
    """A file that a server may be writing to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        uri = f"file:{self._path}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as database:
            return database.execute(sql).fetchall()

    def size(self) -> int:
        return sum(p.stat().st_size for p in self._path.parent.glob(f"{self._path.name}*"))


class PostgresRecords:
    """A database that servers share."""

    def __init__(self, url: str) -> None:
        self._url = url

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            return connection.execute(sql).fetchall()

    def size(self) -> int:
        return int(self.rows("select pg_database_size(current_database())")[0][0])


def read_body(body: Any) -> dict[str, Any]:
    """An event's body: SQLite gives text, PostgreSQL what it means."""
    found: dict[str, Any] = json.loads(body) if isinstance(body, str | bytes) else body
    return found


def find_rows(records: Records, sql: str, wanted: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Rows by their first column; `sql` ends where the list of wanted values goes."""
    keys = sorted(wanted)
    found: dict[str, tuple[Any, ...]] = {}
    for start in range(0, len(keys), CHUNK):
        chunk = keys[start : start + CHUNK]
        assert all("'" not in key for key in chunk)
        quoted = ", ".join(f"'{key}'" for key in chunk)
        found |= {row[0]: row for row in records.rows(f"{sql} ({quoted})")}
    return found
