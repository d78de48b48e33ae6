"""PostgreSQL: the server, connections to it, and what its errors mean. The only place that knows.

Isolation is SERIALIZABLE: a function then sees and does what it would alone, which is what the
operations were written for and what SQLite gives. What a function read and another changed in the
meantime (an identity's state, as a certificate of it is intended) makes one of the two begin anew.
"""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import unquote

import psycopg
import structlog
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo, TransactionStatus
from sqlalchemy import Connection, Engine, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from troth.core.errors import Internal, Invalid, Refused, TrothError, Unavailable

CONNECT_SECONDS = 5
OLDEST = 140000
"""PostgreSQL 14, as `server_version` counts."""

MIGRATION_LOCK = 0x74726F74_686D6967
"""Advisory lock of whoever migrates: "trothmig"."""

SERVING_LOCK = 0x74726F74_73657276
"""Advisory lock: every connection of ours shares it, whatever its role; who needs the database for
itself has it alone. "trotserv"."""

_SESSION = """
SET statement_timeout = '30s';
SET lock_timeout = '10s';
SET idle_in_transaction_session_timeout = '10s';
SET tcp_keepalives_idle = 5;
SET tcp_keepalives_interval = 3;
SET tcp_keepalives_count = 3;
SET tcp_user_timeout = 15000;
SET client_min_messages = warning;
SET jit = off;
"""
"""The server looks after us as we look after it: what a dead or stalled one of us holds (row locks,
its presence) is others' again within seconds rather than the kernel's two hours. Compiling a query
would take longer than any of ours."""

_DEFAULTS = {
    "application_name": "troth",
    "connect_timeout": CONNECT_SECONDS,
    "target_session_attrs": "read-write",
    # A dead network is noticed within some fifteen seconds instead of the kernel's two hours.
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_BEGIN = {
    "write": "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE",
    # LOCK takes no snapshot: what is seen afterwards has all that others wrote (PostgreSQL's
    # documentation, section 13.3.1), and those who had begun before are the ones to begin anew.
    "alone": "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE; "
    "LOCK TABLE certificates IN SHARE ROW EXCLUSIVE MODE",
    # Nobody seals while a sealer that was stopped or cut off half-way holds its lock.
    "locked": "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
    "SET LOCAL idle_in_transaction_session_timeout = '3s'",
    "read": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
}
# For migrations and copies; the connection ends with them.
_UNHURRIED = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"
_GREETING = "SELECT pg_try_advisory_lock_shared(%s), current_setting('synchronous_commit')"
_MOVED = (
    "The database is being moved by `troth db move`. Start no server on it meanwhile; afterwards "
    "set database.url to where it went."
)
# Of other roles' sessions everybody sees no more than this much; autovacuum has no role. One that
# was made since our snapshot has no name in it.
_OTHERS = """
SELECT coalesce(string_agg(DISTINCT coalesce(usename, 'a new role'), ', '), '')
FROM pg_stat_activity
WHERE datname = current_database() AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
"""
_LOOKS = 10
"""How often, each tenth of a second: what was just closed takes a moment to be gone."""
_COLLISIONS = ("40001", "40P01")  # serialization_failure, deadlock_detected
_READ_ONLY = "25006"
# SQLSTATE, or its class: PostgreSQL's documentation, appendix A.
_OUTAGES = {
    "08": "the connection broke. Try again",
    "28": "it refuses our user or password. Mend the database URL or pg_hba.conf",
    "3D": "there is no database of that name. Create it, or mend the database URL",
    _READ_ONLY: "this server is a standby or read-only. Name the primary in the database URL",
    "40": "too many changes collide. Try again in a moment",
    "42501": "our user lacks a privilege. Grant it all privileges on its database and schema",
    "53": "it is out of disk, memory or connections. Mend that, then try again",
    "55P03": "a lock was held for too long. Try again",
    "57014": "a statement took too long. Try again",
    "57": "it is stopping or starting. Try again in a moment",
    "58": "it reports an error of its system. Look at its log, then try again",
    "XX001": "its files are damaged. Restore a backup",
    "XX002": "an index of it is damaged. Restore a backup, or REINDEX",
}
_LOST_CLASSES = ("08", "57P01", "57P02", "57P03", "57P05", "25P03")

log = structlog.get_logger(__name__)


class UnknownCommitError(Exception):
    """The connection broke while the server was committing."""


def parse_url(url: str) -> dict[str, Any]:
    """The parameters of a connection that ``postgresql://user@host:port/name?…`` names.

    The form is libpq's, with all its parameters and PG… environment variables (PostgreSQL's
    documentation, section 34.1.1.2). Away from this machine and unless told otherwise, the server
    must prove itself with a certificate. The message of `Invalid` never repeats the URL.
    """
    if "\0" in unquote(url):
        raise Invalid("The database URL can't hold a zero byte.")
    try:
        given = cast(dict[str, Any], conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        raise Invalid(
            "The database URL must be like postgresql://user@host:5432/name; special characters "
            "in a password are written %XX."
        ) from None  # what libpq says repeats parts of it
    if not given.get("dbname"):
        raise Invalid("The database URL must name a database: postgresql://user@host:5432/name.")
    parameters = _DEFAULTS | given
    if "sslmode" not in given and not _is_local(given) and _default("sslmode") == "prefer":
        parameters["sslmode"] = "verify-full"
        if "sslrootcert" not in given and not _default("sslrootcert"):
            parameters["sslrootcert"] = "system"
    return parameters


def _is_local(given: dict[str, Any]) -> bool:
    hosts = str(given.get("host") or given.get("hostaddr") or _default("host") or "").split(",")
    return all(
        host in ("", "localhost", "127.0.0.1", "::1") or host.startswith(("/", "@"))
        for host in hosts
    )


def _default(keyword: str) -> str:
    """What libpq takes for a parameter that isn't given: from the environment, or built in."""
    found = (option.val for option in Conninfo.get_defaults() if option.keyword == keyword.encode())
    return (next(found, None) or b"").decode()


class PostgresLink:
    """One connection, with its transaction in our hands rather than the driver's."""

    def __init__(self, connection: Connection, raw: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self._raw = raw

    def begin_write(self, *, alone: bool = False) -> None:
        """Begin a transaction that is as if it were alone; with `alone`, nobody issues meanwhile.

        Who cuts off or lets in anew reads all certificates of somebody, and each one issued to
        them meanwhile is a collision: it would be begun anew for as long as they are busy.
        """
        self._raw.execute(_BEGIN["alone" if alone else "write"])

    def begin_locked(self) -> None:
        """Begin a transaction that sees each moment anew, for who takes locks by itself."""
        self._raw.execute(_BEGIN["locked"])

    def begin_read(self) -> None:
        """Begin a read; its first statement takes the snapshot."""
        self._raw.execute(_BEGIN["read"])

    def be_alone(self) -> None:
        """Keep every server out while this connection lives; `Refused` if anybody else is there.

        Asked again it looks again: for who came in spite of it, an older troth or another program.
        """
        others = ""
        for look in range(_LOOKS):
            if look:
                self._ask("SELECT pg_sleep(0.1)")
            (alone,) = self._ask("SELECT pg_try_advisory_lock(%s)", SERVING_LOCK)
            self._ask("SELECT pg_stat_clear_snapshot()")  # or a transaction sees the same for ever
            (others,) = self._ask(_OTHERS)
            if alone and not others:
                return
        raise Refused(
            f"Others are connected to the database, as {others or 'another server'}. Stop every "
            "server on it, whatever its role, and end all other sessions, then try again: what "
            "they write meanwhile would be lost. Nothing was kept."
        )

    def _ask(self, query: str, *values: Any) -> Any:
        return self._raw.execute(query.encode(), values or None).fetchone()

    def keeps_references(self) -> bool:
        """Always: PostgreSQL never leaves a reference to nothing."""
        return True

    def commit(self) -> None:
        """Make it durable.

        Raises `UnknownCommitError` if the connection broke before the server's answer.
        """
        if self._raw.info.transaction_status is TransactionStatus.INERROR:
            # COMMIT would be a silent ROLLBACK.
            raise Internal("A transaction's function went on after an error of the database.")
        try:
            self._raw.execute("COMMIT")
        except psycopg.Error as error:
            if _is_lost(error):
                raise UnknownCommitError from error
            raise

    def rollback(self) -> None:
        """End a transaction and keep nothing of it."""
        if self._raw.info.transaction_status is not TransactionStatus.IDLE:
            self._raw.execute("ROLLBACK")

    def reset(self) -> bool:
        """End what is open; whether the connection is fit for more. Never raises."""
        try:
            self.rollback()
        except psycopg.Error:
            return False
        return True

    def close(self) -> None:
        """Give up the connection; the server takes back what is open. Never raises."""
        try:
            self.connection.invalidate()  # closes it without another word to the server
            self.connection.close()
        except (psycopg.Error, DBAPIError):
            pass  # a connection that can't be closed is as good as gone


class PostgresServer:
    """A database of a PostgreSQL server, and the connections to it."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._parameters = parameters
        self._away = False
        self._engine: Engine = create_engine(
            "postgresql+psycopg://",
            creator=self.connect,
            poolclass=NullPool,  # who opens a link keeps it
            isolation_level="AUTOCOMMIT",  # `PostgresLink` begins and commits
            query_cache_size=1000,
            use_native_hstore=False,
            hide_parameters=True,  # an error's text goes into the log, its values must not
        )

    def create(self) -> None:
        """Look that the server is one to trust records to; its database must exist already.

        Raises `Refused` for a version or encoding that won't do.
        """
        try:
            raw = self.connect()
        except psycopg.Error as error:
            raise _explain(error) or Unavailable("The database can't be reached.") from error
        try:
            version, encoding, fsync = (
                raw.info.server_version,
                raw.info.parameter_status("server_encoding"),
                raw.execute("SHOW fsync").fetchone(),
            )
        finally:
            raw.close()
        if version < OLDEST:
            raise Refused("PostgreSQL 14 or newer is needed; this server is older.")
        if encoding != "UTF8":
            raise Refused("The database must have the encoding UTF8; create one that has it.")
        if fsync == ("off",):
            log.warning("store.fsync_off", mend="set fsync = on in postgresql.conf")

    def open_link(self, *, read_only: bool = False) -> PostgresLink:
        """A new connection; a read's own transactions are what makes it read-only."""
        connection = self._engine.connect()
        raw = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
        return PostgresLink(connection, raw)

    def connect(self) -> psycopg.Connection[Any]:
        """A bare connection that commits each statement by itself."""
        try:
            raw = psycopg.connect(autocommit=True, **self._parameters)
        except psycopg.OperationalError as error:
            if not self._away:
                self._away = True  # said once, though everybody tries
                # libpq's words name host, user and database, never the password.
                log.error("store.unreachable", why=str(error).strip())
            raise
        if self._away:
            self._away = False
            log.info("store.reached")
        try:
            raw.execute(_SESSION)
            shared, durable = raw.execute(_GREETING, (SERVING_LOCK,)).fetchone() or (False, "")
            if not shared:
                raise Unavailable(_MOVED)
            # "off" acknowledges before anything is on disk; what else may be set is the operator's.
            if durable == "off":
                raw.execute("SET synchronous_commit = on")
        except BaseException:  # whatever it was, the connection must not leak
            raw.close()
            raise
        return raw

    def begin_migration(self) -> PostgresLink:
        """A connection in a transaction that holds the migrations' lock until it ends."""
        link = self.open_link()
        try:
            link.begin_locked()
            link.connection.exec_driver_sql("SET LOCAL lock_timeout = '10min'")
            link.connection.exec_driver_sql(_UNHURRIED)
            link.connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        except BaseException:  # whatever it was, the connection must not leak
            link.close()
            raise
        return link

    def begin_copy(self, *, alone: bool) -> PostgresLink:
        """A connection in a read; `alone` no migration and no server shares the database."""
        link = self.open_link()
        try:
            link.connection.exec_driver_sql(_UNHURRIED)
            if alone:
                # Before the snapshot, which then has all that anybody wrote.
                link.be_alone()
                link.connection.exec_driver_sql("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
            link.begin_read()
        except BaseException:  # whatever it was, the connection must not leak
            link.close()
            raise
        return link

    def explain_error(self, error: BaseException, *, reading: bool = False) -> TrothError | None:
        """What the caller should hear of `error`; None if it is the caller's own."""
        return _explain(error, reading=reading)

    def is_passing(self, error: BaseException) -> bool:
        """Whether `error` is a collision or a connection that was cut."""
        inner = _unwrap(error)
        return inner is not None and (inner.sqlstate in _COLLISIONS or _is_lost(inner))

    def is_collision(self, error: BaseException) -> bool:
        """Whether another transaction was in the way, and the connection is as good as before."""
        inner = _unwrap(error)
        return inner is not None and inner.sqlstate in _COLLISIONS

    def dispose(self) -> None:
        """Forget the engine's caches; links are closed by their owners."""
        self._engine.dispose()


def _unwrap(error: BaseException) -> psycopg.Error | None:
    inner = error.orig if isinstance(error, DBAPIError) else error
    return inner if isinstance(inner, psycopg.Error) else None


def _is_lost(error: psycopg.Error) -> bool:
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state.startswith(_LOST_CLASSES)


def _explain(error: BaseException, *, reading: bool = False) -> TrothError | None:
    if isinstance(error, UnknownCommitError):
        return Unavailable(
            "The database went away while the change was being written, so it may be recorded or "
            "not. Look before you repeat it."
        )
    inner = _unwrap(error)
    if inner is None:
        return None
    state = inner.sqlstate or ""
    if reading and state == _READ_ONLY:
        return Internal("A read tried to change something; that needs a transaction.")
    if isinstance(inner, psycopg.DataError):
        return Invalid("A text or number can't be stored: too long, too large, or a zero byte.")
    if _is_lost(inner) and not state:
        # A refusal to connect has no SQLSTATE, and its words are in the server's language.
        return Unavailable(
            "The database is away: it can't be reached, or refuses our user, password or database "
            "name. troth's log has its words."
        )
    for code in (state, state[:2]):
        if code in _OUTAGES:
            return Unavailable(f"The database is away: {_OUTAGES[code]}.")
    return None
