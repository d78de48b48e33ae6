"""One transaction's line to the database: what the gateways speak through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, CursorResult, Executable
from sqlalchemy.exc import IntegrityError

from troth.core.errors import Conflict, Internal

_UNIQUE_FAILED = "UNIQUE constraint failed: "


class Session:
    """Statements of one transaction; useless once the transaction's function has returned."""

    __slots__ = ("_connection", "_writable", "journaled")

    def __init__(self, connection: Connection, *, writable: bool) -> None:
        self._connection: Connection | None = connection
        self._writable = writable
        self.journaled = False

    def execute(
        self, statement: Executable, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()
    ) -> CursorResult[Any]:
        """Run `statement`; a sequence of values runs it once for each."""
        if self._connection is None:
            raise Internal("A transaction was used after its function had returned.")
        return self._connection.execute(statement, values or None)

    def insert(
        self, statement: Executable, values: Mapping[str, Any], taken: Mapping[str, str]
    ) -> None:
        """Insert one row; `Conflict` with the sentence of the column whose value is taken.

        A conflict ends the transaction: let it out of the function. (SQLite could go on, but
        PostgreSQL can't.)
        """
        try:
            self.execute(statement, values)
        except IntegrityError as error:
            raise describe_violation(error, taken) from error

    def change(
        self, statement: Executable, values: Mapping[str, Any], taken: Mapping[str, str]
    ) -> int:
        """Update rows; how many there were, or `Conflict` as in `insert`."""
        try:
            return self.execute(statement, values).rowcount
        except IntegrityError as error:
            raise describe_violation(error, taken) from error

    def require_write(self) -> None:
        """Raise `Internal` in a read, where nothing may change."""
        if not self._writable:
            raise Internal("A read tried to change something; that needs a transaction.")

    def end(self) -> None:
        """Cut the line: the function has returned."""
        self._connection = None


def describe_violation(error: IntegrityError, taken: Mapping[str, str]) -> Conflict:
    """The `Conflict` for a broken constraint, in the words that `taken` has for the column."""
    message = str(error.orig)
    if message.startswith(_UNIQUE_FAILED):
        for name in message.removeprefix(_UNIQUE_FAILED).split(", "):
            column = name.rpartition(".")[2]
            if column in taken:
                return Conflict(taken[column])
        return Conflict("A record with these values exists already.")
    if message.startswith("FOREIGN KEY"):
        return Conflict("It refers to a record that doesn't exist.")
    raise Internal("A record lacks a value that it must have.") from error
