"""The tables of versions of the policy set, and of changes that are held."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Table

from troth.store.columns import Document, Moment, String, Text
from troth.store.metadata import metadata

# Every set of rules that was applied, in the order of its number. `content` is compressed.
policy_sets = Table(
    "policy_sets",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    Column("previous", String(64), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("approver", Text, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Index("ix_policy_sets_key_id", "key_id", "number"),
)

# Changes that a second person must agree to; their content goes once that is decided.
policy_proposals = Table(
    "policy_proposals",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("author", Text, nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("base", String(64), nullable=False),
    Column("reasons", Document, nullable=False),
    Column("words", Document, nullable=False),
    Column("state", String(16), nullable=False),
    Column("decided_by", Text, nullable=False),
    Column("decided_at", Moment),
    Column("reason", Text, nullable=False),
    Column("content", LargeBinary),
    Index("ix_policy_proposals_state", "state", "number"),
)
