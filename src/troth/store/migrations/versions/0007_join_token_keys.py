"""Join tokens remember the key that they were used for, which alone may show them again.

What was used before stays used: nobody knows any more for which key.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """One column, empty in the tokens of before."""
    digest = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
    op.add_column("join_tokens", sa.Column("key_hash", digest))
