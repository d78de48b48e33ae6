"""The journal is looked through once it is sealed: what still waits is in none of those indexes, so
that a row enters each of them once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make two indexes anew, for sealed rows alone."""
    sealed = sa.text("position IS NOT NULL")
    for column in ("subject", "type"):
        name = f"ix_journal_{column}"
        op.drop_index(name, "journal")
        op.create_index(
            name,
            "journal",
            [column, "position"],
            sqlite_where=sealed,
            postgresql_where=sealed,
        )
