"""What is due to be revoked behind a change of state, where one transaction would hold too much.

A quarantine of an identity with tens of thousands of living certificates revoked them all in the
transaction that changed its state, so that quarantine and renewals held each other up.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


# Sorted by their bytes on every engine; PostgreSQL would otherwise sort by its server's language.
def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _string(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """One table, empty almost always."""
    op.create_table(
        "withdrawals",
        sa.Column("holder", _string(64), nullable=False),
        sa.Column("kind", _string(16), nullable=False),
        sa.Column("subject", _text(), nullable=False),
        sa.Column("reason", _text(), nullable=False),
        sa.Column("actor", _text(), nullable=False),
        sa.Column("source", _text(), nullable=False),
        sa.Column("request_id", _string(64), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("reached", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("holder", name="pk_withdrawals"),
    )
