"""What is wrong with rules that shows once roles, resources, policies and segments are seen
together: facts that nothing declares, segments that aren't there, Cedar that can't be read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_network

from troth.core.errors import Invalid
from troth.core.manifest.problem import Node, Problem, Severity, locate_path, render_path
from troth.policy.condition_manifest import Scope, read_condition
from troth.policy.fact import FactKind
from troth.policy.policy import Policy, Segment
from troth.policy.protection_manifest import report_properties
from troth.policy.raw import read_raw
from troth.policy.resource import Resource
from troth.policy.role import Role
from troth.policy.rulebook import list_subject_kinds, scope_conditions
from troth.policy.schema import find_raw_misfits
from troth.policy.system import list_system_resources


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

    scopes: dict[tuple[str, ...], Scope] = {}

    def scope(names: tuple[str, ...]) -> Scope:
        found = scopes.get(names)
        if found is None:
            wanted = names or tuple(known)
            here = [known[name] for name in wanted if name in known]
            whole = bool(here) and len(here) == len(wanted)
            found = scope_conditions(here, subjects, networks, offline=True, whole=whole)
            scopes[names] = found
        return found

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

    inner = node.child("spec").child("cedar")
    try:
        rule = read_raw(policy.name, policy.cedar, None, find_kind)
    except Invalid as error:
        quoted = _QUOTED.search(error.detail)
        _report_inside(inner, error.detail, quoted[1] or quoted[2] if quoted else "")
        return
    for one in find_raw_misfits(rule, {**_SYSTEM, **known})[:_MOST_MISFITS]:
        _report_inside(inner, f"{one.message}.", one.place)


_SYSTEM = {one.name: one for one in list_system_resources()}
_MOST_MISFITS = 5
_QUOTED = re.compile(r"`([^`]+)`|(context(?:\.\w+)+)")


def _report_inside(node: Node, message: str, place: str) -> None:
    """An error in a text of several lines, at the line on which `place` stands in it."""
    text = node.value
    places = (text.find(word) for word in (f"context.{place}", place))
    at = next((found for found in places if found >= 0), -1)
    line, column = locate_path(node.document, node.path)
    if not place or at < 0 or not line or "\n" not in text.strip():
        node.error(message)
        return
    # A block begins on the line after its key, and mostly two columns further in.
    line += 1 + text.count("\n", 0, at)
    column += 2 + at - (text.rfind("\n", 0, at) + 1)
    shown = render_path(node.path)
    node.problems.append(
        Problem(node.document.source, line, column, shown, message, Severity.ERROR, "policy/cedar")
    )


def _report_routes(node: Node, resource: Resource) -> None:
    for number, route in enumerate(resource.routes):
        if route.action not in resource.actions:
            node.child("spec").child("routes").child(number).error(
                f"the resource has no action '{route.action}'; known: "
                f"{', '.join(resource.actions)}."
            )
