"""Access tokens that end early."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One table, of what was revoked within the life of a token."""
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "token_revocations",
        sa.Column("subject", text, nullable=False),
        sa.Column("issued_until", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_token_revocations"),
    )
    op.create_index("ix_token_revocations_expires_at", "token_revocations", ["expires_at"])
