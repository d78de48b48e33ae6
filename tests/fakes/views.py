"""Values as the API shows them, for tests of what reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from troth.wire.api import identities, journal, status


def make_identity(name: str = "payments-api", **changes: Any) -> identities.IdentityView:
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "id": "idn_1",
        "name": name,
        "spiffe_id": f"spiffe://example.org/{name}",
        "kind": "service",
        "owner": "team-pay",
        "purpose": "takes payments",
        "environment": "prod",
        "labels": {"tier": "1"},
        "selectors": ["unix:uid:1001"],
        "nodes": ["local"],
        "dns_names": [],
        "x509_ttl": 3600,
        "jwt_ttl": 300,
        "hint": "",
        "expires_at": now + timedelta(days=30, minutes=1),
        "state": "active",
        "state_reason": "",
        "managed": True,
        "revision": 1,
        "created_at": now - timedelta(hours=1),
        "updated_at": now - timedelta(hours=1),
        "last_seen": now - timedelta(seconds=30),
        "instances": 2,
    }
    return identities.IdentityView(**{**values, **changes})


def make_status(**changes: Any) -> status.StatusView:
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "version": "0.1.0",
        "trust_domain": "example.org",
        "ready": True,
        "started_at": now - timedelta(hours=1),
        "journal_head": 7,
        "epoch": 7,
        "origin": "https://localhost:8443",
        "identities": {"active": 1},
        "nodes": 1,
        "authorities": [],
        "crl_next_update": now + timedelta(days=1),
        "findings": [],
    }
    return status.StatusView(**{**values, **changes})


def make_entry(position: int, type: str = "identity.registered", **changes: Any) -> Any:
    values: dict[str, Any] = {
        "position": position,
        "type": type,
        "version": 1,
        "subject": "spiffe://example.org/payments-api",
        "actor": "uid:0",
        "at": datetime(2026, 11, 21, 12, 0, position % 60, tzinfo=UTC),
        "request_id": f"req_{position}",
        "body": {"state": "active"},
    }
    return journal.JournalEntry(**{**values, **changes})
