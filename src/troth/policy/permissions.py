"""Which role may call which operation: the check that every call passes from the first day.

Default deny: a role holds exactly the names listed here. The policy engine takes this over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

READS = frozenset(
    {
        "identity.ls",
        "identity.show",
        "client_secret.ls",
        "template.ls",
        "resource.ls",
        "resource.show",
        "trust.ls",
        "trust.show",
        "decision.evaluate",
        "decision.inquire",
        "decision.search",
        "decision.ls",
        "decision.show",
        "instance.ls",
        "certificate.ls",
        "node.ls",
        "authority.ls",
        "status.show",
        "manifest.plan",
        "policy.history",
        "policy.show",
        "policy.diff",
        "policy.pending",
        "policy.review",
    }
)
AUDITS = READS | {
    "journal.ls",
    "journal.tail",
    "audit.search",
    "audit.tail",
    "audit.trace",
    "audit.who",
    "audit.touched",
    "audit.prove",
    "hold.ls",
    "sink.ls",
    "dead_letter.ls",
    "revocation.follow",
    "policy.replay",
    "policy.suggest",
    "checkpoint.show",
    "checkpoint.dispute",
}
OPERATES = AUDITS | {
    "identity.suspend",
    "identity.resume",
    "identity.quarantine",
    "identity.release",
    "instance.lock",
    "instance.unlock",
    "certificate.revoke",
    "client_secret.revoke",
    "token.revoke",
    "trust.add",
    "trust.withdraw",
    "node.evict",
}
DECLARES = frozenset(
    {
        "identity.change",
        "identity.claim",
        "template.declare",
        "role.declare",
        "role.assign",
        "role.delegate",
        "resource.declare",
        "resource.claim",
        "policy.declare",
        "policy.delegate",
        "segment.declare",
        "issuer.declare",
    }
)
"""What ``manifest.apply`` asks for besides, for each thing that it adds, changes or removes.

``claim`` is for each name that others may trust and that something comes to have: a path, a DNS
name or a node of an identity, a URI or an HTTP host of a resource. ``assign`` is for each role that
is given away, and ``delegate`` for whatever is said of permissions to govern troth itself: whoever
holds that without a condition can become an administrator.
"""
BESIDES = DECLARES | {"decision.inquire"}
"""Permissions that are no operation: those of ``manifest.apply``, and the one to ask about what the
caller doesn't serve."""
ADMINISTERS = (
    OPERATES
    | DECLARES
    | {
        "decision.enforce",
        "identity.register",
        "identity.activate",
        "identity.retire",
        "manifest.apply",
        "dead_letter.retry",
        "dead_letter.drop",
        "hold.place",
        "hold.release",
        "checkpoint.abandon",
        "journal.redact",
        "policy.rollback",
        "policy.approve",
        "policy.reject",
        "client_secret.create",
        "token.join",
        "device.invite",
        "node.readmit",
        "authority.prepare",
        "authority.activate",
        "authority.taint",
        "authority.revoke",
    }
)
NODE = frozenset(
    {
        "certificate.issue",
        "identity.sight",
        "jwtsvid.issue",
        "node.renew",
        "node.report",
        "node.sync",
        "checkpoint.dispute",
    }
)
WORKLOAD = frozenset(
    {
        "revocation.follow",
        "policy.follow",
        "policy.party",
        "decision.enforce",
        "decision.evaluate",
        "decision.report",
        "decision.search",
        "checkpoint.show",
        "checkpoint.dispute",
    }
)
DEVICE = frozenset({"device.renew"})
ANYONE = frozenset(
    {
        "checkpoint.show",
        "node.attest",
        "device.enroll",
        "token.request",
        "token.exchange",
        "token.introspect",
        "token.surrender",
    }
)

ROLES: Mapping[str, frozenset[str]] = {
    "admin": ADMINISTERS | ANYONE,
    "operator": OPERATES,
    "auditor": AUDITS,
    "node": NODE | ANYONE,
    "workload": WORKLOAD,
    "device": DEVICE | ANYONE,
    "anyone": ANYONE,
}
"""Role → names of the operations it may call.

`node` comes with attestation and `device` with enrolment only, `workload` with any living
certificate of an identity.
"""

GRANTABLE = ("admin", "operator", "auditor")
"""The roles that configuration may give to a uid or a SPIFFE ID."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to "may this caller do this", with its reason. Ask `.allowed`."""

    allowed: bool
    reason: str

    def __bool__(self) -> bool:
        raise TypeError("a Decision is not a truth value: ask .allowed")


def decide_operation(roles: Iterable[str], operation: str) -> Decision:
    """Whether one of `roles` holds the permission to call `operation`."""
    held = sorted(roles)
    for role in held:
        if operation in ROLES.get(role, frozenset()):
            return Decision(True, f"role {role} may {operation}")
    needed = sorted(role for role, names in ROLES.items() if operation in names)
    return Decision(
        False,
        f"{operation} needs one of the roles {', '.join(needed) or '(none)'}; "
        f"this caller has {', '.join(held) or 'none'}.",
    )
