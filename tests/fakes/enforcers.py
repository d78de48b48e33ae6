"""Enforcers without threads or servers: told what is true, on a clock that a test moves."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.fakes.issuer import NOW, FakeIssuer
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.live.rules import show_resource, show_rule
from troth.policy.condition import Operator, Test
from troth.policy.fact import BY_NAME
from troth.policy.resource import Binding, HttpRoute, Resource, TokenFormat, TokenTerms
from troth.policy.rule import EVERYBODY, Effect, Rule, Subjects
from troth.sdk.enforcer import Enforcer
from troth.sdk.guard import PeerGuard
from troth.wire.api.revocations import RevocationSnapshot
from troth.wire.api.rules import PartyView, PolicyChange, PolicySnapshot, RuleSet

LEASE = 15.0
TILL = "spiffe://example.org/till"

LEDGER = Resource(
    name="ledger",
    labels={},
    owner="team@example.org",
    purpose="a test",
    identifiers=(),
    servers=("tests",),
    actions={"read": "Read", "write": "Write"},
    passes_to=(),
    token=TokenTerms(TokenFormat.JWT, "ES256", timedelta(minutes=5), Binding.NONE),
    routes=(
        HttpRoute("read", "/books/{id}", ("GET",)),
        HttpRoute("write", "/books/{id}", ("POST",)),
    ),
)

RULES = (
    Rule("role/clerk/1", Effect.PERMIT, Subjects(roles=("clerk",)), ("read",), ("ledger",)),
    Rule(
        "policy/mtls",
        Effect.FORBID,
        EVERYBODY,
        (),
        ("ledger",),
        Test(BY_NAME["request.transport"], Operator.IN, ("plain",)),
    ),
    Rule(
        "policy/trusted",
        Effect.PERMIT,
        Subjects(identities=("till",)),
        ("write",),
        ("ledger",),
        Test(BY_NAME["trust.score"], Operator.AT_LEAST, (90,)),
    ),
)


def make_party(name: str = "till", **fields: Any) -> PartyView:
    values: dict[str, Any] = {
        "name": name,
        "spiffe_id": f"spiffe://example.org/{name}",
        "kind": "service",
        "owner": "team@example.org",
        "environment": "prod",
        "labels": {},
        "state": "active",
        "expires_at": NOW + timedelta(days=30),
        "roles": ["clerk"],
        "strength": "program",
        "purposeful": True,
        "managed": True,
        "created_at": NOW - timedelta(days=1),
        "second_way": False,
        "first_sight": False,
    }
    return PartyView(**values | fields)


def make_rules(*rules: Rule, resources: tuple[Resource, ...] = (LEDGER,)) -> RuleSet:
    names = [one.name for one in resources]
    return RuleSet(
        digest="d",
        epoch=7,
        served=names,
        resources=[show_resource(one) for one in resources],
        roles={"clerk": []},
        rules=[show_rule(one, names) for one in rules or RULES],
    )


def make_snapshot(**fields: Any) -> PolicySnapshot:
    values: dict[str, Any] = {
        "epoch": 7,
        "mark": "m",
        "as_of": 0.0,
        "lease": LEASE,
        "trust_domain": "example.org",
        "rules": make_rules(),
        "parties": [make_party()],
    }
    return PolicySnapshot(**values | fields)


def make_change(**fields: Any) -> PolicyChange:
    values: dict[str, Any] = {"since": 7, "epoch": 8, "mark": "n", "as_of": 0.0, "lease": LEASE}
    return PolicyChange(**values | fields)


def tell_guard(guard: PeerGuard, clock: VirtualClock, **cut_off: str) -> None:
    """Nobody is cut off, but those identities."""
    message = RevocationSnapshot(
        epoch=1,
        mark="",
        as_of=0.0,
        lease=LEASE,
        trust_domain="example.org",
        cut_off={f"spiffe://example.org/{name}": state for name, state in cut_off.items()},
        revoked={},
        distrusted={},
    )
    guard._known.take(message, clock.monotonic())


def make_enforcer(
    clock: VirtualClock | None = None,
    *,
    lease: float | None = None,
    spool: Path | None = None,
    told: PolicySnapshot | None = None,
    silent: bool = False,
) -> Enforcer:
    """An enforcer that has heard everything once."""
    clock = clock or VirtualClock(NOW)
    guard = PeerGuard(["https://localhost:8444"], "unix:///agent.sock", clock=clock)
    enforcer = Enforcer(guard, lease=lease, spool=spool, clock=clock, entropy=SeededEntropy(1))
    if not silent:
        tell_guard(guard, clock)
        enforcer._policies.take(told or make_snapshot(), clock.monotonic())
    return enforcer


ISSUER = FakeIssuer()
