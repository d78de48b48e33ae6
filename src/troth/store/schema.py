"""The schema's version: look cheaply, migrate if needed, refuse what is not ours."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, text

from troth.core.errors import Internal, Invalid, Refused
from troth.store.sqlite import Link, SqliteFile

HEAD = "0001"
"""The newest migration; a test compares it with the migrations' own idea."""

MIGRATIONS = Path(__file__).parent / "migrations"


def prepare_schema(file: SqliteFile) -> None:
    """Bring the file to `HEAD`; nothing but one query if it is there already.

    Raises `Refused` for a database of a newer troth, `Invalid` for one that isn't troth's.
    """
    link = file.open_link()
    try:
        if read_revision(link.connection) == HEAD:
            return
    finally:
        link.close()
    _migrate(file)


def read_revision(connection: Connection) -> str | None:
    """The migration that the database stands at, or None if it is empty."""
    names = set(connection.execute(text("SELECT name FROM sqlite_schema")).scalars())
    if not names:
        return None
    if "alembic_version" not in names or "journal" not in names:
        raise Invalid("The database file holds something that isn't troth's. Name another file.")
    found = list(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
    if len(found) != 1:
        raise Internal("The database doesn't say which version it has. Restore a backup.")
    return str(found[0])


def _migrate(file: SqliteFile) -> None:
    # Rebuilding a table drops the old one, and with foreign keys on that would delete what
    # refers to it (sqlite.org/lang_altertable.html, section 7). They are checked before COMMIT.
    link = file.open_link(foreign_keys=False)
    try:
        link.begin_write()
        # Looked up again: another process may have migrated while this one waited for the lock.
        if read_revision(link.connection) != HEAD:
            upgrade_connection(link.connection)
            _check_foreign_keys(link)
        link.commit()
    finally:
        link.close()


def upgrade_connection(connection: Connection, target: str = HEAD) -> None:
    """Run the migrations up to `target` in the connection's transaction.

    Raises `Refused` if the database is at a version that this troth doesn't know.
    """
    # Imported only when there is something to migrate: it costs a tenth of a second.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, target)
    except CommandError as error:
        raise Refused(
            "The database was written by another version of troth. Start the version that wrote "
            "it, or a newer one, or restore a backup."
        ) from error


def _check_foreign_keys(link: Link) -> None:
    if link.connection.execute(text("PRAGMA foreign_key_check")).first() is not None:
        raise Internal("A migration would have left a reference to nothing; nothing was changed.")
