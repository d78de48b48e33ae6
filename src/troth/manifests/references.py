"""Names in manifests that nothing explains: legal, since what they name may come later, and
probably misspelt. A name without a meaning gives nothing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice

from troth.core.manifest.problem import Node, show_value
from troth.identity.identity import IdentitySpec
from troth.identity.issuer import Issuer
from troth.policy.policy import Policy, Segment
from troth.policy.resource import Resource
from troth.policy.role import ANY_ACTION, Role

Declared = Role | Resource | Policy | Segment | Issuer

MOST_TOLD = 50
MOST_COMPARED = 1000


def list_identity_names(
    specs: Iterable[IdentitySpec],
    resources: Iterable[Resource],
    issuers: Iterable[Issuer],
    policies: Iterable[Policy] = (),
) -> set[str]:
    """The names of identities that these manifests mention."""
    names = {name for spec in specs for name in spec.delegates}
    names.update(name for resource in resources for name in resource.servers)
    names.update(rule.identity for issuer in issuers for rule in issuer.identities)
    names.update(name for policy in policies for name in policy.subjects.identities)
    return names


def find_unexplained(
    specs: Iterable[IdentitySpec],
    declared: Iterable[Declared],
    roles: Mapping[str, Role],
    resources: Mapping[str, Resource],
    identities: Collection[str],
    told: Collection[str] = (),
) -> list[str]:
    """A sentence for each name in `specs` and `declared` that none of the others explains; of the
    resources that were `told`, unknown actions were reported before."""
    found = [
        f"{kind} '{name}': there is no {what} {show_value(word)}; {_suggest(word, known)}"
        for kind, name, what, words, known in _list_names(
            specs, declared, roles, resources, identities
        )
        for word in words
        if word not in known
    ]
    others = {name: one for name, one in resources.items() if name not in told}
    for one in declared:
        if isinstance(one, Role):
            found += (f"Role '{one.name}': {text}" for text in list_unknown_actions(one, others))
    if len(found) > MOST_TOLD:
        found = [*found[:MOST_TOLD], f"{len(found) - MOST_TOLD} more names that nothing explains."]
    return found


def _list_names(
    specs: Iterable[IdentitySpec],
    declared: Iterable[Declared],
    roles: Mapping[str, Role],
    resources: Mapping[str, Resource],
    identities: Collection[str],
) -> Iterator[tuple[str, str, str, Iterable[str], Collection[str]]]:
    for spec in specs:
        yield "Identity", spec.name, "role", spec.roles, roles
        yield "Identity", spec.name, "identity", spec.delegates, identities
    for one in declared:
        if isinstance(one, Role):
            yield "Role", one.name, "role", one.includes, roles
            yield "Role", one.name, "resource", (p.resource for p in one.permissions), resources
        elif isinstance(one, Resource):
            yield "Resource", one.name, "identity", one.servers, identities
            yield "Resource", one.name, "resource", one.passes_to, resources
            yield "Resource", one.name, "resource", one.token.shared_with, resources
        elif isinstance(one, Policy):
            yield "Policy", one.name, "role", one.subjects.roles, roles
            yield "Policy", one.name, "identity", one.subjects.identities, identities
            yield "Policy", one.name, "resource", one.resources, resources
        elif isinstance(one, Issuer):
            names = (rule.identity for rule in one.identities)
            yield "Issuer", one.name, "identity", names, identities


def list_unknown_actions(role: Role, resources: Mapping[str, Resource]) -> Iterator[str]:
    """A sentence for each action that its resource, if that is among these, doesn't have."""
    for permission in role.permissions:
        resource = resources.get(permission.resource)
        for action in permission.actions if resource else ():
            if resource and action not in (*resource.actions, ANY_ACTION):
                tail = _suggest(action, resource.actions)
                yield f"resource '{resource.name}' has no action {show_value(action)}; {tail}"


def report_unknown_actions(
    roles: Iterable[tuple[Node, Role]], resources: Iterable[tuple[Node, Resource]]
) -> None:
    """A warning where a role permits what a resource beside it doesn't have."""
    known = {resource.name: resource for _, resource in resources}
    for node, role in roles:
        for text in list_unknown_actions(role, known):
            node.child("spec").child("permissions").warn(text)


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, islice(known, MOST_COMPARED), n=1)
    return f"did you mean '{close[0]}'?" if close else "until there is, this gives nothing."
