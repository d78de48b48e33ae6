"""Devices without an agent: one-time enrolment codes, and whom a manufacturer's certificate names.

Nothing that was there changes: a server of the version before works on beside it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


# Sorted by their bytes on every engine; PostgreSQL would otherwise sort by its server's language.
def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _string(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """Create the two tables."""
    op.create_table(
        "enrolment_codes",
        sa.Column("id", _string(64), nullable=False),
        sa.Column("secret_hash", _string(64), nullable=False),
        sa.Column("identity_id", _string(64), nullable=False),
        sa.Column("created_by", _text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.Column("key_hash", _string(64), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_enrolment_codes"),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identities.id"], name="fk_enrolment_codes_identity_id"
        ),
    )
    op.create_index("ix_enrolment_codes_expires_at", "enrolment_codes", ["expires_at"])
    op.create_index("ix_enrolment_codes_identity_id", "enrolment_codes", ["identity_id"])
    op.create_table(
        "device_selectors",
        sa.Column("selector", _text(), nullable=False),
        sa.Column("identity_id", _string(64), nullable=False),
        sa.PrimaryKeyConstraint("selector", "identity_id", name="pk_device_selectors"),
        sa.ForeignKeyConstraint(
            ["identity_id"],
            ["identities.id"],
            name="fk_device_selectors_identity_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_device_selectors_identity_id", "device_selectors", ["identity_id"])
