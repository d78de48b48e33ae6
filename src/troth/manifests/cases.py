"""Cases of `troth policy test`: documents beside manifests, read with each mistake at its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_network
from typing import Any

from troth.core.address import read_address
from troth.core.errors import Invalid
from troth.core.manifest import reader
from troth.core.manifest.problem import (
    Limits,
    Node,
    Problem,
    SourceDocument,
    locate_path,
    show_value,
    suggest_word,
)
from troth.policy.condition_manifest import SEGMENT, Scope, find_fact, parse_moment
from troth.policy.fact import NOW, SOURCE, Fact, FactKind, Value
from troth.policy.policy import Segment
from troth.policy.protection_manifest import check_property
from troth.policy.trial import Case

MOST_CASES = 10_000
MAX_TEXT = 512
MAX_LIST = 256
IDENTITY = "identity"
CASES = "cases"
_MEMBERS = ("name", "identity", "subject", "action", "resource", "with", "expect", "by", "missing")
_SUBJECT = (
    "type", "id", "roles", "properties", "kind", "owner", "environment", "labels", "assurance",
)  # fmt: skip
_ANSWERS = {"permit": True, "deny": False}
_SAYABLE = ("trust", "request", "grant", "task", "delegation")


@dataclass(frozen=True, slots=True)
class CaseSubject:
    """Who asks in a case: a declared identity by its name alone, or somebody as described."""

    type: str
    id: str
    roles: tuple[str, ...] = ()
    properties: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    described: bool = False


@dataclass(frozen=True, slots=True)
class ReadCase:
    """A case, and who asks in it."""

    subject: CaseSubject
    case: Case


def holds_cases(document: SourceDocument) -> bool:
    """Whether a document is one of cases, not a manifest."""
    value = document.value
    return isinstance(value, Mapping) and CASES in value and "kind" not in value


def read_cases(
    documents: Iterable[SourceDocument],
    kinds: Mapping[tuple[str, str], FactKind],
    segments: Mapping[str, Segment],
    limits: Limits,
    now: datetime,
) -> tuple[list[ReadCase], list[Problem]]:
    """All cases, and all problems. `kinds` are those of declared attributes, `segments` the
    declared ones by name."""
    problems: list[Problem] = []
    found: list[ReadCase] = []
    for document in documents:
        node = Node(document.value, (), document, limits, now, problems)
        for name in document.value:
            if name != CASES:
                node.error(
                    f"the member {show_value(name)} is unknown; a file of cases has '{CASES}'."
                )
        inner = node.child(CASES)
        if not isinstance(inner.value, list) or not inner.value:
            inner.error("must be a list of cases, with at least one.")
            continue
        for number in range(len(inner.value)):
            if len(found) >= MOST_CASES:
                inner.error(f"more than {MOST_CASES:,} cases; split them into several runs.")
                break
            before = len(problems)
            made = _read_case(inner.child(number), kinds, segments)
            if made is not None and len(problems) == before:
                found.append(made)
    return found, problems


def _read_case(
    node: Node, kinds: Mapping[tuple[str, str], FactKind], segments: Mapping[str, Segment]
) -> ReadCase | None:
    if not _has_members(node, _MEMBERS, ("action", "resource", "expect")):
        return None
    value = node.value
    if ("identity" in value) is ("subject" in value):
        node.error("must say who asks: either 'identity' or 'subject'.")
        return None
    try:
        subject = _read_subject(node)
        resource = _read_resource(node.child("resource"))
        action, action_properties = _read_action(node.child("action"))
        facts, at = _read_facts(node, kinds, segments)
        expected = _read_answer(node.child("expect"))
    except Invalid as error:
        node.error(error.detail)
        return None
    named = value.get("name")
    name = named if isinstance(named, str) and named else f"{subject.id} {action} {resource[3]}"
    line, _ = locate_path(node.document, node.path)
    return ReadCase(
        subject,
        Case(
            name=name[:MAX_TEXT],
            place=f"{node.document.source}:{line}",
            action=action,
            expected=expected,
            resource=resource[0],
            resource_type=resource[1],
            resource_id=resource[2],
            properties=resource[4],
            action_properties=action_properties,
            facts=facts,
            at=at,
            by=_read_names(node, "by"),
            missing=_read_names(node, "missing"),
        ),
    )


def _has_members(node: Node, known: tuple[str, ...], needed: tuple[str, ...] = ()) -> bool:
    if not isinstance(node.value, Mapping):
        node.error(f"must be a mapping, not {show_value(node.value)}.")
        return False
    before = len(node.problems)
    for name in node.value:
        if name not in known:
            tail = suggest_word(name if isinstance(name, str) else "", known)
            node.error(f"the member {show_value(name)} is unknown; {tail}")
    for name in needed:
        if name not in node.value:
            node.error(f"'{name}' is missing.")
    return len(node.problems) == before


def _read_subject(node: Node) -> CaseSubject:
    if "identity" in node.value:
        return CaseSubject(IDENTITY, reader.read_text(node.child("identity"), MAX_TEXT))
    inner = node.child("subject")
    if not _has_members(inner, _SUBJECT, ("type", "id")):
        raise Invalid("the subject can't be read.")
    value = inner.value
    facts = {}
    for name in ("kind", "owner", "environment", "assurance"):
        if name in value:
            facts[name] = reader.read_text(inner.child(name), MAX_TEXT)
    if "labels" in value:
        labels = reader.read_labels(inner.child("labels"))
        facts |= {f"labels.{key}": word for key, word in labels.items()}
    return CaseSubject(
        type=reader.read_text(inner.child("type"), MAX_TEXT),
        id=reader.read_text(inner.child("id"), MAX_TEXT),
        roles=_read_names(inner, "roles"),
        properties=_read_mapping(inner, "properties"),
        facts=facts,
        described=True,
    )


def _read_resource(node: Node) -> tuple[str, str, str, str, Mapping[str, Any]]:
    """Name, type, id, what to call it, and properties."""
    if isinstance(node.value, str):
        name = reader.read_text(node, MAX_TEXT)
        return name, "", "", name, {}
    if not _has_members(node, ("name", "type", "id", "properties")):
        raise Invalid("the resource can't be read.")
    value = node.value
    properties = _read_mapping(node, "properties")
    id_ = reader.read_text(node.child("id"), MAX_TEXT) if "id" in value else ""
    if "name" in value:
        name = reader.read_text(node.child("name"), MAX_TEXT)
        return name, "", id_, name, properties
    if "type" not in value or not id_:
        raise Invalid("a resource needs its 'name', or 'type' and 'id'.")
    type_ = reader.read_text(node.child("type"), MAX_TEXT)
    return "", type_, id_, f"{type_}:{id_}", properties


def _read_action(node: Node) -> tuple[str, Mapping[str, Any]]:
    if isinstance(node.value, str):
        return reader.read_text(node, MAX_TEXT), {}
    if not _has_members(node, ("name", "properties"), ("name",)):
        raise Invalid("the action can't be read.")
    return reader.read_text(node.child("name"), MAX_TEXT), _read_mapping(node, "properties")


def _read_mapping(node: Node, name: str) -> Mapping[str, Any]:
    value = node.value.get(name, {})
    if not isinstance(value, Mapping):
        raise Invalid(f"'{name}' must be a mapping.")
    return value


def _read_names(node: Node, name: str) -> tuple[str, ...]:
    value = node.value.get(name, [])
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_LIST or not all(isinstance(one, str) and one for one in values):
        raise Invalid(f"'{name}' must be a list of at most {MAX_LIST} texts.")
    return tuple(values)


def _read_answer(node: Node) -> bool:
    if not isinstance(node.value, str) or node.value not in _ANSWERS:
        raise Invalid(f"'expect' is permit or deny, not {show_value(node.value)}.")
    return _ANSWERS[node.value]


# Facts


def _read_facts(
    node: Node, kinds: Mapping[tuple[str, str], FactKind], segments: Mapping[str, Segment]
) -> tuple[dict[str, dict[str, Value]], datetime | None]:
    told = _read_mapping(node, "with")
    facts: dict[str, dict[str, Value]] = {}
    at: datetime | None = None
    for name, value in told.items():
        if name == SEGMENT:
            facts.setdefault(SOURCE.group, {})[SOURCE.key] = _find_address(value, segments)
            continue
        fact = find_fact(str(name), Scope(kinds), value)
        if fact == NOW:
            at = _read_moment(value)
            continue
        if fact.group not in _SAYABLE and fact.name != "identity.assurance":
            raise Invalid(
                f"'with' can't say {fact.name}: declare it, or give it with 'subject', 'resource' "
                "or 'action'."
            )
        facts.setdefault(fact.group, {})[fact.key] = _read_value(fact, value)
    return facts, at


def _read_value(fact: Fact, value: Any) -> Value:
    if fact.kind is FactKind.ADDRESS:
        address = read_address(value)
        if address is None:
            raise Invalid(f"{fact.name} is an address, and {show_value(value)} isn't.")
        return address
    if fact.kind is FactKind.TEXTS and isinstance(value, str):
        value = [value]
    found: Value | None = check_property(value, fact.kind)
    if found is None or (fact.order and found not in fact.order):
        wanted = f"one of {', '.join(fact.order)}" if fact.order else fact.kind.value
        raise Invalid(f"{fact.name} is {wanted}, and {show_value(value)} isn't.")
    return found


def _find_address(value: Any, segments: Mapping[str, Segment]) -> Value:
    segment = segments.get(value) if isinstance(value, str) else None
    if segment is None:
        tail = suggest_word(value if isinstance(value, str) else "", list(segments) or ["none"])
        raise Invalid(f"there is no segment {show_value(value)} in these manifests; {tail}")
    return ip_network(segment.networks[0]).network_address


def _read_moment(value: Any) -> datetime:
    try:
        return parse_moment(value)
    except ValueError:
        raise Invalid(
            f"{show_value(value)} is not a moment: write it as '2027-01-31T18:00:00Z', in quotes."
        ) from None
