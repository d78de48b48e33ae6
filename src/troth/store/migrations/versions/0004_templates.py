"""Templates, and the identities that they made at first sight."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and say of each identity which template made it: none so far."""
    op.add_column("identities", sa.Column("template", _text(), nullable=True))
    made = sa.text("template IS NOT NULL AND state != 'retired'")
    op.create_index(
        "ix_identities_template",
        "identities",
        ["template", "name"],
        sqlite_where=made,
        postgresql_where=made,
    )
    _create_templates()
    _create_sightings()


# Sorted by their bytes on every engine; PostgreSQL would otherwise sort by its server's language.
def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _string(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _create_templates() -> None:
    op.create_table(
        "templates",
        sa.Column("name", _text(), nullable=False),
        sa.Column("prefix", _text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_templates"),
    )
    op.create_index("uq_templates_prefix", "templates", ["prefix"], unique=True)


def _create_sightings() -> None:
    op.create_table(
        "sightings",
        sa.Column("identity_id", _string(64), nullable=False),
        sa.Column("template", _text(), nullable=False),
        sa.Column("binding", _string(64), nullable=False),
        sa.Column("node_id", _string(64), nullable=False),
        sa.Column("phase", _string(16), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.Column("span", sa.BigInteger(), nullable=False),
        sa.Column("grace", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("identity_id", name="pk_sightings"),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identities.id"], name="fk_sightings_identity_id"
        ),
    )
    op.create_index("ix_sightings_binding", "sightings", ["template", "binding", "created_at"])
    op.create_index("ix_sightings_node_id", "sightings", ["node_id", "created_at"])
    op.create_index("ix_sightings_phase", "sightings", ["phase", "due_at"])
