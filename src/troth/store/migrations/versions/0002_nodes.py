"""Nodes that prove themselves by a certificate, and proofs that are taken once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what is new; what is there stays as it is."""
    op.add_column("nodes", sa.Column("fingerprint", _string(64)))
    op.add_column("nodes", sa.Column("readmitted_at", sa.BigInteger()))
    op.create_index("ix_nodes_fingerprint", "nodes", ["fingerprint"])
    op.create_table(
        "used_proofs",
        sa.Column("digest", _string(64), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_used_proofs"),
    )
    op.create_index("ix_used_proofs_expires_at", "used_proofs", ["expires_at"])


def _string(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")
