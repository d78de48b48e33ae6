"""Versions of the policy set, and changes of it that wait for a second person."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two tables."""
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

    def string(length: int) -> sa.types.TypeEngine[str]:
        return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")

    op.create_table(
        "policy_sets",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", string(64), nullable=False),
        sa.Column("previous", string(64), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("author", text, nullable=False),
        sa.Column("approver", text, nullable=False),
        sa.Column("request_id", string(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("key_id", string(64), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_policy_sets"),
    )
    op.create_index("ix_policy_sets_key_id", "policy_sets", ["key_id", "number"])
    op.create_table(
        "policy_proposals",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("author", text, nullable=False),
        sa.Column("request_id", string(64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("base", string(64), nullable=False),
        sa.Column("reasons", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("state", string(16), nullable=False),
        sa.Column("decided_by", text, nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        sa.Column("reason", text, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_policy_proposals"),
    )
    op.create_index("ix_policy_proposals_state", "policy_proposals", ["state", "number"])
