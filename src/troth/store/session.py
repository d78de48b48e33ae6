"""One transaction's line to the database: what the gateways speak through."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from sqlalchemy import Connection, CursorResult, Executable, Table, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from troth.audit.entry import SALT_SIZE
from troth.core.entropy import Entropy, SystemEntropy
from troth.core.errors import Conflict, Internal
from troth.store.bulk import FreshInsert, KeyedStatement, RangeQuery, RowInsert
from troth.store.tables import metadata

_UNIQUE_FAILED = "UNIQUE constraint failed: "
_UNIQUE_VIOLATION = "23505"  # SQLSTATE (PostgreSQL's documentation, appendix A)
_FOREIGN_KEY_VIOLATION = "23503"
_NOTIFY = text("SELECT pg_notify(:channel, :word)")
_IS_PRESENT = text(
    "SELECT CASE WHEN pg_try_advisory_lock_shared(:presence) "
    "THEN NOT pg_advisory_unlock_shared(:presence) ELSE true END"
)
"""Shared, so that two who ask don't take each other for the one that lives, and given back at once:
whoever asks is hardly ever in its way."""
_USED_AFTERWARDS = "A transaction was used after its function had returned."
_HOLDER = re.compile(r".*@([0-9a-f]{15})", re.ASCII)


def name_holder(presence: int) -> str:
    """The holder of leases that shows by an advisory lock on `presence` (60 bits) that it lives."""
    return f"server@{presence:015x}"


class News(IntEnum):
    """What a transaction appended to the journal, and whether sealing that may wait a moment for
    more: nothing live depends on it."""

    NONE = 0
    PATIENT = 1
    URGENT = 2


class Session:
    """Statements of one transaction; useless once the transaction's function has returned."""

    __slots__ = ("_connection", "_entropy", "_writable", "news")

    def __init__(
        self, connection: Connection, *, writable: bool, entropy: Entropy | None = None
    ) -> None:
        """`entropy` is for the salts of events; the system's, unless another is given."""
        self._connection: Connection | None = connection
        self._writable = writable
        self._entropy = entropy
        self.news = News.NONE

    def draw_salts(self, count: int) -> list[bytes]:
        """So many salts, each `SALT_SIZE` random bytes that nobody can guess."""
        if self._entropy is None:
            self._entropy = SystemEntropy()
        draw = self._entropy.token
        return [draw(SALT_SIZE) for _ in range(count)]

    def execute(
        self, statement: Executable, values: Mapping[str, Any] | Sequence[Mapping[str, Any]] = ()
    ) -> CursorResult[Any]:
        """Run `statement`; a sequence of values runs it once for each."""
        if self._connection is None:
            raise Internal(_USED_AFTERWARDS)
        return self._connection.execute(statement, values or None)

    def insert(
        self,
        statement: Executable,
        values: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        taken: Mapping[str, str],
    ) -> None:
        """Insert one row, or each of a sequence; `Conflict` with the sentence of the column whose
        value is taken.

        A conflict ends the transaction: let it out of the function. (SQLite could go on, but
        PostgreSQL can't.)
        """
        try:
            self.execute(statement, values)
        except IntegrityError as error:
            raise describe_violation(error, taken) from error

    def on_conflict_skip(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> Any:
        """An INSERT of `rows` that passes over those whose key is taken."""
        made: Any = postgresql.insert(table) if self.shared else sqlite.insert(table)
        return made.values(list(rows)).on_conflict_do_nothing()

    def insert_fresh(self, statement: FreshInsert, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Insert those of `rows`, which are in their stored form, whose key isn't taken: the keys
        of these."""
        if self._connection is None:
            raise Internal(_USED_AFTERWARDS)
        text, given = statement.render(self._connection.dialect.paramstyle, rows)
        return list(self._connection.exec_driver_sql(text, given).scalars())

    def insert_rows(
        self, statement: RowInsert, rows: Sequence[tuple[Any, ...]], taken: Mapping[str, str]
    ) -> None:
        """As `insert` for many rows that are in their stored form already."""
        if self._connection is None:
            raise Internal(_USED_AFTERWARDS)
        text = statement.render(self._connection.dialect.paramstyle)
        try:
            self._connection.exec_driver_sql(text, list(rows))
        except IntegrityError as error:
            raise describe_violation(error, taken) from error

    def select_range(self, statement: RangeQuery, after: int, limit: int) -> list[Any]:
        """The rows after a number, as they lie in the database."""
        if self._connection is None:
            raise Internal(_USED_AFTERWARDS)
        text = statement.render(self._connection.dialect.paramstyle)
        found = self._connection.exec_driver_sql(text, (after, limit))
        try:
            # The driver's own tuples: SQLAlchemy takes longer for its rows than SQLite for these.
            rows = list(found.cursor.fetchall())
        finally:
            found.close()
        return rows

    def execute_keyed(
        self, statement: KeyedStatement, keys: Sequence[str], *values: Any
    ) -> CursorResult[Any]:
        """Run `statement` for these keys; rows come, and `values` are, in their stored form."""
        if self._connection is None:
            raise Internal(_USED_AFTERWARDS)
        text, given = statement.render(self._connection.dialect.paramstyle, values, keys)
        return self._connection.exec_driver_sql(text, given)

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

    def notify(self, channel: str, word: str) -> None:
        """Tell other servers on this database, once this transaction is committed."""
        if self.shared:
            self.execute(_NOTIFY, {"channel": channel, "word": word})

    def is_gone(self, holder: str) -> bool:
        """Whether the server that took a lease as `holder` is known to have ended since."""
        match = _HOLDER.fullmatch(holder)
        if match is None or not self.shared:
            return False
        present = self.execute(_IS_PRESENT, {"presence": int(match[1], 16)}).scalar()
        return not present

    @property
    def shared(self) -> bool:
        """Whether other servers may work on this database; a file has one."""
        return self._connection is not None and self._connection.dialect.name == "postgresql"

    def end(self) -> None:
        """Cut the line: the function has returned."""
        self._connection = None


def describe_violation(error: IntegrityError, taken: Mapping[str, str]) -> Conflict:
    """The `Conflict` for a broken constraint, in the words that `taken` has for the column."""
    broken = _find_broken_columns(error)
    if broken:
        for column in broken:
            if column in taken:
                return Conflict(taken[column])
        return Conflict("A record with these values exists already.")
    if getattr(error.orig, "sqlstate", None) == _FOREIGN_KEY_VIOLATION or str(
        error.orig
    ).startswith("FOREIGN KEY"):
        return Conflict("It refers to a record that doesn't exist.")
    raise Internal("A record lacks a value that it must have.") from error


def _find_broken_columns(error: IntegrityError) -> list[str]:
    """The columns of the unique constraint that `error` is about; none if it is about another."""
    driver: Any = error.orig
    message = str(driver)
    if message.startswith(_UNIQUE_FAILED):
        names = message.removeprefix(_UNIQUE_FAILED).split(", ")
        return [name.rpartition(".")[2] for name in names]
    if getattr(driver, "sqlstate", None) != _UNIQUE_VIOLATION:
        return []
    table = metadata.tables[driver.diag.table_name]
    wanted = driver.diag.constraint_name
    if table.primary_key.name == wanted:
        return [column.name for column in table.primary_key.columns]
    broken = (index for index in table.indexes if index.name == wanted)
    return [column.name for index in broken for column in index.columns] or [str(wanted)]
