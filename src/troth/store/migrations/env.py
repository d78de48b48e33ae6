"""Alembic's entry: runs the migrations on the connection and in the transaction handed over."""

from __future__ import annotations

from alembic import context

from troth.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a table by rebuilding it
)
context.run_migrations()
