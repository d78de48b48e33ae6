"""The spine: identities, nodes, issuance, the journal."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    _create_identities()
    _create_nodes()
    _create_instances()
    _create_authorities()
    _create_certificates()
    _create_jwt_svids()
    _create_journal()
    _create_bookkeeping()


# Sorted by their bytes on every engine; PostgreSQL would otherwise sort by its server's language.
def _text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _string(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _create_identities() -> None:
    op.create_table(
        "identities",
        sa.Column("id", _string(64), nullable=False),
        sa.Column("name", _text(), nullable=False),
        sa.Column("spiffe_id", _text(), nullable=False),
        sa.Column("kind", _string(16), nullable=False),
        sa.Column("owner", _text(), nullable=False),
        sa.Column("purpose", _text(), nullable=False),
        sa.Column("environment", _text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("selectors", sa.Text(), nullable=False),
        sa.Column("nodes", sa.Text(), nullable=False),
        sa.Column("dns_names", sa.Text(), nullable=False),
        sa.Column("x509_ttl", sa.BigInteger(), nullable=False),
        sa.Column("jwt_ttl", sa.BigInteger(), nullable=False),
        sa.Column("hint", _text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("state", _string(16), nullable=False),
        sa.Column("state_reason", _text(), nullable=False),
        sa.Column("state_before", _text(), nullable=True),
        sa.Column("managed", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_identities"),
    )
    living = sa.text("state != 'retired'")
    for column in ("name", "spiffe_id"):
        op.create_index(
            f"uq_identities_living_{column}",
            "identities",
            [column],
            unique=True,
            sqlite_where=living,
            postgresql_where=living,
        )
    op.create_index("ix_identities_name", "identities", ["name", "id"])
    op.create_index("ix_identities_expires_at", "identities", ["expires_at"])
    op.create_index("ix_identities_state", "identities", ["state"])
    op.create_table(
        "identity_nodes",
        sa.Column("node", _text(), nullable=False),
        sa.Column("identity_id", _string(64), nullable=False),
        sa.PrimaryKeyConstraint("node", "identity_id", name="pk_identity_nodes"),
        sa.ForeignKeyConstraint(
            ["identity_id"],
            ["identities.id"],
            name="fk_identity_nodes_identity_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_identity_nodes_identity_id", "identity_nodes", ["identity_id"])


def _create_nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", _string(64), nullable=False),
        sa.Column("name", _text(), nullable=False),
        sa.Column("spiffe_id", _text(), nullable=False),
        sa.Column("state", _string(16), nullable=False),
        sa.Column("attestation", _text(), nullable=False),
        sa.Column("attested_at", sa.BigInteger(), nullable=False),
        sa.Column("certificate_serial", _string(40), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )
    op.create_index("ix_nodes_name", "nodes", ["name", "id"])
    active = sa.text("state = 'active'")
    op.create_index(
        "uq_nodes_active_name",
        "nodes",
        ["name"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
    op.create_table(
        "join_tokens",
        sa.Column("id", _string(64), nullable=False),
        sa.Column("secret_hash", _string(128), nullable=False),
        sa.Column("node_name", _text(), nullable=False),
        sa.Column("created_by", _text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger()),
        sa.Column("used_by", _text()),
        sa.PrimaryKeyConstraint("id", name="pk_join_tokens"),
    )
    op.create_index("ix_join_tokens_expires_at", "join_tokens", ["expires_at"])


def _create_instances() -> None:
    op.create_table(
        "instances",
        sa.Column("id", _string(64), nullable=False),
        sa.Column("identity_id", _string(64), nullable=False),
        sa.Column("node_id", _string(64), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("locked", sa.Boolean(), nullable=False),
        sa.Column("locked_reason", _text(), nullable=False),
        sa.Column("first_seen", sa.BigInteger(), nullable=False),
        sa.Column("last_seen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identities.id"], name="fk_instances_identity_id"
        ),
    )
    op.create_index("ix_instances_identity_id", "instances", ["identity_id", "last_seen"])
    op.create_index("ix_instances_last_seen", "instances", ["last_seen"])
    op.create_index(
        "ix_instances_locked",
        "instances",
        ["node_id"],
        sqlite_where=sa.text("locked IS 1"),
        postgresql_where=sa.text("locked IS true"),
    )


def _create_authorities() -> None:
    op.create_table(
        "authorities",
        sa.Column("id", _string(64), nullable=False),
        sa.Column("use", _string(16), nullable=False),
        sa.Column("state", _string(16), nullable=False),
        sa.Column("key_ref", _text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_authorities"),
    )
    op.create_index("uq_authorities_key_ref", "authorities", ["key_ref"], unique=True)
    active = sa.text("state = 'active'")
    op.create_index(
        "uq_authorities_active_use",
        "authorities",
        ["use"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
    op.create_table(
        "crls",
        sa.Column("authority_id", _string(64), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", _string(16), nullable=False),
        sa.Column("tbs", sa.LargeBinary(), nullable=False),
        sa.Column("der", sa.LargeBinary()),
        sa.Column("this_update", sa.BigInteger(), nullable=False),
        sa.Column("next_update", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("authority_id", "number", name="pk_crls"),
        sa.ForeignKeyConstraint(["authority_id"], ["authorities.id"], name="fk_crls_authority_id"),
    )


def _create_certificates() -> None:
    op.create_table(
        "certificates",
        sa.Column("serial", _string(40), nullable=False),
        sa.Column("kind", _string(16), nullable=False),
        sa.Column("subject", _text(), nullable=False),
        sa.Column("identity_id", _string(64)),
        sa.Column("instance_id", _string(64)),
        sa.Column("node_id", _string(64)),
        sa.Column("authority_id", _string(64), nullable=False),
        sa.Column("state", _string(16), nullable=False),
        sa.Column("tbs", sa.LargeBinary(), nullable=False),
        sa.Column("der", sa.LargeBinary()),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger()),
        sa.Column("revocation_reason", _text()),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identities.id"], name="fk_certificates_identity_id"
        ),
    )
    for column in ("identity_id", "instance_id", "node_id"):
        op.create_index(f"ix_certificates_{column}", "certificates", [column, "not_after"])
    op.create_index("ix_certificates_not_after", "certificates", ["not_after"])
    intended = sa.text("state = 'intended'")
    op.create_index(
        "ix_certificates_intended",
        "certificates",
        ["created_at"],
        sqlite_where=intended,
        postgresql_where=intended,
    )
    revoked = sa.text("revoked_at IS NOT NULL")
    op.create_index(
        "ix_certificates_revoked",
        "certificates",
        ["authority_id", "not_after"],
        sqlite_where=revoked,
        postgresql_where=revoked,
    )


def _create_jwt_svids() -> None:
    op.create_table(
        "jwt_svids",
        sa.Column("jti", _string(64), nullable=False),
        sa.Column("identity_id", _string(64), nullable=False),
        sa.Column("node_id", _string(64)),
        sa.Column("audiences", sa.Text(), nullable=False),
        sa.Column("authority_id", _string(64), nullable=False),
        sa.Column("state", _string(16), nullable=False),
        sa.Column("digest", _string(64), nullable=False),
        sa.Column("issued_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("jti", name="pk_jwt_svids"),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identities.id"], name="fk_jwt_svids_identity_id"
        ),
    )
    op.create_index("ix_jwt_svids_identity_id", "jwt_svids", ["identity_id", "expires_at"])
    op.create_index("ix_jwt_svids_expires_at", "jwt_svids", ["expires_at"])
    intended = sa.text("state = 'intended'")
    op.create_index(
        "ix_jwt_svids_intended",
        "jwt_svids",
        ["issued_at"],
        sqlite_where=intended,
        postgresql_where=intended,
    )


def _create_journal() -> None:
    op.create_table(
        "journal",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("position", sa.BigInteger()),
        sa.Column("type", _text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("subject", _text(), nullable=False),
        sa.Column("actor", _text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("request_id", _string(64), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_journal"),
        sqlite_autoincrement=True,
    )
    for name, column, condition in (
        ("uq_journal_position", "position", sa.text("position IS NOT NULL")),
        ("ix_journal_waiting", "id", sa.text("position IS NULL")),
    ):
        op.create_index(
            name,
            "journal",
            [column],
            unique=name.startswith("uq"),
            sqlite_where=condition,
            postgresql_where=condition,
        )
    op.create_index("ix_journal_subject", "journal", ["subject", "position"])
    op.create_index("ix_journal_type", "journal", ["type", "position"])


def _create_bookkeeping() -> None:
    op.create_table(
        "cursors",
        sa.Column("name", _text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_cursors"),
    )
    op.create_table(
        "leases",
        sa.Column("name", _text(), nullable=False),
        sa.Column("holder", _text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "settings",
        sa.Column("key", _text(), nullable=False),
        sa.Column("value", _text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_settings"),
    )
