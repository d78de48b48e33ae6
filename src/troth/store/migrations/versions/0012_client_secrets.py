"""Secrets of OAuth clients, and a way to those that registered keys or certificates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """One table, and one index that holds next to nothing where few register anything."""
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

    def string(length: int) -> sa.types.TypeEngine[str]:
        return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")

    op.create_table(
        "client_secrets",
        sa.Column("id", string(64), nullable=False),
        sa.Column("secret_hash", string(64), nullable=False),
        sa.Column("identity_id", string(64), nullable=False),
        sa.Column("created_by", text, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identities.id"], name="fk_client_secrets_identity_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_client_secrets"),
    )
    op.create_index("ix_client_secrets_expires_at", "client_secrets", ["expires_at"])
    op.create_index(
        "ix_client_secrets_identity_id", "client_secrets", ["identity_id", "expires_at"]
    )
    living = sa.text("client IS NOT NULL")
    op.create_index(
        "ix_identities_client",
        "identities",
        ["id"],
        sqlite_where=living,
        postgresql_where=living,
    )
