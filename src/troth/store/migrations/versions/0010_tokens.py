"""Roles, resources and OAuth clients; and when an authority has signed its last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, and say of what is there that it has nothing of the kind."""
    for name in ("roles", "delegates", "client"):
        op.add_column("identities", sa.Column(name, sa.Text(), nullable=True))
    op.add_column("authorities", sa.Column("retired_at", sa.BigInteger(), nullable=True))
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    kind = sa.String(32).with_variant(sa.String(32, collation="C"), "postgresql")
    op.create_table(
        "declarations",
        sa.Column("kind", kind, nullable=False),
        sa.Column("name", text, nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name="pk_declarations"),
    )
