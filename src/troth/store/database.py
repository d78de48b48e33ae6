"""What the store asks of an engine, so that the rest of it doesn't know which one it has."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import Connection

from troth.core.errors import TrothError


class Link(Protocol):
    """One connection, with its transaction in our hands rather than the driver's."""

    @property
    def connection(self) -> Connection:
        """What statements go through."""
        ...

    def begin_write(self) -> None:
        """Begin a transaction that is as if it were alone."""
        ...

    def begin_read(self) -> None:
        """Begin a read and take its snapshot."""
        ...

    def be_alone(self) -> None:
        """Look that nobody else uses the database that is copied; `Refused` otherwise."""
        ...

    def keeps_references(self) -> bool:
        """Whether no row refers to nothing, after a migration or a copy."""
        ...

    def commit(self) -> None:
        """Make it durable."""
        ...

    def rollback(self) -> None:
        """End a transaction and keep nothing of it."""
        ...

    def reset(self) -> bool:
        """End what is open; whether the connection is fit for more. Never raises."""
        ...

    def close(self) -> None:
        """Give up the connection and whatever it was doing. Never raises."""
        ...


class Database(Protocol):
    """A database: connections to it, and what its errors mean."""

    def create(self) -> None:
        """Make what must be there before a connection; raises `Unavailable` if it can't."""
        ...

    def open_link(self, *, read_only: bool = False) -> Link:
        """A new connection; raises the driver's errors, which `explain_error` knows."""
        ...

    def begin_migration(self) -> Link:
        """A connection in a transaction that no other migration shares."""
        ...

    def begin_copy(self, *, alone: bool) -> Link:
        """A connection in a read that may take long; `alone` it has the database for itself until
        it is closed, and is `Refused` while somebody else uses that."""
        ...

    def explain_error(self, error: BaseException, *, reading: bool = False) -> TrothError | None:
        """What the caller should hear of `error`; None if it is the caller's own."""
        ...

    def is_passing(self, error: BaseException) -> bool:
        """Whether the same function may well succeed at once, on a new connection."""
        ...

    def dispose(self) -> None:
        """Forget the engine's caches; links are closed by their owners."""
        ...
