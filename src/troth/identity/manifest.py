"""Manifests: plain documents to specs of identities and templates, with every problem at its place.

The reader of bytes (`troth.wire.yaml`) is elsewhere; here the values are JSON-like already, so
the same rules hold for files, for the API and for whatever comes later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from troth.core.errors import Invalid
from troth.identity.fields import METADATA, SPEC, Field, read_members
from troth.identity.identity import IdentitySpec, Kind
from troth.identity.overlap import find_overlaps
from troth.identity.problem import (
    Limits,
    Node,
    Problem,
    Severity,
    SourceDocument,
    show_value,
    suggest_word,
)
from troth.identity.readers import read_path
from troth.identity.selectors import find_weakness
from troth.identity.template import MAX_TEMPLATES, Template
from troth.identity.template_fields import TEMPLATE_SPEC
from troth.identity.template_manifest import (
    find_claimant,
    find_prefix_conflicts,
    make_template,
    report_rivals,
)

API_VERSION = "troth/v1"
KIND = "Identity"
TEMPLATE = "Template"
KINDS = (
    "Identity",
    "Template",
    "Role",
    "Policy",
    "Resource",
    "AccessRule",
    "TrustPolicy",
    "Playbook",
    "Connector",
    "Issuer",
    "Federation",
)
"""Every kind of the language; this version supports those in `SUPPORTED`."""

SUPPORTED = (KIND, TEMPLATE)

MAX_PROBLEMS = 1_000
_ENVELOPE = ("apiVersion", "kind", "metadata", "spec")


@dataclass(frozen=True, slots=True)
class ManifestSet:
    """What was read: specs and templates that are free of errors, and all problems by document."""

    specs: tuple[IdentitySpec, ...]
    problems: tuple[Problem, ...]
    templates: tuple[Template, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What must be mended before anything is applied."""
        return tuple(p for p in self.problems if p.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is legal and probably not meant."""
        return tuple(p for p in self.problems if p.severity is Severity.WARNING)


def parse_manifests(
    documents: Iterable[SourceDocument], limits: Limits, now: datetime
) -> ManifestSet:
    """Read all documents and report all problems; apply the specs only if `errors` is empty."""
    problems: list[Problem] = []
    read: list[tuple[Node, IdentitySpec]] = []
    templates: list[tuple[Node, Template]] = []
    remaining = iter(documents)
    errors = 0
    for document in islice(remaining, limits.documents):
        before = len(problems)
        node = Node(document.value, (), document, limits, now, problems)
        parsed = _parse_document(node)
        if isinstance(parsed, Template):
            templates.append((node, parsed))
        elif parsed is not None:
            read.append((node, parsed))
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
    _report_duplicates(read)
    _report_overlaps(read)
    _report_templates(templates, read)
    return ManifestSet(
        tuple(spec for _, spec in read),
        tuple(problems),
        tuple(template for _, template in templates),
    )


def _parse_document(node: Node) -> IdentitySpec | Template | None:
    before = len(node.problems)
    if not isinstance(node.value, Mapping):
        node.error(f"a manifest must be a mapping with apiVersion and kind, not {_shown(node)}.")
        return None
    if not _check_envelope(node):
        return None
    fields = TEMPLATE_SPEC if node.value["kind"] == TEMPLATE else SPEC
    values = read_members(_section(node, "metadata"), METADATA)
    values |= read_members(_section(node, "spec"), fields)
    if any(p.severity is Severity.ERROR for p in node.problems[before:]):
        return None
    if fields is TEMPLATE_SPEC:
        return make_template(node, values)
    if values["path"] is None:
        values["path"] = _derive_path(node, values["name"])
    expires = values.pop("expires")
    values["expires_at"] = expires if isinstance(expires, datetime) else None
    values["lifetime"] = expires if isinstance(expires, timedelta) else None
    if any(p.severity is Severity.ERROR for p in node.problems[before:]):
        return None
    spec = IdentitySpec(**values)
    _report_weakness(node, spec)
    return spec


def _check_envelope(node: Node) -> bool:
    """Whether the document says that it is of our version and a known kind; problems noted."""
    version, kind = node.value.get("apiVersion"), node.value.get("kind")
    if version is None:
        node.error(f"'apiVersion' is missing: write 'apiVersion: {API_VERSION}'.")
    elif version != API_VERSION:
        node.child("apiVersion").error(
            f"the version {show_value(version)} is unknown; write '{API_VERSION}'."
        )
    if kind is None:
        node.error(f"'kind' is missing: write 'kind: {KIND}'.")
    elif kind not in KINDS:
        tail = suggest_word(kind if isinstance(kind, str) else "", KINDS)
        node.child("kind").error(f"the kind {show_value(kind)} is unknown; {tail}")
    elif kind not in SUPPORTED:
        node.child("kind").error(f"the kind {kind} isn't supported by this version yet.")
    if version != API_VERSION or kind not in SUPPORTED:
        return False
    fields = tuple(Field(name, "", "", lambda _: None, lambda _: {}) for name in _ENVELOPE)
    read_members(node, fields)
    return True


def _section(node: Node, name: str) -> Node:
    if node.value.get(name) is not None:
        return node.child(name)
    return Node({}, (name,), node.document, node.limits, node.now, node.problems)


def _derive_path(node: Node, name: str) -> str:
    path = f"/{name}"
    inner = Node(path, ("metadata", "name"), node.document, node.limits, node.now, node.problems)
    try:
        read_path(inner)
    except Invalid as error:
        inner.error(error.detail)
    return path


def _report_weakness(node: Node, spec: IdentitySpec) -> None:
    section = _section(node, "spec")
    if not spec.selectors and spec.kind is not Kind.DEVICE:  # that may enrol with a code
        section.warn("no selectors: no process can obtain this identity from an agent.")
    elif (weakness := find_weakness(spec.selectors)) is not None:
        section.child("selectors").warn(weakness)
    if spec.expires_at is None and spec.lifetime is None:
        days = node.limits.lifetime_default.days
        section.warn(f"no 'expires': it ends {days} days after its registration.")


def _report_duplicates(read: list[tuple[Node, IdentitySpec]]) -> None:
    names: dict[str, Node] = {}
    paths: dict[str, Node] = {}
    for node, spec in read:
        first = names.setdefault(spec.name, node)
        if first is not node:
            node.child("metadata").child("name").error(
                f"the name '{spec.name}' is taken by {_place(first)}; rename or remove one."
            )
            continue
        first = paths.setdefault(spec.path, node)
        if first is not node:
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
    nodes: dict[str, Node] = {}
    for node, template in templates:
        first = nodes.setdefault(template.name, node)
        if first is not node:
            node.child("metadata").child("name").error(
                f"the name '{template.name}' is taken by {_place(first)}; rename or remove one."
            )
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
