"""The log: salts of the journal's rows, checkpoints, legal holds and what no sink would take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_SALTS = {
    "sqlite": "UPDATE journal SET salt = randomblob(16)",
    # From pg_strong_random, but for six bits that say so.
    "postgresql": "UPDATE journal SET salt = uuid_send(gen_random_uuid())",
}


def upgrade() -> None:
    """Two columns, filled for the rows that are there, and three tables."""
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

    op.add_column("journal", sa.Column("salt", sa.LargeBinary(), nullable=True))
    op.add_column("journal", sa.Column("digest", sa.LargeBinary(), nullable=True))
    op.execute(_SALTS[op.get_bind().dialect.name])
    op.create_table(
        "checkpoints",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("note", text, nullable=False),
        sa.Column("signed_at", sa.BigInteger(), nullable=False),
        sa.Column("published", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_checkpoints"),
    )
    op.create_table(
        "holds",
        sa.Column("name", text, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("reason", text, nullable=False),
        sa.Column("placed_by", text, nullable=False),
        sa.Column("placed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_holds"),
    )
    op.create_table(
        "dead_letters",
        sa.Column("sink", text, nullable=False),
        sa.Column("source", text, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("reason", text, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sink", "source", "position", name="pk_dead_letters"),
    )
