"""Rows of any table as plain values, alike on every engine: what copies and backups are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy
from msgspec.structs import replace
from sqlalchemy import (
    Connection,
    Table,
    TableClause,
    column,
    func,
    insert,
    inspect,
    literal,
    select,
    table,
    text,
)
from sqlalchemy import tuple_ as row_value
from sqlalchemy.types import TypeEngine

from troth.core.errors import Invalid
from troth.store.tables import metadata
from troth.wire.backup import Cell, Rows, Shape, Sum, Tally

PAGE = 500
"""Rows that are read at once."""

MAX_BYTES = 4 << 20
"""About how many bytes of rows are handed on at once; one row is never cut."""

LEFT_OUT = {"leases"}
"""Tables that say what is going on now, which is over in a copy."""

_TYPES: dict[str, TypeEngine[Any]] = {
    "int": sqlalchemy.BigInteger(),
    "text": sqlalchemy.Text(),
    "bytes": sqlalchemy.LargeBinary(),
    "bool": sqlalchemy.Boolean(),
}
_LIMIT = 1 << 63
_PYTHON = {int: "int", str: "text", bytes: "bytes", bool: "bool"}


def list_shapes(connection: Connection) -> list[Shape]:
    """The tables of the newest schema with the number of their rows; what is referred to first."""
    counts = (
        connection.execute(select(func.count()).select_from(known)).scalar_one()
        for known in _list_tables()
    )
    return [
        replace(shape, rows=rows) for shape, rows in zip(describe_schema(), counts, strict=True)
    ]


def describe_schema() -> list[Shape]:
    """The tables of the newest schema, as `list_shapes` has them, without rows."""
    return [
        Shape(
            name=str(known.name),
            columns={str(found.name): _name_kind(found.type) for found in known.columns},
            key=[str(found.name) for found in known.primary_key],
            rows=0,
        )
        for known in _list_tables()
    ]


def list_columns(connection: Connection) -> dict[str, set[str]]:
    """The tables that a copy has, by the names of their columns, as they lie here now."""
    inspector = inspect(connection)
    return {
        name: {str(found["name"]) for found in inspector.get_columns(name)}
        for name in inspector.get_table_names()
        if name not in LEFT_OUT | {"alembic_version"}
    }


def _list_tables() -> list[Table]:
    return [known for known in metadata.sorted_tables if known.name not in LEFT_OUT]


def read_rows(
    connection: Connection, shape: Shape, *, key: list[str] | None = None
) -> Iterator[list[tuple[Cell, ...]]]:
    """All rows in the order of the key; with another `key`, those that have one."""
    plain = _make_table(shape)
    order = [plain.c[name] for name in key or shape.key]
    places = [list(shape.columns).index(name) for name in key or shape.key]
    query = select(plain).order_by(*order).limit(PAGE)
    if key:
        query = query.where(*(part.is_not(None) for part in order))
    page = query
    while rows := [tuple(row) for row in connection.execute(page)]:
        yield from _split(rows)
        last = [literal(rows[-1][place], order[n].type) for n, place in enumerate(places)]
        after = order[0] > last[0] if len(order) == 1 else row_value(*order) > row_value(*last)
        page = query.where(after)


def write_rows(connection: Connection, shape: Shape, rows: Iterable[tuple[Cell, ...]]) -> None:
    """Insert rows as they are."""
    names = list(shape.columns)
    values = [dict(zip(names, row, strict=True)) for row in rows]
    if values:
        connection.execute(insert(_make_table(shape)), values)


def sum_rows(connection: Connection, shape: Shape) -> Sum:
    """The sum of a table as it lies here."""
    tally = Tally(shape.name)
    for rows in read_rows(connection, shape):
        tally.add(rows)
    return tally.finish()


def sum_journal(connection: Connection, shape: Shape) -> Sum:
    """The sum of the sealed journal in its order; two that have the same tell the same story."""
    tally = Tally("journal")
    for rows in read_rows(connection, shape, key=["position"]):
        tally.add(rows)
    return tally.finish()


def fits(shape: Shape, frame: Rows) -> bool:
    """Whether the cells of all rows are of their columns' kinds."""
    kinds = list(shape.columns.values())
    return all(
        len(row) == len(kinds)
        and all(
            cell is None or (_PYTHON.get(type(cell)) == kind and not _is_too_large(cell))
            for cell, kind in zip(row, kinds, strict=True)
        )
        for row in frame.rows
    )


def read_next_id(connection: Connection) -> int:
    """The last id that the journal gave to a row, if that row is gone too."""
    if connection.dialect.name == "sqlite":
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'journal'"
        return connection.execute(text(query)).scalar() or 0
    query = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM journal_id_seq"
    return int(connection.execute(text(query)).scalar_one())


def write_next_id(connection: Connection, last: int) -> None:
    """Have the journal go on after `last`; `Invalid` if rows with later ids are there."""
    highest = connection.execute(text("SELECT max(id) FROM journal")).scalar() or 0
    if last < highest:
        raise Invalid("The copy is damaged: ids would be given twice. Use another one.")
    if not last:
        return
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT setval('journal_id_seq', :last)"), {"last": last})
        return
    done = connection.execute(
        text("UPDATE sqlite_sequence SET seq = :last WHERE name = 'journal'"), {"last": last}
    )
    if not done.rowcount:
        connection.execute(
            text("INSERT INTO sqlite_sequence (name, seq) VALUES ('journal', :last)"),
            {"last": last},
        )


def _is_too_large(cell: Cell) -> bool:
    return isinstance(cell, int) and not -_LIMIT <= cell < _LIMIT


def _make_table(shape: Shape) -> TableClause:
    columns = (column(name, _TYPES[kind]) for name, kind in shape.columns.items())
    return table(shape.name, *columns)


def _name_kind(kind: TypeEngine[Any]) -> str:
    stored = getattr(kind, "impl_instance", kind)
    for python, types in (
        ("bool", sqlalchemy.Boolean),
        ("int", sqlalchemy.Integer),
        ("text", sqlalchemy.String),
        ("bytes", sqlalchemy.LargeBinary),
    ):
        if isinstance(stored, types):
            return python
    raise TypeError(f"rows can't be copied as they are: {kind!r}")


def _split(rows: list[tuple[Cell, ...]]) -> Iterator[list[tuple[Cell, ...]]]:
    part: list[tuple[Cell, ...]] = []
    size = 0
    for row in rows:
        part.append(row)
        size += sum(len(cell) for cell in row if isinstance(cell, str | bytes))
        if size > MAX_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
