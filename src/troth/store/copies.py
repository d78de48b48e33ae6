"""Copies of a whole database: read in one snapshot, stored in one transaction, then compared.

What is read here are frames (`troth.wire.backup`): they go into another database, or into a file
and from there into one, on whatever engine. A copy has every row as it was, the journal with its
positions included, so its log tells the same story.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

from msgspec.structs import replace
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from troth.core.errors import Conflict, Invalid, Refused
from troth.store.database import Database, Link
from troth.store.rows import (
    describe_schema,
    fits,
    list_columns,
    list_shapes,
    read_next_id,
    read_rows,
    sum_journal,
    sum_rows,
    write_next_id,
    write_rows,
)
from troth.store.schema import HEAD, read_revision, upgrade_connection
from troth.store.session import Session
from troth.store.transaction import Transaction
from troth.store.writer import call_function, translate_error
from troth.wire.backup import Closing, Frame, Opening, Rows, SealedKey, Shape, Sum, Tally

JOURNAL = "journal"

Progress = Callable[[str, int, int], None]
"""Told of a table, how many of its rows are done, and how many there are."""


class Source:
    """A database that is copied, and held until the copy is kept."""

    def __init__(self, database: Database, link: Link) -> None:
        self._database = database
        self._link = link

    def export(
        self, made_at: datetime, keys: Callable[[], Iterable[SealedKey]]
    ) -> Generator[Frame, None, None]:
        """The frames of the database as it was when it was opened.

        `keys` is asked once the snapshot is taken. Raises `Refused` for another version's database.
        """
        with _explain(self._database):
            yield from _export(self._link.connection, made_at, keys)

    def check_alone(self) -> None:
        """`Refused` if somebody uses the database that was opened `alone`: last, before the copy
        is kept."""
        with _explain(self._database):
            self._link.be_alone()


@contextmanager
def open_source(database: Database, *, alone: bool = False) -> Iterator[Source]:
    """The database as of now, to be copied; others may go on working, unless it must be `alone`.

    Then `Refused` while somebody else uses it, and kept from servers until the end of the block.
    """
    with _explain(database):
        link = database.begin_copy(alone=alone)
    try:
        yield Source(database, link)
    finally:
        link.close()


def export_database(
    database: Database, made_at: datetime, keys: Callable[[], Iterable[SealedKey]]
) -> Generator[Frame, None, None]:
    """The frames of a database as of now, while others go on working; see `Source.export`."""
    with open_source(database) as source:
        yield from source.export(made_at, keys)


@contextmanager
def _explain(database: Database) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        known = translate_error(error, database, reading=True)
        if known is error:
            raise
        raise known from error


def _export(
    connection: Connection, made_at: datetime, keys: Callable[[], Iterable[SealedKey]]
) -> Iterator[Frame]:
    revision = read_revision(connection)
    if revision is None:
        raise Refused("The database is empty: there is nothing to copy. Look at its URL.")
    if revision != HEAD:
        raise Refused(
            f"The database has the schema {revision}, and this troth copies {HEAD}. Start this "
            "troth on it once, which brings it there, or copy it with the troth that wrote it."
        )
    tx = Transaction(Session(connection, writable=False))
    shapes = list_shapes(connection)
    yield Opening(
        schema=revision,
        made_at=made_at,
        trust_domain=tx.settings.get("trust_domain") or "",
        head=tx.journal.head(),
        tables=shapes,
    )
    for shape in shapes:
        tally = Tally(shape.name)
        for rows in read_rows(connection, shape):
            tally.add(rows)
            yield Rows(table=shape.name, rows=rows)
        yield tally.finish()
    yield from keys()
    journal = next(shape for shape in shapes if shape.name == JOURNAL)
    yield Closing(
        next_ids={JOURNAL: read_next_id(connection)}, journal=sum_journal(connection, journal)
    )


class Load:
    """What has come of a copy so far: checks that each part follows from those before."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tallies: dict[str, Tally] = {}
        self._done: dict[str, int] = {}
        self.shapes: dict[str, Shape] = {}
        self.opening: Opening | None = None
        self.closing: Closing | None = None
        self.sums: dict[str, Sum] = {}
        self.keys: list[SealedKey] = []

    def take(self, frame: Frame) -> tuple[Shape, Rows] | None:
        """Take in a frame; rows are given back with the shape that they fit. Raises `Invalid`."""
        if (self.opening is None) != isinstance(frame, Opening) or self.closing is not None:
            raise _damaged("its parts stand in a wrong order")
        match frame:
            case Opening():
                shapes = [replace(shape, rows=0) for shape in frame.tables]
                if frame.schema == HEAD and shapes != describe_schema():
                    raise _damaged("its tables aren't those of its schema")
                self.opening = frame
                self.shapes = {shape.name: shape for shape in frame.tables}
            case Rows():
                shape = self.shapes.get(frame.table)
                if shape is None or frame.table in self.sums or not fits(shape, frame):
                    raise _damaged("rows don't fit their table")
                self._tallies.setdefault(frame.table, Tally(frame.table)).add(frame.rows)
                self._done[frame.table] = self._done.get(frame.table, 0) + len(frame.rows)
                self._progress(frame.table, self._done[frame.table], shape.rows)
                return shape, frame
            case Sum():
                found = self._tallies.pop(frame.table, Tally(frame.table)).finish()
                if found != frame or frame.table not in self.shapes or frame.table in self.sums:
                    raise _damaged("a table's sum doesn't fit")
                self.sums[frame.table] = frame
            case SealedKey():
                self.keys.append(frame)
            case Closing():
                self.closing = frame
        return None

    def finish(self) -> tuple[Opening, Closing]:
        """What it is a copy of; `Invalid` unless all of it was there."""
        complete = self.sums.keys() == self.shapes.keys()
        if self.opening is None or self.closing is None or not complete:
            raise _damaged("a part is missing")
        if JOURNAL not in self.shapes or JOURNAL not in self.closing.next_ids:
            raise _damaged("it has no journal, or doesn't say where that goes on")
        return self.opening, self.closing


def check_frames(frames: Iterable[Frame], progress: Progress) -> Load:
    """Look at all of a copy without storing it; `Invalid` if it isn't whole."""
    load = Load(progress)
    for frame in frames:
        load.take(frame)
    load.finish()
    return load


def import_frames(
    target: Database,
    frames: Iterable[Frame],
    progress: Progress,
    finish: Callable[[Transaction, Load], None] | None = None,
) -> Load:
    """Store a copy in an empty database: all of it, or nothing.

    Before it is kept every table is read again and compared, and then brought to the newest schema.
    `finish` is called last, in the same transaction. Raises `Conflict` if the database isn't empty.
    """
    target.create()
    load = Load(progress)
    try:
        link = target.begin_migration()
        try:
            _import(link.connection, frames, load)
            if finish is not None:
                call_function(lambda tx: finish(tx, load), Session(link.connection, writable=True))
            if not link.keeps_references():
                raise _damaged("its rows refer to others that it doesn't hold")
            link.commit()
        finally:
            link.close()
    except Exception as error:
        known = translate_error(error, target)
        if known is not error:
            raise known from error
        if isinstance(error, DBAPIError):
            raise _damaged("its rows can't be stored") from error
        raise
    return load


def _import(connection: Connection, frames: Iterable[Frame], load: Load) -> None:
    if read_revision(connection) is not None:
        raise Conflict(
            "The database that should take the copy isn't empty. Name one that is new, or drop and "
            "create that one again if nothing in it is needed."
        )
    for frame in frames:
        found = load.take(frame)
        if isinstance(frame, Opening):
            if frame.schema > HEAD:
                raise Refused("A newer troth made the copy. Use that version or a newer one.")
            upgrade_connection(connection, frame.schema)
            _compare_columns(connection, frame)
        if found is not None:
            shape, rows = found
            write_rows(connection, shape, rows.rows)
    opening, closing = load.finish()
    write_next_id(connection, closing.next_ids[JOURNAL])
    for name, wanted in load.sums.items():
        if sum_rows(connection, load.shapes[name]) != wanted:
            raise Invalid(f"The table {name} came out different; nothing was kept. Try again.")
    if sum_journal(connection, load.shapes[JOURNAL]) != closing.journal:
        raise Invalid("The journal came out in another order; nothing was kept. Try again.")
    if opening.schema != HEAD:
        upgrade_connection(connection)


def _compare_columns(connection: Connection, opening: Opening) -> None:
    """`Invalid` unless the copy has every table and column that its schema has, and no other."""
    if {shape.name: set(shape.columns) for shape in opening.tables} != list_columns(connection):
        raise _damaged("its tables aren't those of its schema")


def _damaged(why: str) -> Invalid:
    return Invalid(f"The copy is damaged: {why}. Use another one.")
