"""SQLite: the file, its connections, and what its errors mean. The only place that knows it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import cast

from sqlalchemy import Connection, Engine, NullPool, create_engine, text
from sqlalchemy.exc import DatabaseError

from troth.core.errors import Internal, Invalid, Refused, TrothError, Unavailable

BUSY_SECONDS = 5.0
CHECKPOINT_PAGES = 4000
"""After how many pages (16 MB) the write-ahead log goes into the file: a page that is written again
and again, as those of indexes are, goes there once."""
CACHE_KIB = 16 * 1024
"""Of the connection that writes: the ends of an index by subject alone are a page for each."""
JOURNAL_BYTES = 64 * 1024 * 1024
"""To what the write-ahead log is cut back after a long reader has let it grow."""

_OUTAGES = {
    sqlite3.SQLITE_FULL: "the disk or the quota is full. Free some space and try again",
    sqlite3.SQLITE_BUSY: "another process holds it. Run one server on a database, then try again",
    sqlite3.SQLITE_LOCKED: "it is locked. Try again",
    sqlite3.SQLITE_IOERR: "the disk reports an error. Look at the system's log, then try again",
    sqlite3.SQLITE_CANTOPEN: "its file can't be opened. Put it back, or mend its permissions",
    sqlite3.SQLITE_READONLY: "its file is read-only. Mend its permissions, or remount the disk",
    sqlite3.SQLITE_PERM: "access is refused. Mend the permissions of its file and directory",
    sqlite3.SQLITE_AUTH: "access is refused. Mend the permissions of its file and directory",
    sqlite3.SQLITE_NOMEM: "the machine is out of memory. Try again",
    sqlite3.SQLITE_CORRUPT: "its file is damaged. Restore a backup",
    sqlite3.SQLITE_NOTADB: "its file isn't a database. Restore a backup",
    sqlite3.SQLITE_PROTOCOL: "its lock is contended. Try again",
    sqlite3.SQLITE_INTERRUPT: "it is being closed. Try again",
}


def _share_memory(raw: sqlite3.Connection) -> str:
    """Change to the write-ahead log, as all connections must; what mode it is then.

    While another connection makes that change SQLite refuses at once, however long one would wait;
    a transaction waits, and afterwards there is nothing left to change.
    """
    try:
        (mode,) = raw.execute("PRAGMA journal_mode = WAL").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("ROLLBACK")
        (mode,) = raw.execute("PRAGMA journal_mode = WAL").fetchone()
    return str(mode)


class LostTransactionError(Exception):
    """The database gave up the whole transaction, not one statement of it."""


class LostFileError(Exception):
    """The database's file was removed or replaced while it was open."""


def parse_url(url: str) -> Path:
    """The file that `url` names; `Invalid` for anything but ``sqlite:///path``.

    What stands after the three slashes is the path, letter by letter: nothing is decoded. The
    message never repeats the URL: another engine's may hold a password.
    """
    scheme, _, path = url.partition("://")
    if scheme != "sqlite":
        raise Invalid("A database URL is sqlite:///path/troth.db or begins with postgresql://.")
    name = path[1:]
    if not path.startswith("/") or not name or name == ":memory:" or "?" in name or "\0" in name:
        raise Invalid("The database URL needs a file and nothing else: sqlite:///path/troth.db.")
    return Path(name).absolute()


class Link:
    """One connection, with its transaction in our hands rather than the driver's."""

    def __init__(self, connection: Connection, raw: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self._raw = raw
        self._path = path
        self._file = _file_number(path)

    def begin_write(self) -> None:
        """Take the write lock now, so that nothing fails half-way for want of it."""
        self._check_file()
        self._raw.execute("BEGIN IMMEDIATE")

    def begin_read(self) -> None:
        """Begin a read and take its snapshot at once."""
        self._check_file()
        self._raw.execute("BEGIN")
        self._raw.execute("SELECT 1 FROM sqlite_schema LIMIT 1")

    def savepoint(self) -> None:
        """Mark where one function begins."""
        self._raw.execute("SAVEPOINT troth")

    def release(self) -> None:
        """Keep what the function did."""
        self._check_transaction()
        self._raw.execute("RELEASE troth")

    def undo(self) -> None:
        """Take back what the function did, and nothing else."""
        self._check_transaction()
        self._raw.execute("ROLLBACK TO troth")
        self._raw.execute("RELEASE troth")

    def commit(self) -> None:
        """Make it durable; raises `LostFileError` rather than write into a deleted file."""
        self._check_transaction()
        self._check_file()
        self._raw.execute("COMMIT")

    def be_alone(self) -> None:
        """Look that the file is still there: its lock, once had, keeps everybody else out."""
        self._check_file()

    def keeps_references(self) -> bool:
        """Whether no row refers to nothing: migrations and copies work without such checks."""
        return self.connection.execute(text("PRAGMA foreign_key_check")).first() is None

    def rollback(self) -> None:
        """End a transaction and keep nothing of it."""
        if self._raw.in_transaction:
            self._raw.execute("ROLLBACK")

    def reset(self) -> bool:
        """End what is open; whether the connection is fit for more. Never raises."""
        try:
            self.rollback()
        except sqlite3.Error:
            return False
        return True

    def close(self) -> None:
        """Give up the connection and whatever it was doing. Never raises."""
        self.reset()  # if it fails: closing takes back what is open
        try:
            self.connection.close()
        except DatabaseError:
            pass  # a connection that can't be closed is as good as gone

    def _check_transaction(self) -> None:
        # On a full disk, an I/O error or lack of memory SQLite may roll back everything by
        # itself, whatever the function made of the exception (sqlite.org/lang_transaction.html).
        if not self._raw.in_transaction:
            raise LostTransactionError

    def _check_file(self) -> None:
        if _file_number(self._path) != self._file:
            raise LostFileError


class SqliteFile:
    """A database file, private to its owner, and the connections to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine: Engine = create_engine(
            "sqlite://",
            creator=self._connect,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",  # `Link` begins and commits
            query_cache_size=1000,
            hide_parameters=True,  # an error's text goes into the log, its values must not
        )

    def create(self) -> None:
        """Make the file and its directory if missing; mode 0600, directory 0700.

        Raises `Unavailable` if it can't be made or isn't ours to protect.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            # SQLite gives -wal and -shm the mode of the file itself; what an earlier
            # start left behind may be wider.
            for name in ("", "-wal", "-shm"):
                found = self._path.with_name(self._path.name + name)
                if found.exists() and found.stat().st_mode & 0o177:
                    found.chmod(0o600)
        except OSError as error:
            raise Unavailable(
                f"The database file can't be opened: {error.strerror}. Check its path and owner."
            ) from error

    def open_link(self, *, read_only: bool = False, foreign_keys: bool = True) -> Link:
        """A new connection; raises the driver's errors, which `explain_error` knows."""
        connection = self._engine.connect()
        raw = cast(sqlite3.Connection, connection.connection.driver_connection)
        try:
            mode = _share_memory(raw)
            if mode != "wal":
                raise Unavailable("The database needs a local disk: here it can't share memory.")
            raw.execute("PRAGMA synchronous = FULL")
            raw.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
            raw.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
            raw.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            raw.execute("PRAGMA trusted_schema = OFF")
            if read_only:
                raw.execute("PRAGMA query_only = ON")
            else:
                raw.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            return Link(connection, raw, self._path)
        except BaseException:  # whatever it was, the connection must not leak
            connection.close()
            raise

    def begin_migration(self) -> Link:
        """A connection in a transaction that has the file for itself."""
        # Rebuilding a table drops the old one, and with foreign keys on that would delete what
        # refers to it (sqlite.org/lang_altertable.html, section 7). They are checked afterwards.
        link = self.open_link(foreign_keys=False)
        try:
            link.begin_write()
        except BaseException:  # whatever it was, the connection must not leak
            link.close()
            raise
        return link

    def begin_copy(self, *, alone: bool) -> Link:
        """A connection in a read; `alone` it keeps everybody else out of the file."""
        if not self._path.exists():
            raise Invalid(f"There is no database {self._path}. Look at its URL.")
        link = self.open_link(read_only=not alone)
        try:
            if not alone:
                link.begin_read()
                return link
            # In this mode the lock is only got while nobody else has the file open, idle or not
            # (sqlite.org/wal.html, section 6).
            link.connection.exec_driver_sql("PRAGMA locking_mode = EXCLUSIVE")
            link.connection.exec_driver_sql("BEGIN EXCLUSIVE")
        except DatabaseError as error:
            link.close()
            raise Refused(
                f"A server uses {self._path}. Stop it first: what it would write meanwhile would "
                "be lost."
            ) from error
        except BaseException:  # whatever it was, the connection must not leak
            link.close()
            raise
        return link

    def explain_error(self, error: BaseException, *, reading: bool = False) -> TrothError | None:
        """What the caller should hear of `error`; None if it is the caller's own."""
        return explain_error(error, reading=reading)

    def is_passing(self, error: BaseException) -> bool:
        """Never: with one writer nothing collides, and a lost file doesn't come back at once."""
        return False

    def dispose(self) -> None:
        """Forget the engine's caches; links are closed by their owners."""
        self._engine.dispose()

    def _connect(self) -> sqlite3.Connection:
        # mode=rw: a file that vanished is an outage, never a reason to begin an empty database.
        return sqlite3.connect(
            f"{self._path.as_uri()}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )


def explain_error(error: BaseException, *, reading: bool = False) -> TrothError | None:
    """The `Unavailable` that `error` stands for, or None if it is no outage of the database."""
    if isinstance(error, LostFileError):
        return Unavailable("The database's file was removed or replaced. Put it back.")
    if isinstance(error, LostTransactionError):
        cause = error.__cause__ or error.__context__
        known = explain_error(cause) if cause is not None else None
        return known or Unavailable("The database gave up the transaction. Try again.")
    inner = error.orig if isinstance(error, DatabaseError) else error
    if not isinstance(inner, sqlite3.Error):
        return None
    code = getattr(inner, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # the primary result code
    if reading and code == sqlite3.SQLITE_READONLY:
        return Internal("A read tried to change something; that needs a transaction.")
    if code in _OUTAGES:
        return Unavailable(f"The database is away: {_OUTAGES[code]}.")
    return None


def _file_number(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
