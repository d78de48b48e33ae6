"""The shelf that the database keystore gets of the store: sealed keys by name, synchronously.

A keystore is synchronous and is called in threads, also before there is an event loop; so its
shelf has short transactions of its own, beside the writers. They are rare: a key is made a few
times a year, and opened once a process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from troth.store.database import Database
from troth.store.session import Session
from troth.store.transaction import Transaction
from troth.store.writer import call_function, translate_error

T = TypeVar("T")

ATTEMPTS = 5
"""A connection that was cut is replaced, and of two that collide one begins anew."""


class KeyShelf:
    """The shelf of a database (`troth.drivers.keystores.sealed.Shelf`); any thread may use it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, name: str, content: bytes) -> None:
        """Store something new; durable on return."""
        self._run(lambda tx: tx.keys.add(name, content), writing=True)

    def get(self, name: str) -> bytes | None:
        """What is stored under `name`."""
        return self._run(lambda tx: tx.keys.find(name))

    def names(self) -> list[str]:
        """All names, sorted."""
        return self._run(lambda tx: tx.keys.list())

    def remove(self, name: str) -> bool:
        """Delete it; durable on return."""
        return self._run(lambda tx: tx.keys.drop(name), writing=True)

    def describe(self, name: str = "") -> str:
        """The table, or a row of it."""
        return f"The row {name!r} of the database's table keys" if name else "The table keys"

    def _run(self, function: Callable[[Transaction], T], *, writing: bool = False) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._run_once(function, writing=writing)
            except BaseException as error:  # the caller's, whatever it is: it gets it
                if attempt < ATTEMPTS and self._database.is_passing(error):
                    continue
                known = translate_error(error, self._database, reading=not writing)
                if known is error:
                    raise
                raise known from error
        raise AssertionError("the last attempt returns or raises")

    def _run_once(self, function: Callable[[Transaction], T], *, writing: bool) -> T:
        link = self._database.open_link()
        try:
            link.begin_write() if writing else link.begin_read()
            value: T = call_function(function, Session(link.connection, writable=writing))
            link.commit()
        finally:
            link.close()
        return value
