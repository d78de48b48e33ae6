"""Many rows in one statement, handed to the driver as they are.

SQLAlchemy takes as long to prepare a row as the engine to write it. For the few tables that
issuance fills by the hundred the values are therefore put in their stored form by the gateway, and
the statement's text is made once.
"""

from __future__ import annotations

from sqlalchemy import Table


class RowInsert:
    """An INSERT into some columns of a table; rows are tuples in their order, in stored form."""

    def __init__(self, table: Table, *columns: str) -> None:
        names = ", ".join(f'"{table.c[name].name}"' for name in columns)
        self._texts = {
            style: f'INSERT INTO "{table.name}" ({names}) VALUES '
            f"({', '.join([mark] * len(columns))})"
            for style, mark in (("qmark", "?"), ("pyformat", "%s"))
        }

    def render(self, paramstyle: str) -> str:
        """The statement for a driver with this style of parameters (PEP 249)."""
        return self._texts[paramstyle]
