"""Many rows in one statement, handed to the driver as they are.

SQLAlchemy takes as long to prepare a row, or a value of an IN list, as the engine to handle it. For
the few tables that issuance fills by the hundred the values are therefore put in their stored form
by the gateway, and the statement's text is made here, of names alone: values never get into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Table

_MARKS = {"qmark": "?", "pyformat": "%s"}
"""How drivers' styles of parameters (PEP 249) mark a value: sqlite3's, psycopg's."""


class RowInsert:
    """An INSERT into some columns of a table; rows are tuples in their order, in stored form.

    `counted` is a column that gets the number after the highest that there is.
    """

    def __init__(self, table: Table, *columns: str, counted: str = "") -> None:
        every = [f'"{table.c[name].name}"' for name in columns]
        values = [""] * len(columns)
        if counted:
            every.append(f'"{counted}"')
            values.append(
                f'(SELECT coalesce(max("{counted}"), 0) + 1 FROM "{table.name}" '  # noqa: S608
                f'WHERE "{counted}" IS NOT NULL)'
            )
        self._texts = {
            style: f'INSERT INTO "{table.name}" ({", ".join(every)}) VALUES '  # noqa: S608 - names
            f"({', '.join(value or mark for value in values)})"
            for style, mark in _MARKS.items()
        }

    def render(self, paramstyle: str) -> str:
        """The statement for a driver with this style of parameters."""
        return self._texts[paramstyle]


class FreshInsert:
    """An INSERT of some rows that passes over those whose key is taken, and tells which weren't.

    `columns` begin with the key; rows are tuples in their order, in stored form.
    """

    def __init__(self, table: Table, *columns: str) -> None:
        names = ", ".join(f'"{table.c[name].name}"' for name in columns)
        self._start = f'INSERT INTO "{table.name}" ({names}) VALUES '  # noqa: S608 - names alone
        self._end = f' ON CONFLICT DO NOTHING RETURNING "{table.c[columns[0]].name}"'
        self._width = len(columns)

    def render(
        self, paramstyle: str, rows: Sequence[tuple[Any, ...]]
    ) -> tuple[str, tuple[Any, ...]]:
        """The statement and its parameters; one text for each number of rows."""
        row = f"({', '.join([_MARKS[paramstyle]] * self._width)})"
        text = f"{self._start}{', '.join([row] * len(rows))}{self._end}"
        return text, tuple(value for row_ in rows for value in row_)


class RangeQuery:
    """A SELECT of some columns of a table, in stored form, by a number in one of them: those after
    a value, in their order, at most so many."""

    def __init__(self, table: Table, by: str, *columns: str) -> None:
        names = ", ".join(f'"{table.c[name].name}"' for name in columns)
        key = f'"{table.c[by].name}"'
        self._texts = {
            style: f'SELECT {names} FROM "{table.name}" WHERE {key} > {mark} '  # noqa: S608 - names
            f"ORDER BY {key} LIMIT {mark}"
            for style, mark in _MARKS.items()
        }

    def render(self, paramstyle: str) -> str:
        """The statement for a driver with this style of parameters."""
        return self._texts[paramstyle]


class KeyedStatement:
    """A statement about the rows with certain keys. `text` has ``{mark}`` where a value stands and
    ends with the key's column: the list of keys follows."""

    def __init__(self, text: str) -> None:
        self._texts = {style: text.format(mark=mark) for style, mark in _MARKS.items()}

    def render(
        self, paramstyle: str, values: Sequence[Any], keys: Sequence[str]
    ) -> tuple[str, tuple[Any, ...]]:
        """The statement and its parameters; one text for each number of keys at most."""
        text = self._texts[paramstyle]
        if paramstyle == "qmark":
            return f"{text} IN ({', '.join('?' * len(keys))})", (*values, *keys)
        return f"{text} = ANY(%s)", (*values, list(keys))
