"""Authorship: whether whoever submits manifests may have each of the changes that they come to.

A team that manages its own identities holds permissions on what bears its label or its prefix. What
it changes must be its own before and after; so must be whatever else follows from it: the roles
that it gives away, the resources that its roles and policies speak of, the identities for which it
lets outsiders stand, and every name that others may trust and that it comes to have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from troth.core.errors import Denied, Invalid
from troth.core.ids import TrustDomain
from troth.identity.identity import Identity, IdentitySpec
from troth.identity.issuer import Issuer
from troth.identity.plan import Action, Change
from troth.identity.template import Template
from troth.identity.template_plan import TemplateChange
from troth.manifests.declared import DeclaredChange
from troth.manifests.references import list_identity_names
from troth.operations.call import Call, Target
from troth.operations.target import (
    target_of,
    target_of_declared,
    target_of_spec,
    target_of_template,
)
from troth.policy.fact import FactKind
from troth.policy.policy import Policy
from troth.policy.raw import read_raw
from troth.policy.resource import Resource
from troth.policy.role import Role
from troth.policy.rule import SYSTEM
from troth.store.declarations import Declared, name_kind
from troth.store.transaction import Transaction

_VERBS = {Action.ADD: "register", Action.CHANGE: "change", Action.REMOVE: "retire"}

Need = tuple[str, Target]
"""A permission that is needed: the operation, and what it is done to."""


@dataclass(frozen=True)
class Surroundings:
    """What changes are seen against: what there will be of declarations once they are made, and
    the identities that there are or will be."""

    tx: Transaction
    trust_domain: TrustDomain
    remaining: Sequence[Declared]
    specs: Sequence[IdentitySpec] = ()

    @cached_property
    def roles(self) -> Mapping[str, Role]:
        """Roles by name."""
        return {one.name: one for one in self.remaining if isinstance(one, Role)}

    @cached_property
    def resources(self) -> Mapping[str, Resource]:
        """Resources by name."""
        return {one.name: one for one in self.remaining if isinstance(one, Resource)}

    @cached_property
    def by_type(self) -> Mapping[str, Sequence[Resource]]:
        """Resources by the type of what they hold."""
        found: dict[str, list[Resource]] = {}
        for one in self.resources.values():
            found.setdefault(one.entity_type, []).append(one)
        return found

    @cached_property
    def mentions(self) -> Mapping[str, Sequence[Declared]]:
        """Declarations by the identities that they name."""
        found: dict[str, list[Declared]] = {}
        for one in self.remaining:
            for name in _list_mentioned(one):
                found.setdefault(name, []).append(one)
        return found

    @cached_property
    def wanted(self) -> Mapping[str, IdentitySpec]:
        """What is submitted of identities, by name."""
        return {spec.name: spec for spec in self.specs}

    def find_identities(self, name: str) -> list[Target]:
        """The identity of that name as it is and as it will be."""
        found = [target_of(one) for one in self.tx.identities.list_named([name])]
        if (spec := self.wanted.get(name)) is not None:
            found.append(target_of_spec(spec, self.trust_domain))
        return found or [Target(name, type="identity")]


def _list_mentioned(one: Declared) -> set[str]:
    return list_identity_names(
        (),
        (one,) if isinstance(one, Resource) else (),
        (one,) if isinstance(one, Issuer) else (),
        (one,) if isinstance(one, Policy) else (),
    )


def check_changes(
    call: Call[Any],
    around: Surroundings,
    identities: Iterable[Change],
    templates: Iterable[TemplateChange],
    declared: Iterable[DeclaredChange[Declared]],
    *,
    only_planned: bool,
) -> list[str]:
    """Raise `Denied` at the first change that the caller may not have.

    Whoever may read everything may see what others would change: for them a plan that isn't carried
    out says so in a sentence instead, which is returned.
    """
    needs = chain(
        _list_identity_needs(call, around, identities),
        chain.from_iterable(_list_template_needs(around, change) for change in templates),
        chain.from_iterable(list_declared_needs(around, change) for change in declared),
    )
    try:
        for operation, target in needs:
            call.gate.check(target, operation)
    except Denied as refusal:
        if only_planned and reads_all(call):
            return [f"Applying this would be refused. {refusal.detail}"]
        raise
    return []


def reads_all(call: Call[Any]) -> bool:
    """Whether the caller may see every identity, whatever it is like."""
    return call.gate.allows(Target(), "identity.show")


# Identities


def _list_identity_needs(
    call: Call[Any], around: Surroundings, changes: Iterable[Change]
) -> Iterator[Need]:
    everywhere = call.gate.allows(Target(), "identity.register")
    for change in changes:
        verb = _VERBS.get(change.action)
        if verb is None:
            continue
        before = change.identity
        after = change.spec if change.action is not Action.REMOVE else None
        if before is not None:
            yield f"identity.{verb}", target_of(before)
        if after is None:
            continue
        target = target_of_spec(after, around.trust_domain)
        yield f"identity.{verb}", target
        held = before.roles if before is not None else ()
        yield from (need_role(around.roles, name) for name in after.roles if name not in held)
        yield from list_claims(before, after, target)
        if before is None and not everywhere:
            yield from list_heritage(around, after.name)


def need_role(roles: Mapping[str, Role], name: str) -> Need:
    """What it takes to give that role away."""
    role = roles.get(name)
    if role is not None:
        return "role.assign", target_of_declared(role)
    verb = "delegate" if name.startswith(SYSTEM) else "assign"
    return f"role.{verb}", Target(name, type="role")


def list_claims(
    before: Identity | None, after: Identity | IdentitySpec, target: Target
) -> Iterator[Need]:
    """What an identity comes to have that others may go by: a path that isn't its name, DNS names,
    and places where processes obtain it, which might obtain others there."""
    path = after.path if isinstance(after, IdentitySpec) else after.spiffe_id.path
    if before is None and path != f"/{after.name}":
        yield _claim("identity", "path", path, target)
    known = before.dns_names if before is not None else ()
    for name in after.dns_names:
        if name not in known:
            yield _claim("identity", "dns", name, target)
    moved = before is None or before.selectors != after.selectors
    for node in after.nodes if after.selectors else ():
        if moved or (before is not None and node not in before.nodes):
            yield _claim("identity", "node", node, target)


def _claim(noun: str, type_: str, id_: str, owner: Target) -> Need:
    target = Target(id_, owner.owner, owner.environment, owner.labels, type_, owner.spiffe_id)
    return f"{noun}.claim", target


def list_heritage(around: Surroundings, name: str) -> Iterator[Need]:
    """What a new identity would take over with its name: the trust that was put into one that is
    retired, and whatever declarations say of it already."""
    earlier = around.tx.identities.find_named(name)
    if earlier is not None:
        yield "identity.register", target_of(earlier)
    for one in around.mentions.get(name, ()):
        yield f"{name_kind(one).lower()}.declare", target_of_declared(one)


def check_new(call: Call[Any], tx: Transaction, made: Identity) -> None:
    """Raise `Denied` unless the caller may have this identity with all that it comes to have."""
    target = target_of(made)
    needs = list_claims(None, made, target)
    if not call.gate.allows(Target(), "identity.register"):
        declared = [stored.value for stored in tx.declarations.list()]
        around = Surroundings(tx, made.spiffe_id.trust_domain, declared)
        needs = chain(needs, list_heritage(around, made.name))
    for operation, one in needs:
        call.gate.check(one, operation)


# Templates


def _list_template_needs(around: Surroundings, change: TemplateChange) -> Iterator[Need]:
    if change.action is Action.KEEP:
        return
    before = change.stored.template if change.stored is not None else None
    domain = around.trust_domain
    for one in (before, change.template):
        if one is not None:
            yield "template.declare", target_of_template(one, domain)
    if change.template is not None:
        target = target_of_template(change.template, domain)
        for type_, id_ in _list_template_claims(change.template):
            if before is None or (type_, id_) not in set(_list_template_claims(before)):
                yield _claim("identity", type_, id_, target)


def _list_template_claims(template: Template) -> Iterator[tuple[str, str]]:
    yield "path", template.prefix
    yield from (("node", node) for node in template.nodes)


# What is declared


def list_declared_needs(around: Surroundings, change: DeclaredChange[Declared]) -> Iterator[Need]:
    """Every permission that this change takes."""
    if change.action is Action.KEEP:
        return
    before, after = change.stored, change.wanted
    for one in (before, after):
        if one is not None:
            yield f"{change.kind.lower()}.declare", target_of_declared(one)
    if isinstance(before or after, Role):
        yield from _list_role_needs(around, before, after)
    elif isinstance(before or after, Policy):
        yield from _list_policy_needs(around, before, after)
    elif isinstance(after, Resource):
        yield from _list_resource_needs(
            around, before if isinstance(before, Resource) else None, after
        )
    elif isinstance(after, Issuer):
        for name in {rule.identity for rule in after.identities}:
            yield from (("identity.change", one) for one in around.find_identities(name))


def _list_role_needs(
    around: Surroundings, before: Declared | None, after: Declared | None
) -> Iterator[Need]:
    """Of a role, for what it comes to give and for what it gives no more."""
    was, now = (
        (set(one.includes), {repr(p): p for p in one.permissions})
        if isinstance(one, Role)
        else (set(), {})
        for one in (before, after)
    )
    for name in sorted(was[0] ^ now[0]):
        yield need_role(around.roles, name)
    for key in sorted(was[1].keys() ^ now[1].keys()):
        yield _need_resource(around, "role", (was[1].get(key) or now[1][key]).resource)


def _list_policy_needs(
    around: Surroundings, before: Declared | None, after: Declared | None
) -> Iterator[Need]:
    for one in (before, after):
        if isinstance(one, Policy):
            for name in _list_touched(one):
                yield _need_resource(around, "policy", name)


def _need_resource(around: Surroundings, kind: str, name: str) -> Need:
    """What it takes to say who may do something there; "" stands for any resource."""
    if name.startswith(SYSTEM):
        return f"{kind}.delegate", Target(name, type="resource")
    resource = around.resources.get(name)
    if resource is None:
        return "resource.declare", Target(name, type="resource") if name else Target()
    return "resource.declare", target_of_declared(resource)


def _list_touched(policy: Policy) -> tuple[str, ...]:
    """The resources that access is given to or taken from; "" for any."""
    if not policy.cedar:
        return policy.resources or ("",)
    try:
        rule = read_raw(policy.name, policy.cedar, None, lambda group, key: FactKind.TEXT)
    except Invalid:
        return (SYSTEM, "")  # who knows
    return rule.resources or ("",)


def _list_resource_needs(
    around: Surroundings, before: Resource | None, after: Resource
) -> Iterator[Need]:
    """Of a resource: the names by which others find it, the questions that it would answer in the
    place of others, the roles of its instances, and to whom its servers may pass callers on."""
    target = target_of_declared(after)
    known = set(_list_names(before)) if before is not None else set()
    for type_, name in dict.fromkeys(_list_names(after)):
        if (type_, name) not in known:
            yield _claim("resource", type_, name, target)
    for other in around.by_type.get(after.entity_type, ()):
        if other.name != after.name:
            yield "resource.declare", target_of_declared(other)
    for name in after.passes_to:
        if before is None or name not in before.passes_to:
            yield _need_resource(around, "resource", name)
    held = set(_list_held(before)) if before is not None else set()
    yield from (need_role(around.roles, one[1]) for one in _list_held(after) if one not in held)


def _list_names(resource: Resource) -> Iterator[tuple[str, str]]:
    """What requests and tokens call it by."""
    yield from (("uri", one) for one in (*resource.identifiers, *resource.audiences))
    yield from (("host", one) for one in resource.hosts)


def _list_held(resource: Resource) -> Iterator[tuple[str, str]]:
    """Which of its instances hold which roles."""
    return ((one.id, role) for one in resource.instances for role in one.roles)


# How far a prune reaches, and what a plan shows


def keep_own(
    call: Call[Any], identities: Sequence[Identity], *, only_planned: bool = False
) -> list[Identity]:
    """Those that the caller may retire: a prune reaches no further."""
    if only_planned and reads_all(call):
        return list(identities)
    return [one for one in identities if call.gate.allows(target_of(one), "identity.retire")]


def may_remove(call: Call[Any], around: Surroundings, change: DeclaredChange[Declared]) -> bool:
    """Whether a prune by the caller reaches this declaration."""
    return all(
        call.gate.allows(target, operation)
        for operation, target in list_declared_needs(around, change)
    )


def may_drop(call: Call[Any], template: Template, trust_domain: TrustDomain) -> bool:
    """Whether a prune by the caller reaches this template."""
    return call.gate.allows(target_of_template(template, trust_domain), "template.declare")


def may_mention(call: Call[Any], one: Declared) -> bool:
    """Whether the caller is told that this declaration is left as it is."""
    operation = f"{name_kind(one).lower()}.declare"
    return call.gate.allows(target_of_declared(one), operation) or reads_all(call)
