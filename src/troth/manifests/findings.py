"""What is probably not meant in rules that are all legal, told at its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from troth.core.manifest.problem import Node
from troth.identity.identity_manifest import IDENTITY
from troth.policy.findings import list_findings, list_unused
from troth.policy.policy_manifest import POLICY, SEGMENT
from troth.policy.resource_manifest import RESOURCE
from troth.policy.role_manifest import ROLE
from troth.policy.rulebook import make_rule_book

MOST_TOLD = 100
"""Findings of one sort that are told."""

Read = Mapping[str, Sequence[tuple[Node, Any]]]


def report_findings(read: Read, now: datetime) -> None:
    """A warning for each finding. What nobody uses is told where there are identities to use it:
    else they stand elsewhere."""
    roles, resources, policies, segments = (
        [value for _, value in read[kind.name]] for kind in (ROLE, RESOURCE, POLICY, SEGMENT)
    )
    book = make_rule_book(0, roles, resources, policies, segments)
    if book.mistakes:
        return  # of what is declared elsewhere
    found = list(list_findings(book, now))
    if read[IDENTITY.name]:
        held = {role for _, identity in read[IDENTITY.name] for role in identity.roles}
        held |= {role for one in resources for instance in one.instances for role in instance.roles}
        found += list_unused(book.roles, policies, segments, held)
    nodes = {
        (kind.name, value.name): node
        for kind in (ROLE, RESOURCE, POLICY, SEGMENT)
        for node, value in read[kind.name]
    }
    told: Counter[str] = Counter()
    for one in found:
        told[one.rule] += 1
        if told[one.rule] <= MOST_TOLD:
            node = nodes[one.kind, one.name]
            replace(node, path=(*node.path, *one.path)).warn(one.message, rule=one.rule)
