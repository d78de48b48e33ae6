"""The Cedar schema of what is declared: what there is to ask about, and of which type it is.

Each resource has actions of its own, whose context has all facts that there are; of facts, all are
optional, and the groups that they stand in aren't. Records are closed to Cedar, so the labels that
are known are those that somebody reads.

Source: Cedar's schema language (docs.cedarpolicy.com, "Human-readable schema format"), version 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import cedarpy

from troth.policy.cedar import WINDOWS, kind_of_resource, name_action, quote, render_rule
from troth.policy.fact import BY_NAME, LABELLED, LABELS, VOCABULARY, Fact, FactKind, attribute_fact
from troth.policy.resource import Resource
from troth.policy.rule import Rule, list_reads
from troth.policy.rulebook import RuleBook, list_subject_kinds

_TYPES: Mapping[FactKind, str] = {
    FactKind.TEXT: "String",
    FactKind.NUMBER: "Long",
    FactKind.BOOLEAN: "Bool",
    FactKind.TEXTS: "Set<String>",
    FactKind.ADDRESS: "ipaddr",
    FactKind.TIME: "datetime",
}
_ENTITIES = """\
entity Role;
entity Type;
entity Identity in [Role];
entity Subject in [Role, Type];
entity Resource;
entity System;
"""
_PRINCIPALS = "[Identity, Subject]"

_NOTHING: Mapping[str, FactKind] = {}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a schema knows of one resource: its actions, and attributes by name."""

    name: str
    actions: tuple[str, ...]
    attributes: Mapping[str, FactKind] = field(default_factory=dict)
    action_attributes: Mapping[str, FactKind] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Misfit:
    """Something in a policy that isn't as the schema says. `place` is the piece of its text that is
    meant, "" if Cedar doesn't say."""

    message: str
    place: str


def shape_resource(resource: Resource) -> Shape:
    """What a schema knows of a declared resource."""
    return Shape(
        resource.name,
        tuple(resource.actions),
        resource.attributes,
        resource.action_attributes,
    )


def render_book_schema(book: RuleBook) -> str:
    """The schema of all that is declared, with the labels that some rule reads."""
    reads = [fact for rule in book.index.rules for fact in list_reads(rule)]
    return render_schema(
        map(shape_resource, book.resources.values()),
        {key: kind for (_, key), kind in list_subject_kinds(book.resources.values()).items()},
        reads,
    )


def render_schema(
    shapes: Iterable[Shape],
    subjects: Mapping[str, FactKind] = _NOTHING,
    reads: Iterable[Fact] = (),
) -> str:
    """The schema of these resources, of subjects with these attributes, and of the labels among
    `reads`."""
    labels = sorted({(f.group, f.key) for f in reads if f.key.startswith(LABELS)})
    lines = [_ENTITIES]
    for number, shape in enumerate(shapes):
        context = _render_context(shape, subjects, labels)
        lines.append(f"type Context{number} = {context};\n")
        names = ", ".join(quote(name_action(shape.name, action)) for action in shape.actions)
        lines.append(
            f"action {names} appliesTo {{ principal: {_PRINCIPALS}, resource: "
            f"[{kind_of_resource(shape.name)}], context: Context{number} }};\n"
        )
    return "".join(lines)


def _render_context(
    shape: Shape, subjects: Mapping[str, FactKind], labels: Iterable[tuple[str, str]]
) -> str:
    groups: dict[str, list[Fact]] = {}
    for fact in _list_facts(shape, subjects):
        groups.setdefault(fact.group, []).append(fact)
    records = []
    for group, facts in groups.items():
        members = [f"{quote(fact.key)}?: {_TYPES[fact.kind]}" for fact in facts]
        if group in LABELLED:
            known = (key.removeprefix(LABELS) for there, key in labels if there == group)
            members.append(f"labels: {{{', '.join(f'{quote(one)}?: String' for one in known)}}}")
        if group == "request":
            members.append(f"{WINDOWS}: Set<String>")
        records.append(f"{group}: {{{', '.join(members)}}}")
    return "{" + ", ".join(records) + "}"


def _list_facts(shape: Shape, subjects: Mapping[str, FactKind]) -> Iterator[Fact]:
    yield from VOCABULARY
    for group, kinds in (
        ("resource", shape.attributes),
        ("action", shape.action_attributes),
        ("subject", subjects),
    ):
        yield from (attribute_fact(group, name, kind) for name, kind in kinds.items())


def find_misfits(rule: Rule, schema: str | cedarpy.Schema) -> list[Misfit]:
    """What of a rule isn't as the schema says, by Cedar's strict validation."""
    found = cedarpy.validate_policies(render_rule(rule), schema)
    return [_read_error(one.error) for one in found.errors]


def find_raw_misfits(rule: Rule, resources: Mapping[str, Resource]) -> list[Misfit]:
    """What in a policy in Cedar isn't as it is declared. Resources that aren't among these may be
    declared elsewhere, and have whichever actions it speaks of."""
    mentioned: dict[str, set[str]] = {name: set() for name in rule.resources}
    for text in _ACTION.findall(rule.cedar):
        name, _, action = text.partition("/")
        mentioned.setdefault(name, set()).add(action)
    if not rule.resources:
        mentioned[""] = set()  # one of whichever there are
    kinds: dict[str, dict[str, FactKind]] = {"resource": {}, "action": {}, "subject": {}}
    for fact in rule.reads:
        if fact.name not in BY_NAME and fact.group in kinds and not fact.key.startswith(LABELS):
            kinds[fact.group][fact.key] = fact.kind
    shapes = (
        Shape(
            name,
            tuple(resources[name].actions if name in resources else sorted(actions) or ("any",)),
            kinds["resource"],
            kinds["action"],
        )
        for name, actions in mentioned.items()
    )
    return find_misfits(rule, render_schema(shapes, kinds["subject"], rule.reads))


_ACTION = re.compile(r'\bAction\s*::\s*"([^"\\]*)"')


_HEAD = re.compile(r"^(?:for policy `policy\d+`, |Policy parse error: )")
_QUOTED = re.compile(r"`([^`]+)`")
_NO_ACTION = "unable to find an applicable action"


def _read_error(text: str) -> Misfit:
    message = _HEAD.sub("", text)
    if message.startswith(_NO_ACTION):
        message = "can never apply: no action has such a subject and resource"
    quoted = _QUOTED.search(message)
    return Misfit(message[:300], quoted[1] if quoted else "")
