"""Authorship: whether whoever submits manifests may have each of the changes that they come to.

A team that manages its own identities holds permissions on what bears its label or its prefix. What
it changes must be its own before and after; the roles that it gives away, and the resources that
its roles and policies speak of, must be its own to give.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from troth.identity.identity import Identity, IdentitySpec
from troth.identity.plan import Action, Change
from troth.identity.template_plan import TemplateChange
from troth.manifests.declared import DeclaredChange
from troth.operations.call import Call, Target
from troth.operations.target import target_of, target_of_declared
from troth.policy.policy import Policy
from troth.policy.resource import Resource
from troth.policy.role import Role
from troth.store.declarations import Declared

_VERBS = {Action.ADD: "register", Action.CHANGE: "change", Action.REMOVE: "retire"}


def check_identities(call: Call[Any], changes: Iterable[Change], roles: Iterable[Declared]) -> None:
    """Raise `Denied` at the first identity that the caller may not have as it would be."""
    known = {one.name: one for one in roles if isinstance(one, Role)}
    for change in changes:
        verb = _VERBS.get(change.action)
        if verb is None:
            continue
        operation = f"identity.{verb}"
        for one in (change.identity, change.spec if change.action is not Action.REMOVE else None):
            if one is not None:
                call.gate.check(target_of(one), operation)
        if change.action is not Action.REMOVE and change.spec is not None:
            _check_roles(call, change.identity, change.spec, known)


def _check_roles(
    call: Call[Any], before: Identity | None, spec: IdentitySpec, known: dict[str, Role]
) -> None:
    """A role that an identity comes to hold is given by whoever says so."""
    held = set(before.roles) if before is not None else set()
    for name in spec.roles:
        if name not in held:
            role = known.get(name)
            target = Target(id=name) if role is None else target_of_declared(role)
            call.gate.check(target, "role.assign")


def check_templates(call: Call[Any], changes: Iterable[TemplateChange]) -> None:
    """Raise `Denied` at the first template that the caller may not declare."""
    for change in changes:
        if change.action is Action.KEEP:
            continue
        if change.stored is not None:
            call.gate.check(target_of_declared(change.stored.template), "template.declare")
        if change.template is not None:
            call.gate.check(target_of_declared(change.template), "template.declare")


def check_declared(
    call: Call[Any],
    changes: Sequence[DeclaredChange[Declared]],
    remaining: Iterable[Declared],
) -> None:
    """Raise `Denied` at the first declaration that the caller may not have as it would be, once
    these are there that are `remaining`."""
    there = list(remaining)
    owned = {one.name: one for one in there if isinstance(one, Resource)}
    held = {one.name: one for one in there if isinstance(one, Role)}
    for change in changes:
        if change.action is Action.KEEP:
            continue
        operation = f"{change.kind.lower()}.declare"
        for one in (change.stored, change.wanted):
            if one is None:
                continue
            call.gate.check(target_of_declared(one), operation)
            for name in _list_touched(one):
                resource = owned.get(name)
                target = Target(id=name) if resource is None else target_of_declared(resource)
                call.gate.check(target, "resource.declare")
            for name in one.includes if isinstance(one, Role) else ():
                role = held.get(name)
                target = Target(id=name) if role is None else target_of_declared(role)
                call.gate.check(target, "role.assign")


def _list_touched(one: Declared) -> tuple[str, ...]:
    """The resources that access is given to or taken from; "" for any."""
    if isinstance(one, Role):
        return tuple(permission.resource for permission in one.permissions)
    if isinstance(one, Policy):
        return one.resources or ("",)
    return ()


def keep_own(call: Call[Any], identities: Sequence[Identity]) -> list[Identity]:
    """Those that the caller may retire: a prune reaches no further."""
    return [one for one in identities if call.gate.allows(target_of(one), "identity.retire")]


def may_prune(call: Call[Any], kind: str, one: Declared) -> bool:
    """Whether a prune by the caller reaches this declaration."""
    return call.gate.allows(target_of_declared(one), f"{kind.lower()}.declare")
