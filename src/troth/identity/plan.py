"""From what manifests want and what is there to a list of changes, each told in words.

Planning changes nothing. Carrying a plan out twice changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from troth.core.errors import Invalid, Refused
from troth.core.ids import IdentityId, SpiffeId, TrustDomain
from troth.core.manifest.problem import show_value
from troth.identity.difference import describe_access, describe_fields, describe_grants, render_time
from troth.identity.identity import Identity, IdentitySpec, State

LEFT_ALONE = "left alone: it is in no manifest (use --prune to retire it)"
EXPIRED = "it has expired and obtains nothing; give it a later 'expires' to renew it"
ADOPTED = (
    "adopted: it was registered by hand; from now on manifests rule it and --prune can retire it"
)


class Action(StrEnum):
    """What happens to one identity."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Change:
    """One step: add has a `spec`, remove an `identity`, change both; `words` tell people."""

    action: Action
    name: str
    words: tuple[str, ...]
    spec: IdentitySpec | None = None
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps, in the order to take them: removals free names and paths for what comes.

    A plan with `refusals` must not be carried out at all; each is a sentence for people.
    """

    changes: tuple[Change, ...]
    refusals: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return all(change.action is Action.KEEP for change in self.changes)


def plan_changes(
    specs: Sequence[IdentitySpec],
    current: Sequence[Identity],
    *,
    prune: bool,
    trust_domain: TrustDomain,
    now: datetime,
    default_lifetime: timedelta,
) -> Plan:
    """Compare `specs` with all identities; retired ones are history and block nothing.

    `prune` retires managed identities that no spec names. Identities that were registered
    through the API and that no spec names are none of the manifests' business.
    """
    living = {one.name: one for one in current if one.state is not State.RETIRED}
    wanted = {spec.name for spec in specs}
    changes: list[Change] = []
    refusals: list[str] = []
    for identity in living.values():
        if identity.managed and identity.name not in wanted:
            changes.append(_plan_absence(identity, prune=prune, now=now))
    leaving = {c.name for c in changes if c.action is Action.REMOVE}
    paths = {one.spiffe_id.path: one.name for one in living.values() if one.name not in leaving}
    planned: set[str] = set()
    for spec in specs:
        if spec.name in planned:
            refusals.append(f"The name '{spec.name}' is there twice; rename or remove one.")
            continue
        planned.add(spec.name)
        if (holder := paths.setdefault(spec.path, spec.name)) != spec.name:
            refusals.append(
                f"The path {show_value(spec.path)} of '{spec.name}' belongs to '{holder}'; "
                "give each identity its own path."
            )
            continue
        try:
            if (existing := living.get(spec.name)) is not None:
                changes.append(_plan_change(existing, spec, now))
            else:
                changes.append(_plan_addition(spec, trust_domain, now, default_lifetime))
        except (Refused, Invalid) as error:
            refusals.append(error.detail)
    order = (Action.REMOVE, Action.CHANGE, Action.ADD, Action.KEEP)
    changes.sort(key=lambda change: (order.index(change.action), change.name))
    return Plan(tuple(changes), tuple(refusals))


def _plan_absence(identity: Identity, *, prune: bool, now: datetime) -> Change:
    if not prune:
        return Change(Action.KEEP, identity.name, (LEFT_ALONE,), identity=identity)
    words = ("retired for good: it is in no manifest", *describe_access(identity, None, now))
    return Change(Action.REMOVE, identity.name, words, identity=identity)


def _plan_addition(
    spec: IdentitySpec, trust_domain: TrustDomain, now: datetime, default_lifetime: timedelta
) -> Change:
    planned = new_identity(
        spec, IdentityId(""), trust_domain, now, default_lifetime, State.ACTIVE, True
    )
    words = [
        f"new {spec.kind.value} of {spec.owner} in {spec.environment}: {spec.purpose}",
        f"becomes {planned.spiffe_id} until {render_time(planned.expires_at)}",
    ]
    words += describe_grants(planned)
    access = describe_access(None, planned, now)
    words += access or ("no selectors: no process obtains it from an agent",)
    return Change(Action.ADD, spec.name, tuple(words), spec=spec)


def _plan_change(identity: Identity, spec: IdentitySpec, now: datetime) -> Change:
    if not spec_differs(identity, spec):
        words = [] if now < identity.expires_at else [EXPIRED]
        return Change(Action.KEEP, identity.name, tuple(words), spec=spec, identity=identity)
    after = apply_spec(identity, spec, now)
    words = [] if identity.managed else [ADOPTED]
    words += describe_fields(identity, after)
    words += describe_access(identity, after, now)
    return Change(Action.CHANGE, identity.name, tuple(words), spec=spec, identity=identity)


def spec_differs(identity: Identity, spec: IdentitySpec) -> bool:
    """Whether applying `spec` changes anything; the order of lists doesn't count.

    Raises `Refused` as `apply_spec` does.
    """
    after = _merge_spec(identity, spec)
    return not identity.managed or bool(describe_fields(identity, after))


def apply_spec(identity: Identity, spec: IdentitySpec, now: datetime) -> Identity:
    """The identity as `spec` wants it, managed from now on; unchanged if nothing differs.

    An absent expiry leaves the existing one; the state is the life cycle's business. Raises
    `Refused` if the SPIFFE ID or the name would change, or a retired identity come back.
    """
    if not spec_differs(identity, spec):
        return identity
    after = _merge_spec(identity, spec)
    return replace(after, managed=True, template="", revision=identity.revision + 1, updated_at=now)


def _merge_spec(identity: Identity, spec: IdentitySpec) -> Identity:
    if identity.name != spec.name:
        raise Refused(f"The name '{identity.name}' can't change; it names the identity for good.")
    if identity.state is State.RETIRED:
        raise Refused(f"'{identity.name}' is retired for good; register it anew.")
    if identity.spiffe_id.path != spec.path:
        raise Refused(
            f"The path of '{identity.name}' can't change from "
            f"{show_value(identity.spiffe_id.path)} to {show_value(spec.path)}: an identity keeps "
            "its SPIFFE ID. Keep the path, or retire it and register anew."
        )
    return replace(
        identity,
        kind=spec.kind,
        owner=spec.owner,
        purpose=spec.purpose,
        environment=spec.environment,
        labels=spec.labels,
        selectors=spec.selectors,
        nodes=spec.nodes,
        dns_names=spec.dns_names,
        x509_ttl=spec.x509_ttl,
        jwt_ttl=spec.jwt_ttl,
        hint=spec.hint,
        roles=spec.roles,
        delegates=spec.delegates,
        client=spec.client,
        expires_at=_find_expiry(spec, identity.created_at, identity.expires_at),
    )


def _find_expiry(spec: IdentitySpec, created_at: datetime, otherwise: datetime) -> datetime:
    if spec.expires_at is not None:
        return spec.expires_at
    if spec.lifetime is not None:
        return created_at + spec.lifetime
    return otherwise


def new_identity(
    spec: IdentitySpec,
    id: IdentityId,
    trust_domain: TrustDomain,
    now: datetime,
    default_lifetime: timedelta,
    state: State,
    managed: bool,
) -> Identity:
    """A fresh identity, at revision 1; raises `Invalid` if the SPIFFE ID would be too long."""
    return Identity(
        id=id,
        name=spec.name,
        spiffe_id=SpiffeId.of(trust_domain, spec.path),
        kind=spec.kind,
        owner=spec.owner,
        purpose=spec.purpose,
        environment=spec.environment,
        labels=spec.labels,
        selectors=spec.selectors,
        nodes=spec.nodes,
        dns_names=spec.dns_names,
        x509_ttl=spec.x509_ttl,
        jwt_ttl=spec.jwt_ttl,
        hint=spec.hint,
        roles=spec.roles,
        delegates=spec.delegates,
        client=spec.client,
        expires_at=_find_expiry(spec, now, now + default_lifetime),
        state=state,
        state_reason="",
        managed=managed,
        revision=1,
        created_at=now,
        updated_at=now,
    )
