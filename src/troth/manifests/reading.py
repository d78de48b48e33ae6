"""From plain documents to what each domain made of them, with every problem at its place.

The reader of bytes (`troth.wire.yaml`) is elsewhere; here the values are JSON-like already, so
the same rules hold for files, for the API and for whatever comes later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from troth.core.manifest.field import METADATA, Field, read_members
from troth.core.manifest.kind import API_VERSION, ManifestKind
from troth.core.manifest.problem import (
    Limits,
    Node,
    Problem,
    Severity,
    SourceDocument,
    show_value,
    suggest_word,
)
from troth.identity.identity import IdentitySpec
from troth.identity.identity_manifest import IDENTITY
from troth.identity.issuer import Issuer
from troth.identity.issuer_manifest import ISSUER, report_shared_urls
from troth.identity.overlap import find_overlaps
from troth.identity.template import MAX_TEMPLATES, Template
from troth.identity.template_manifest import (
    TEMPLATE,
    find_claimant,
    find_prefix_conflicts,
    report_rivals,
)
from troth.manifests.findings import report_findings
from troth.manifests.references import report_unknown_actions
from troth.manifests.rules import report_rules
from troth.policy.policy import Policy, Segment
from troth.policy.policy_manifest import POLICY, SEGMENT
from troth.policy.resource import Resource
from troth.policy.resource_manifest import RESOURCE, report_shared_identifiers
from troth.policy.role import Role
from troth.policy.role_manifest import ROLE, report_cycles
from troth.policy.rule import SYSTEM

KINDS: tuple[ManifestKind, ...] = (IDENTITY, TEMPLATE, ROLE, RESOURCE, POLICY, SEGMENT, ISSUER)
"""Every kind that this version supports."""

PLANNED = ("AccessRule", "TrustPolicy", "Playbook", "Connector", "Federation")
"""Kinds of the language that it doesn't."""

MAX_PROBLEMS = 1_000
_ENVELOPE = ("apiVersion", "kind", "metadata", "spec")
_BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class ManifestSet:
    """What was read, by kind, where it is free of errors; and all problems by document."""

    specs: tuple[IdentitySpec, ...]
    problems: tuple[Problem, ...]
    templates: tuple[Template, ...] = ()
    roles: tuple[Role, ...] = ()
    resources: tuple[Resource, ...] = ()
    issuers: tuple[Issuer, ...] = ()
    policies: tuple[Policy, ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def declared(self) -> tuple[Role | Resource | Issuer | Policy | Segment, ...]:
        """What is stored as it was declared, of every kind."""
        return (*self.roles, *self.resources, *self.issuers, *self.policies, *self.segments)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What must be mended before anything is applied."""
        return tuple(p for p in self.problems if p.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is legal and probably not meant."""
        return tuple(p for p in self.problems if p.severity is Severity.WARNING)


def parse_manifests(
    documents: Iterable[SourceDocument], limits: Limits, now: datetime, *, alone: bool = False
) -> ManifestSet:
    """Read all documents and report all problems; apply the specs only if `errors` is empty.

    `alone` says that nobody will look at them beside what is declared already, so that findings are
    told here.
    """
    problems: list[Problem] = []
    read: dict[str, list[tuple[Node, Any]]] = {kind.name: [] for kind in KINDS}
    remaining = iter(documents)
    errors = 0
    for document in islice(remaining, limits.documents):
        before = len(problems)
        node = Node(document.value, (), document, limits, now, problems)
        kind = _read_kind(node)
        parsed = None if kind is None else _parse_document(node, kind)
        if kind is not None and parsed is not None:
            read[kind.name].append((node, parsed))
        errors += sum(problem.severity is Severity.ERROR for problem in problems[before:])
        if errors >= MAX_PROBLEMS:
            node.error(f"more than {MAX_PROBLEMS:,} problems; mend these first.")
            return ManifestSet((), tuple(problems))
        if not errors and before >= MAX_PROBLEMS:
            # Thousands of manifests may have a warning each: enough are told, none refuses them.
            del problems[before:]
    if (extra := next(remaining, None)) is not None:
        Node(extra.value, (), extra, limits, now, problems).error(
            f"more than {limits.documents:,} documents in one go; apply them in parts."
        )
    _report_together(read)
    if alone and not any(problem.severity is Severity.ERROR for problem in problems):
        report_findings(read, now)
    return ManifestSet(
        specs=_values(read, IDENTITY),
        problems=tuple(problems),
        templates=_values(read, TEMPLATE),
        roles=_values(read, ROLE),
        resources=_values(read, RESOURCE),
        issuers=_values(read, ISSUER),
        policies=_values(read, POLICY),
        segments=_values(read, SEGMENT),
    )


def _values(read: Mapping[str, list[tuple[Node, Any]]], kind: ManifestKind) -> tuple[Any, ...]:
    return tuple(value for _, value in read[kind.name])


def _report_together(read: Mapping[str, list[tuple[Node, Any]]]) -> None:
    """What only shows when documents are seen together."""
    for kind, found in read.items():
        _report_names(found)
        if kind in _RESERVING:
            _report_reserved(found)
    identities, templates = read[IDENTITY.name], read[TEMPLATE.name]
    _report_paths(identities)
    _report_overlaps(identities)
    _report_templates(templates, identities)
    report_cycles(read[ROLE.name])
    report_shared_identifiers(read[RESOURCE.name])
    report_shared_urls(read[ISSUER.name])
    report_unknown_actions(read[ROLE.name], read[RESOURCE.name])
    report_rules(read[ROLE.name], read[RESOURCE.name], read[POLICY.name], read[SEGMENT.name])


def _read_kind(node: Node) -> ManifestKind | None:
    if not isinstance(node.value, Mapping):
        node.error(f"a manifest must be a mapping with apiVersion and kind, not {_shown(node)}.")
        return None
    return _check_envelope(node)


def _parse_document(node: Node, kind: ManifestKind) -> Any:
    before = len(node.problems)
    values = read_members(node.section("metadata"), METADATA)
    values |= read_members(node.section("spec"), kind.spec)
    if node.failed_since(before):
        return None
    return kind.make(node, values)


def _check_envelope(node: Node) -> ManifestKind | None:
    """The kind of the document, if it is of our version and known; problems noted."""
    version, name = node.value.get("apiVersion"), node.value.get("kind")
    if version is None:
        node.error(f"'apiVersion' is missing: write 'apiVersion: {API_VERSION}'.")
    elif version != API_VERSION:
        node.child("apiVersion").error(
            f"the version {show_value(version)} is unknown; write '{API_VERSION}'."
        )
    kind = _BY_NAME.get(name) if isinstance(name, str) else None
    if name is None:
        node.error(f"'kind' is missing: write 'kind: {IDENTITY.name}'.")
    elif name in PLANNED:
        node.child("kind").error(f"the kind {name} isn't supported by this version yet.")
    elif kind is None:
        tail = suggest_word(name if isinstance(name, str) else "", (*_BY_NAME, *PLANNED))
        node.child("kind").error(f"the kind {show_value(name)} is unknown; {tail}")
    if version != API_VERSION or kind is None:
        return None
    fields = tuple(Field(name, "", "", lambda _: None, lambda _: {}) for name in _ENVELOPE)
    read_members(node, fields)
    return kind


_RESERVING = (ROLE.name, RESOURCE.name, POLICY.name, SEGMENT.name)


def _report_reserved(read: list[tuple[Node, Any]]) -> None:
    for node, value in read:
        if value.name.startswith(SYSTEM):
            node.child("metadata").child("name").error(
                f"names that begin with '{SYSTEM}' are troth's own; choose another."
            )


def _report_names(read: list[tuple[Node, Any]]) -> None:
    names: dict[str, Node] = {}
    for node, value in read:
        first = names.setdefault(value.name, node)
        if first is not node:
            node.child("metadata").child("name").error(
                f"the name '{value.name}' is taken by {_place(first)}; rename or remove one."
            )


def _report_paths(read: list[tuple[Node, IdentitySpec]]) -> None:
    paths: dict[str, tuple[Node, str]] = {}
    for node, spec in read:
        first, name = paths.setdefault(spec.path, (node, spec.name))
        if name != spec.name:
            node.child("spec").error(
                f"the path {show_value(spec.path)} is taken by {_place(first)}; "
                "give each its own 'path'."
            )


def _report_overlaps(read: list[tuple[Node, IdentitySpec]]) -> None:
    nodes = {spec.name: node for node, spec in read}
    for overlap in find_overlaps([spec for _, spec in read]):
        if overlap.name != overlap.other:
            nodes[overlap.name].child("spec").child("selectors").warn(overlap.words)


def _report_templates(
    templates: list[tuple[Node, Template]], read: list[tuple[Node, IdentitySpec]]
) -> None:
    if len(templates) > MAX_TEMPLATES:
        templates[-1][0].error(f"more than {MAX_TEMPLATES:,} templates; use wider patterns.")
        return
    nodes = {template.name: node for node, template in reversed(templates)}
    for first_one, second in find_prefix_conflicts(template for _, template in templates):
        if first_one.name != second.name:
            nodes[second.name].child("spec").error(
                f"the prefix '{second.prefix}' lies in that of template '{first_one.name}'; "
                "give each its own 'prefix'."
            )
    for node, spec in read:
        owner = find_claimant((template for _, template in templates), spec.name, spec.path)
        if owner is not None:
            node.child("spec").error(
                f"'{spec.name}' at {spec.path} would be one of template '{owner.name}': names and "
                f"paths below '{owner.prefix}' are its own. Choose others."
            )
    report_rivals(templates)


def _place(node: Node) -> str:
    source = node.document.source or "another document"
    return f"{source}:{node.document.line}" if node.document.line else source


def _shown(node: Node) -> str:
    return show_value(node.value)
