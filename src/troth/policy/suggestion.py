"""Suggestions: the role that somebody needs for what they did, and for nothing else.

A permission is taken over with its condition where the rule that permitted had one. There are no
wildcards in it, and nothing that wasn't used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from troth.policy.role import ANY_ACTION, Permission, Role, expand_roles
from troth.policy.rule import Effect
from troth.policy.rulebook import RuleBook

MOST_PERMISSIONS = 256


@dataclass(slots=True)
class Use:
    """How often an action at a resource was permitted, and by which sets of rules."""

    count: int = 0
    rules: dict[tuple[str, ...], int] = field(default_factory=dict)

    def add(self, rules: tuple[str, ...]) -> None:
        """One more."""
        self.count += 1
        self.rules[rules] = self.rules.get(rules, 0) + 1


@dataclass(frozen=True, slots=True)
class Suggested:
    """A role, if one is needed; permissions that are held and weren't used; and notes."""

    role: Role | None
    unused: tuple[str, ...]
    notes: tuple[str, ...]


def suggest_role(
    book: RuleBook,
    identity: str,
    owner: str,
    roles: Iterable[str],
    used: Mapping[tuple[str, str], Use],
) -> Suggested:
    """The least role for these uses, by resource and action."""
    held = book.expand(tuple(roles))
    needed: dict[tuple[str, str], tuple[tuple[Any, ...], list[str]]] = {}
    notes: list[str] = []
    for (resource, action), use in sorted(used.items()):
        for rule in _choose_rules(book, use):
            when = _find_condition(book, rule, (resource, action), notes)
            if when is None:
                continue
            _, actions = needed.setdefault((resource, repr(when)), (when, []))
            if action not in actions:
                actions.append(action)
    permissions = tuple(
        Permission(resource, tuple(sorted(actions)), when)
        for (resource, _), (when, actions) in sorted(needed.items(), key=lambda one: one[0])
    )
    notes += _note_policies(book, held)
    unused = tuple(_list_unused(book, held, used))
    if not permissions:
        return Suggested(None, unused, tuple(dict.fromkeys(notes)))
    if len(permissions) > MOST_PERMISSIONS:
        notes.append(f"It needs {len(permissions)} permissions, more than a role can hold.")
        permissions = permissions[:MOST_PERMISSIONS]
    name = f"{identity[:110]}-least"
    if name in book.roles:
        notes.append(f"There is a role {name} already; applying this one replaces it.")
    purpose = f"What {identity} used, and nothing else"
    role = Role(name, {}, owner, purpose, (), permissions)
    return Suggested(role, unused, tuple(dict.fromkeys(notes)))


def _choose_rules(book: RuleBook, use: Use) -> list[str]:
    """The fewest rules that permitted all of it, those with a condition first: they give less."""
    left = dict(use.rules)
    chosen: list[str] = []
    while left:
        counts: dict[str, int] = {}
        for rules, count in left.items():
            for rule in rules:
                counts[rule] = counts.get(rule, 0) + count
        if not counts:
            break
        best = max(counts, key=lambda rule: (counts[rule], _is_conditional(book, rule), rule))
        chosen.append(best)
        left = {rules: count for rules, count in left.items() if best not in rules}
    return chosen


def _find_permission(book: RuleBook, rule: str) -> Permission | None:
    """The permission of a role that a rule is made of, if it is there now."""
    kind, _, rest = rule.partition("/")
    name, _, number = rest.rpartition("/")
    role = book.roles.get(name) if kind == "role" else None
    if role is None or not number.isdecimal() or not 1 <= int(number) <= len(role.permissions):
        return None
    return role.permissions[int(number) - 1]


def _is_conditional(book: RuleBook, rule: str) -> bool:
    permission = _find_permission(book, rule)
    if permission is not None:
        return bool(permission.when)
    policy = book.policies.get(rule.removeprefix("policy/"))
    return policy is not None and bool(policy.when)


def _find_condition(
    book: RuleBook, rule: str, used: tuple[str, str], notes: list[str]
) -> tuple[Any, ...] | None:
    """The condition under which a role must permit what `rule` did; None if it needn't."""
    permission = _find_permission(book, rule)
    resource, action = used
    # Permissions have no names: the one of that number may be another one by now.
    if (
        permission is not None
        and permission.resource == resource
        and (action in permission.actions or ANY_ACTION in permission.actions)
    ):
        return permission.when
    policy = book.policies.get(rule.removeprefix("policy/"))
    if policy is None:
        notes.append(f"{rule}, which permitted some of it, isn't there any more.")
        return None
    if not policy.subjects.roles and not policy.cedar:
        notes.append(f"{rule} permits some of it without a role; it stays as it is.")
        return None
    if policy.cedar:
        notes.append(f"{rule} is in Cedar and permits some of it: look whether it means a role.")
        return None
    return policy.when


def _note_policies(book: RuleBook, held: tuple[str, ...]) -> list[str]:
    """Forbids that mean roles which would be held no more."""
    return [
        f"policy/{policy.name} forbids something to holders of {role}, and wouldn't any more."
        for policy in book.policies.values()
        if policy.effect is Effect.FORBID
        for role in policy.subjects.roles
        if role in held
    ]


def _list_unused(
    book: RuleBook, held: tuple[str, ...], used: Mapping[tuple[str, str], Use]
) -> list[str]:
    found: dict[str, None] = {}
    for role in expand_roles(held, book.roles):
        for permission in role.permissions:
            resource = book.resources.get(permission.resource)
            actions = permission.actions
            if ANY_ACTION in actions:
                actions = tuple(resource.actions) if resource is not None else actions
            for action in actions:
                if (permission.resource, action) not in used:
                    found[f"{action} on {permission.resource} (role {role.name})"] = None
    return list(found)


def render_role(role: Role) -> dict[str, object]:
    """The role as a manifest."""
    return {
        "apiVersion": "troth/v1",
        "kind": "Role",
        "metadata": {"name": role.name},
        "spec": {
            "owner": role.owner,
            "purpose": role.purpose,
            "permissions": [
                {
                    "resource": one.resource,
                    "actions": list(one.actions),
                    **({"when": list(one.when)} if one.when else {}),
                }
                for one in role.permissions
            ],
        },
    }
