"""Identities of a state in the order of their names, and the retired by when that was.

With a million identities a page of the active ones sorted them all, and each look for who was
retired of late read all who ever were.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import column, literal_column

revision = "0006"
down_revision = "0005"

_is_retired = column("state") == literal_column("'retired'")


def upgrade() -> None:
    """Two indexes more, and one less that the first of them replaces."""
    op.create_index("ix_identities_state_name", "identities", ["state", "name", "id"])
    op.create_index(
        "ix_identities_retired",
        "identities",
        ["state", "updated_at"],
        sqlite_where=_is_retired,
        postgresql_where=_is_retired,
    )
    op.drop_index("ix_identities_state", "identities")
