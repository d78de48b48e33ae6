"""The tables. Migrations build the same schema step by step; a test compares the two.

The conditions of partial indexes (`is_living` and so on) hold literals and are shared with the
queries that want the index: SQLite takes it only when it reads the very condition.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    literal_column,
)

from troth.store.columns import Document, Moment, String, Text
from troth.store.log_tables import checkpoints, dead_letters, holds
from troth.store.metadata import metadata
from troth.store.policy_tables import policy_proposals, policy_sets

__all__ = ["checkpoints", "dead_letters", "holds", "metadata", "policy_proposals", "policy_sets"]

identities = Table(
    "identities",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("spiffe_id", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("owner", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("labels", Document, nullable=False),
    Column("selectors", Document, nullable=False),
    Column("nodes", Document, nullable=False),
    Column("dns_names", Document, nullable=False),
    Column("x509_ttl", BigInteger, nullable=False),  # microseconds, as is jwt_ttl
    Column("jwt_ttl", BigInteger, nullable=False),
    Column("hint", Text, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("state", String(16), nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("state_before", Text),
    Column("managed", Boolean, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Column("template", Text),
    Column("roles", Document),
    Column("delegates", Document),
    Column("client", Document),
)
is_living = identities.c.state != literal_column("'retired'")
# Among the living a name and a SPIFFE ID mean one identity; the retired keep theirs for the record.
Index(
    "uq_identities_living_name",
    identities.c.name,
    unique=True,
    sqlite_where=is_living,
    postgresql_where=is_living,
)
Index(
    "uq_identities_living_spiffe_id",
    identities.c.spiffe_id,
    unique=True,
    sqlite_where=is_living,
    postgresql_where=is_living,
)
Index("ix_identities_name", identities.c.name, identities.c.id)
Index("ix_identities_expires_at", identities.c.expires_at)
Index("ix_identities_state_name", identities.c.state, identities.c.name, identities.c.id)
is_retired = identities.c.state == literal_column("'retired'")
is_of_template = identities.c.template.is_not(None)
Index(
    "ix_identities_template",
    identities.c.template,
    identities.c.state,
    identities.c.name,
    sqlite_where=is_of_template,
    postgresql_where=is_of_template,
)
Index(
    "ix_identities_retired",
    identities.c.state,  # though always the same: else the planner takes the index above
    identities.c.updated_at,
    sqlite_where=is_retired,
    postgresql_where=is_retired,
)
Index(
    "ix_identities_retired_spiffe_id",
    identities.c.spiffe_id,
    identities.c.name,
    sqlite_where=is_retired,
    postgresql_where=is_retired,
)
is_client = identities.c.client.is_not(None)
Index(
    "ix_identities_client",
    identities.c.id,
    sqlite_where=is_client,
    postgresql_where=is_client,
)

# Which identities a node may host, by node name or '*'; the retired have no rows here.
identity_nodes = Table(
    "identity_nodes",
    metadata,
    Column("node", Text, primary_key=True),
    Column("identity_id", ForeignKey("identities.id", ondelete="CASCADE"), primary_key=True),
    Index("ix_identity_nodes_identity_id", "identity_id"),
)

templates = Table(
    "templates",
    metadata,
    Column("name", Text, primary_key=True),
    Column("prefix", Text, nullable=False),
    Column("spec", Document, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("updated_at", Moment, nullable=False),
    Index("uq_templates_prefix", "prefix", unique=True),
)

# What manifests of other kinds say (Role, Resource …), as their domains write it.
declarations = Table(
    "declarations",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("spec", Document, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("updated_at", Moment, nullable=False),
)

# One row for each identity that a template made: whether somebody still uses it.
sightings = Table(
    "sightings",
    metadata,
    Column("identity_id", ForeignKey("identities.id"), primary_key=True),
    Column("template", Text, nullable=False),
    Column("binding", String(64), nullable=False),
    Column("node_id", String(64), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("seen_at", Moment, nullable=False),
    Column("due_at", Moment, nullable=False),
    Column("ends_at", Moment, nullable=False),
    Column("span", BigInteger, nullable=False),  # microseconds, as is grace
    Column("grace", BigInteger, nullable=False),
    Column("created_at", Moment, nullable=False),
    Index("ix_sightings_binding", "template", "binding", "created_at"),
    Index("ix_sightings_node_id", "node_id", "created_at"),
    Index("ix_sightings_phase", "phase", "due_at"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("spiffe_id", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attestation", Text, nullable=False),
    Column("attested_at", Moment, nullable=False),
    Column("certificate_serial", String(40), nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("last_seen", Moment, nullable=False),
    Column("fingerprint", String(64)),
    Column("readmitted_at", Moment),
    Index("ix_nodes_name", "name", "id"),
    Index("ix_nodes_fingerprint", "fingerprint"),
)
is_active = nodes.c.state == literal_column("'active'")
Index(
    "uq_nodes_active_name",
    nodes.c.name,
    unique=True,
    sqlite_where=is_active,
    postgresql_where=is_active,
)

instances = Table(
    "instances",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("identity_id", ForeignKey("identities.id"), nullable=False),
    Column("node_id", String(64), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("evidence", Document, nullable=False),
    Column("locked", Boolean, nullable=False),
    Column("locked_reason", Text, nullable=False),
    Column("first_seen", Moment, nullable=False),
    Column("last_seen", Moment, nullable=False),
    Index("ix_instances_identity_id", "identity_id", "last_seen"),
    Index("ix_instances_last_seen", "last_seen"),
)
is_locked = instances.c.locked.is_(True)
Index(
    "ix_instances_locked",
    instances.c.node_id,
    sqlite_where=is_locked,
    postgresql_where=is_locked,
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("secret_hash", String(128), nullable=False),
    Column("node_name", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("used_at", Moment),
    Column("used_by", Text),
    Column("key_hash", String(64)),  # of the key that the first use was for
    Index("ix_join_tokens_expires_at", "expires_at"),
)

used_proofs = Table(
    "used_proofs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("expires_at", Moment, nullable=False),
    Index("ix_used_proofs_expires_at", "expires_at"),
)

enrolment_codes = Table(
    "enrolment_codes",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("secret_hash", String(64), nullable=False),
    Column("identity_id", ForeignKey("identities.id"), nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("used_at", Moment),
    Column("key_hash", String(64)),  # of the key that the first use was for
    Index("ix_enrolment_codes_expires_at", "expires_at"),
    Index("ix_enrolment_codes_identity_id", "identity_id"),
)

# Which devices a manufacturer's certificate may name, by selector; the retired have no rows here.
device_selectors = Table(
    "device_selectors",
    metadata,
    Column("selector", Text, primary_key=True),
    Column("identity_id", ForeignKey("identities.id", ondelete="CASCADE"), primary_key=True),
    Index("ix_device_selectors_identity_id", "identity_id"),
)

authorities = Table(
    "authorities",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("use", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("key_ref", Text, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    Column("not_before", Moment, nullable=False),
    Column("not_after", Moment, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("retired_at", Moment),
    Index("uq_authorities_key_ref", "key_ref", unique=True),
)
is_signing = authorities.c.state == literal_column("'active'")
# Two active authorities of one use would make it a matter of luck which one signs.
Index(
    "uq_authorities_active_use",
    authorities.c.use,
    unique=True,
    sqlite_where=is_signing,
    postgresql_where=is_signing,
)

# No foreign keys to instances, nodes or authorities: what was signed must outlive them, and a CA's
# own certificate is recorded before the authority that it makes.
certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("subject", Text, nullable=False),
    Column("identity_id", ForeignKey("identities.id")),
    Column("instance_id", String(64)),
    Column("node_id", String(64)),
    Column("authority_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("tbs", LargeBinary, nullable=False),
    Column("der", LargeBinary),
    Column("not_before", Moment, nullable=False),
    Column("not_after", Moment, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("revoked_at", Moment),
    Column("revocation_reason", Text),
    Index("ix_certificates_identity_id", "identity_id", "not_after"),
    Index("ix_certificates_instance_id", "instance_id", "not_after"),
    Index("ix_certificates_node_id", "node_id", "not_after"),
    Index("ix_certificates_not_after", "not_after"),
    Index("ix_certificates_authority_id", "authority_id", "not_after"),
)
is_intended = certificates.c.state == literal_column("'intended'")
is_revoked = certificates.c.revoked_at.is_not(None)
Index(
    "ix_certificates_intended",
    certificates.c.created_at,
    sqlite_where=is_intended,
    postgresql_where=is_intended,
)
Index(
    "ix_certificates_revoked",
    certificates.c.authority_id,
    certificates.c.not_after,
    sqlite_where=is_revoked,
    postgresql_where=is_revoked,
)

jwt_svids = Table(
    "jwt_svids",
    metadata,
    Column("jti", String(64), primary_key=True),
    Column("identity_id", ForeignKey("identities.id"), nullable=False),
    Column("node_id", String(64)),
    Column("audiences", Document, nullable=False),
    Column("authority_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("issued_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Index("ix_jwt_svids_identity_id", "identity_id", "expires_at"),
    Index("ix_jwt_svids_expires_at", "expires_at"),
    Index("ix_jwt_svids_authority_id", "authority_id", "expires_at"),
)
is_planned = jwt_svids.c.state == literal_column("'intended'")
Index(
    "ix_jwt_svids_intended",
    jwt_svids.c.issued_at,
    sqlite_where=is_planned,
    postgresql_where=is_planned,
)

# What is due to be revoked behind a change of state that took it away; gone when it is done.
withdrawals = Table(
    "withdrawals",
    metadata,
    Column("holder", String(64), primary_key=True),  # an identity or a node, as `kind` says
    Column("kind", String(16), nullable=False),
    Column("subject", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("began_at", Moment, nullable=False),
    Column("reached", Moment, nullable=False),
)

# Secrets of clients that can't prove themselves in a better way. Only a hash is kept.
client_secrets = Table(
    "client_secrets",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("secret_hash", String(64), nullable=False),
    Column("identity_id", ForeignKey("identities.id"), nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("revoked_at", Moment),
    Index("ix_client_secrets_expires_at", "expires_at"),
    Index("ix_client_secrets_identity_id", "identity_id", "expires_at"),
)

# What speaks for identities or against them, until it counts no more.
evidence = Table(
    "evidence",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("identity_id", ForeignKey("identities.id"), nullable=False),
    Column("source", Text, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("weight", Integer, nullable=False),
    Column("half_life", BigInteger, nullable=False),  # microseconds
    Column("at", Moment, nullable=False),
    Column("ends_at", Moment, nullable=False),
    Column("reason", Text, nullable=False),
    Column("added_by", Text, nullable=False),
    Index("ix_evidence_ends_at", "ends_at"),
    Index("ix_evidence_identity_id", "identity_id", "id"),
)

# Access tokens that end early, until they would have expired anyway. `subject` is a token's jti, or
# the SPIFFE ID of an identity or the id of an instance, all of whose tokens ended that were issued
# up to `issued_until`.
token_revocations = Table(
    "token_revocations",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("issued_until", Moment),
    Column("expires_at", Moment, nullable=False, index=True),
)

crls = Table(
    "crls",
    metadata,
    Column("authority_id", ForeignKey("authorities.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("tbs", LargeBinary, nullable=False),
    Column("der", LargeBinary),
    Column("this_update", Moment, nullable=False),
    Column("next_update", Moment, nullable=False),
)

journal = Table(
    "journal",
    metadata,
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("position", BigInteger),
    Column("type", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("subject", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", Moment, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("body", Document, nullable=False),
    Column("salt", LargeBinary),  # of the commitment in the log; gone once the row is redacted
    Column("digest", LargeBinary),  # the commitment itself, from then on
    sqlite_autoincrement=True,  # an id is never given twice, whatever is deleted
)
is_sealed = journal.c.position.is_not(None)
is_waiting = journal.c.position.is_(None)
Index(
    "uq_journal_position",
    journal.c.position,
    unique=True,
    sqlite_where=is_sealed,
    postgresql_where=is_sealed,
)
# What waits is looked for by nobody but the sealer: a row enters these once, when it is sealed.
for _column in (journal.c.subject, journal.c.type):
    Index(
        f"ix_journal_{_column.name}",
        _column,
        journal.c.position,
        sqlite_where=is_sealed,
        postgresql_where=is_sealed,
    )
# Holds next to nothing, however long the journal is, and gives what waits in its order.
Index("ix_journal_waiting", journal.c.id, sqlite_where=is_waiting, postgresql_where=is_waiting)
cursors = Table(
    "cursors",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires_at", Moment, nullable=False),
)

settings = Table(
    "settings",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# Ciphertext by name, as a keystore made it: worth nothing without the key-encryption key.
keys = Table(
    "keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)
