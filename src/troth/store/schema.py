"""The schema's version: look cheaply, migrate if needed, refuse what is not ours."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, text

from troth.core.errors import Internal, Invalid, Refused
from troth.store.database import Database

HEAD = "0017"
"""The newest migration; a test compares it with the migrations' own idea."""

MIGRATIONS = Path(__file__).parent / "migrations"

_LIST_TABLES = {
    "sqlite": "SELECT name FROM sqlite_schema",
    "postgresql": "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema()",
}


def prepare_schema(database: Database) -> None:
    """Bring the database to `HEAD`; nothing but one query if it is there already.

    Raises `Refused` for a database of a newer troth, `Invalid` for one that isn't troth's.
    """
    link = database.open_link()
    try:
        if read_revision(link.connection) == HEAD:
            return
    finally:
        link.close()
    _migrate(database)


def read_revision(connection: Connection) -> str | None:
    """The migration that the database stands at, or None if it is empty."""
    names = set(connection.execute(text(_LIST_TABLES[connection.dialect.name])).scalars())
    if not names:
        return None
    if "alembic_version" not in names or "journal" not in names:
        raise Invalid("The database holds something that isn't troth's. Name another one.")
    found = list(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())
    if len(found) != 1:
        raise Internal("The database doesn't say which version it has. Restore a backup.")
    return str(found[0])


def _migrate(database: Database) -> None:
    link = database.begin_migration()
    try:
        # Looked up again: another process may have migrated while this one waited for its turn.
        if read_revision(link.connection) != HEAD:
            upgrade_connection(link.connection)
            if not link.keeps_references():
                raise Internal(
                    "A migration would have left a reference to nothing; nothing was changed."
                )
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

    if not connection.in_transaction():
        connection.begin()  # or Alembic begins one of its own and commits it
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
