"""What an authority signed, by when it ends.

Until when a retired authority is needed was found by reading everything that lives, whoever signed
it, for each authority that there ever was.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Two indexes."""
    op.create_index("ix_certificates_authority_id", "certificates", ["authority_id", "not_after"])
    op.create_index("ix_jwt_svids_authority_id", "jwt_svids", ["authority_id", "expires_at"])
