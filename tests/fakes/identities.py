"""Identities and specs with every field filled, to change one at a time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from troth.core.ids import IdentityId, TrustDomain
from troth.identity.identity import Identity, IdentitySpec, Kind, State
from troth.identity.plan import new_identity
from troth.identity.selectors import Selector

NOW = datetime(2026, 1, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
DOMAIN = TrustDomain("example.org")


def make_spec(name: str = "payments-api", **changes: Any) -> IdentitySpec:
    """A plain spec; `changes` replace fields."""
    spec = IdentitySpec(
        name=name,
        path=f"/{name}",
        kind=Kind.SERVICE,
        owner="payments@example.org",
        purpose="Takes card payments",
        environment="prod",
        labels={"env": "prod"},
        selectors=(Selector("unix:uid", "1001"),),
        nodes=("local",),
        dns_names=("payments.example.org",),
        x509_ttl=timedelta(hours=1),
        jwt_ttl=timedelta(minutes=5),
        expires_at=None,
        hint="internal",
    )
    return replace(spec, **changes)


def make_identity(spec: IdentitySpec | None = None, **changes: Any) -> Identity:
    """An active, managed identity as `spec` made it a while ago; `changes` replace fields."""
    made = new_identity(
        spec or make_spec(), IdentityId("idn_1"), DOMAIN, NOW, YEAR, State.ACTIVE, True
    )
    return replace(made, **changes)
