"""Decisions of the past tell of identities by name: which names the retired ones at a SPIFFE ID had
is found without looking at all of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """An index on the retired alone, with all that is asked for."""
    retired = sa.text("state = 'retired'")
    op.create_index(
        "ix_identities_retired_spiffe_id",
        "identities",
        ["spiffe_id", "name"],
        sqlite_where=retired,
        postgresql_where=retired,
    )
