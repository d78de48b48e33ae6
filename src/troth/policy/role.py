"""Roles: what an identity may do, as actions on resources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ANY_ACTION = "*"


@dataclass(frozen=True, slots=True)
class Permission:
    """Actions on one resource, by the resource's name; ``*`` stands for all of its actions. `when`
    is the condition on which they are permitted, as the manifest writes it; none: always."""

    resource: str
    actions: tuple[str, ...]
    when: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Role:
    """What a manifest of kind Role says. It holds the permissions of `includes` too."""

    name: str
    labels: Mapping[str, str]
    owner: str
    purpose: str
    includes: tuple[str, ...]
    permissions: tuple[Permission, ...]


def expand_roles(names: Iterable[str], roles: Mapping[str, Role]) -> tuple[Role, ...]:
    """The roles of these names and all that they include, each once, by name.

    A name that no manifest explains means nothing: it gives no permission.
    """
    found: dict[str, Role] = {}
    waiting = list(names)
    while waiting:
        role = roles.get(waiting.pop())
        if role is not None and role.name not in found:
            found[role.name] = role
            waiting.extend(role.includes)
    return tuple(found[name] for name in sorted(found))


def list_actions(roles: Iterable[Role], resource: str, known: Iterable[str]) -> frozenset[str]:
    """Which of the actions `known` at `resource` these roles permit."""
    granted = set(_collect(roles, resource))
    return frozenset(known if ANY_ACTION in granted else granted.intersection(known))


def _collect(roles: Iterable[Role], resource: str) -> Iterator[str]:
    for role in roles:
        for permission in role.permissions:
            if permission.resource == resource:
                yield from permission.actions


def find_cycle(roles: Mapping[str, Role]) -> tuple[str, ...]:
    """Names of roles that include each other in a ring, the first one at both ends; or none."""
    done: set[str] = set()
    for start in roles:
        path: list[str] = []
        trail = [iter((start,))]
        while trail:
            name = next(trail[-1], None)
            if name is None:
                trail.pop()
                if path and len(path) > len(trail) - 1:
                    done.add(path.pop())
                continue
            if name in path:
                return (*path[path.index(name) :], name)
            role = roles.get(name)
            if role is not None and name not in done:
                path.append(name)
                trail.append(iter(role.includes))
    return ()
