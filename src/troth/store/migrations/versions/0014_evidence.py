"""Evidence for and against identities."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One table."""
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

    def string(length: int) -> sa.types.TypeEngine[str]:
        return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")

    op.create_table(
        "evidence",
        sa.Column("id", string(64), nullable=False),
        sa.Column("identity_id", string(64), nullable=False),
        sa.Column("source", text, nullable=False),
        sa.Column("kind", string(64), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("half_life", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.Column("reason", text, nullable=False),
        sa.Column("added_by", text, nullable=False),
        sa.ForeignKeyConstraint(["identity_id"], ["identities.id"], name="fk_evidence_identity_id"),
        sa.PrimaryKeyConstraint("id", name="pk_evidence"),
    )
    op.create_index("ix_evidence_ends_at", "evidence", ["ends_at"])
    op.create_index("ix_evidence_identity_id", "evidence", ["identity_id", "id"])
