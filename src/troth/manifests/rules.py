"""What is wrong with rules that shows once roles, resources, policies and segments are seen
together: facts that nothing declares, segments that aren't there, Cedar that can't be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from troth.core.errors import Invalid
from troth.core.manifest.problem import Node
from troth.policy.condition_manifest import Scope, read_condition
from troth.policy.fact import FactKind
from troth.policy.policy import Policy, Segment
from troth.policy.protection_manifest import report_properties
from troth.policy.raw import read_raw
from troth.policy.resource import Resource
from troth.policy.role import Role
from troth.policy.rulebook import list_subject_kinds, scope_conditions


def report_rules(
    roles: list[tuple[Node, Role]],
    resources: list[tuple[Node, Resource]],
    policies: list[tuple[Node, Policy]],
    segments: list[tuple[Node, Segment]],
) -> None:
    """An error at each condition that means nothing. What it speaks of may be declared already, and
    stand in none of these documents: only what stands here can be wrong here."""
    known = {resource.name: resource for _, resource in resources}
    networks = {one.name: tuple(map(ip_network, one.networks)) for _, one in segments}
    subjects = list_subject_kinds(known.values())
    for node, resource in resources:
        if resource.instances:
            there = node.child("spec").child("instances")
            report_properties(there, resource.instances, resource.attributes)
        _report_routes(node, resource)

    def scope(names: Iterable[str]) -> Scope:
        wanted = list(names) or list(known)
        here = [known[name] for name in wanted if name in known]
        whole = bool(here) and len(here) == len(wanted)
        return scope_conditions(here, subjects, networks, offline=True, whole=whole)

    for node, role in roles:
        for number, permission in enumerate(role.permissions):
            if permission.when:
                place = node.child("spec").child("permissions").child(number)
                read_condition(place.child("when"), scope((permission.resource,)))
    for node, policy in policies:
        if policy.when:
            read_condition(node.child("spec").child("when"), scope(policy.resources))
        elif policy.cedar:
            _report_cedar(node, policy, known)


def _report_cedar(node: Node, policy: Policy, known: Mapping[str, Resource]) -> None:
    def find_kind(group: str, key: str) -> FactKind | None:
        for one in known.values():
            kinds = one.action_attributes if group == "action" else one.attributes
            if key in kinds:
                return kinds[key]
        return None if known else FactKind.TEXT

    try:
        read_raw(policy.name, policy.cedar, None, find_kind)
    except Invalid as error:
        node.child("spec").child("cedar").error(error.detail)


def _report_routes(node: Node, resource: Resource) -> None:
    for number, route in enumerate(resource.routes):
        if route.action not in resource.actions:
            node.child("spec").child("routes").child(number).error(
                f"the resource has no action '{route.action}'; known: "
                f"{', '.join(resource.actions)}."
            )
