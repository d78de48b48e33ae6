"""Manifests of kind Policy and Segment: their fields, and what is wrong or doubtful in them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from troth.core.errors import Invalid
from troth.core.manifest import reader
from troth.core.manifest.field import Field, list_schema
from troth.core.manifest.kind import ManifestKind
from troth.core.manifest.problem import Node, show_value, suggest_word
from troth.policy.condition_manifest import MAX_VALUES, parse_moment, read_networks
from troth.policy.policy import BuiltIn, Policy, Segment
from troth.policy.protection_manifest import TYPE_PATTERN
from troth.policy.role import ANY_ACTION
from troth.policy.role_manifest import (
    ACTION_PATTERN,
    MAX_ACTION,
    MAX_ACTIONS,
    OWNER,
    PURPOSE,
    condition_schema,
    names_schema,
    read_action,
    read_when,
)
from troth.policy.rule import EVERYBODY, Effect, Subjects

MAX_SUBJECTS = 256
MAX_RESOURCES = 256
MAX_CEDAR = 16 * 1024
_SUBJECTS = ("roles", "identities", "types", "anyone")
_RAW = "a policy in Cedar says that itself; leave it out, or write it in YAML."


def _read_effect(node: Node) -> Effect:
    known = [effect.value for effect in Effect]
    if node.value not in known:
        word = node.value if isinstance(node.value, str) else ""
        raise Invalid(f"{show_value(node.value)} is unknown; {suggest_word(word, known)}")
    return Effect(node.value)


def _read_subjects(node: Node) -> Subjects:
    value = node.value
    if not isinstance(value, Mapping) or not value or not value.keys() <= set(_SUBJECTS):
        raise Invalid(
            "must be a mapping of some of 'roles', 'identities' and 'types', such as "
            "{roles: [reader]}, or {anyone: true}."
        )
    if "anyone" in value:
        if value != {"anyone": True}:
            raise Invalid("'anyone: true' stands alone.")
        return EVERYBODY
    roles, identities, types = (_read_names(node, name) for name in _SUBJECTS[:-1])
    found = Subjects(roles, identities, types)
    if not found.marks:
        raise Invalid("must name at least one.")
    return found


def _read_names(node: Node, name: str) -> tuple[str, ...]:
    if name not in node.value:
        return ()
    read = _read_type_name if name == "types" else reader.read_name
    names: tuple[str, ...] = reader.read_items(node.child(name), MAX_SUBJECTS, read)
    return names


def _read_type_name(node: Node) -> str:
    return reader.read_pattern(node, TYPE_PATTERN, 64, "a type's name, such as 'user'")


def _read_actions(node: Node) -> tuple[str, ...]:
    found: tuple[str, ...] = reader.read_items(node, MAX_ACTIONS, _read_granted)
    if ANY_ACTION in found and len(found) > 1:
        raise Invalid("'*' stands alone.")
    return () if ANY_ACTION in found else found


def _read_granted(node: Node) -> str:
    return ANY_ACTION if node.value == ANY_ACTION else read_action(node)


def _read_resources(node: Node) -> tuple[str, ...]:
    if node.value == [ANY_ACTION]:
        return ()
    found: tuple[str, ...] = reader.read_items(node, MAX_RESOURCES, reader.read_name)
    return found


def _read_cedar(node: Node) -> str:
    if not isinstance(node.value, str) or not node.value.strip():
        raise Invalid("must be the text of one Cedar policy.")
    if len(node.value) > MAX_CEDAR:
        raise Invalid(f"must have at most {MAX_CEDAR:,} characters; it has {len(node.value):,}.")
    return node.value


def _read_relaxed(node: Node) -> BuiltIn:
    known = [one.value for one in BuiltIn]
    if node.value not in known:
        word = node.value if isinstance(node.value, str) else ""
        raise Invalid(f"{show_value(node.value)} is unknown; {suggest_word(word, known)}")
    return BuiltIn(node.value)


def _read_moment(node: Node) -> datetime:
    try:
        return parse_moment(node.value)
    except ValueError:
        raise Invalid(
            f"{show_value(node.value)} is not a moment: write it as '2027-01-31T18:00:00Z'."
        ) from None


def _names(name: str, attribute: str, words: str, read: Any, schema: Any) -> Field:
    return Field(name, attribute, words, read, schema, default=lambda _: None)


POLICY_SPEC = (
    OWNER,
    PURPOSE,
    Field(
        "effect",
        "effect",
        "permit or forbid; a forbid beats every permit.",
        _read_effect,
        lambda _: {"enum": [effect.value for effect in Effect]},
    ),
    Field(
        "subjects",
        "subjects",
        "whom it is about: {roles, identities, types} by name, or {anyone: true}.",
        _read_subjects,
        lambda _: {"type": "object", "minProperties": 1},
    ),
    _names(
        "actions",
        "actions",
        "the actions that it is about; ['*'] for any.",
        _read_actions,
        lambda _: list_schema(
            MAX_ACTIONS,
            {"type": "string", "maxLength": MAX_ACTION, "pattern": rf"^(\*|{ACTION_PATTERN})$"},
            least=1,
        ),
    ),
    _names(
        "resources",
        "resources",
        "names of the resources that it is about; ['*'] for any.",
        _read_resources,
        lambda _: {"anyOf": [{"const": [ANY_ACTION]}, names_schema(MAX_RESOURCES)]},
    ),
    Field(
        "when",
        "when",
        "the condition on which it applies; always if not given.",
        read_when,
        lambda _: condition_schema(),
        default=lambda _: (),
    ),
    Field(
        "cedar",
        "cedar",
        "the policy in Cedar, instead of all that.",
        _read_cedar,
        lambda _: {"type": "string", "maxLength": MAX_CEDAR},
        default=lambda _: "",
    ),
    Field(
        "relaxes",
        "relaxes",
        f"what is forbidden without being written down, and what this policy permits all the same: "
        f"{', '.join(BuiltIn)}.",
        lambda node: reader.read_items(node, len(BuiltIn), _read_relaxed),
        lambda _: list_schema(len(BuiltIn), {"enum": [*BuiltIn]}),
        default=lambda _: (),
    ),
    Field(
        "expires",
        "expires_at",
        "from when on it isn't there any more, such as '2027-01-31T18:00:00Z'.",
        _read_moment,
        lambda _: {"type": "string", "format": "date-time"},
    ),
)


def make_policy(node: Node, values: dict[str, Any]) -> Policy | None:
    """The policy of a document whose fields are read."""
    section = node.child("spec")
    raw = bool(values["cedar"])
    before = len(node.problems)
    for name in ("effect", "subjects", "actions", "resources"):
        if raw and values[name] is not None:
            section.child(name).error(_RAW)
        elif not raw and values[name] is None:
            section.error(f"'{name}' is missing: a policy that isn't in Cedar needs it.")
    if raw and (values["when"] or values["relaxes"]):
        section.child("cedar").error("a policy in Cedar has no 'when' and no 'relaxes' beside it.")
    if not raw:
        for name in ("actions", "resources"):
            if section.value.get(name) == []:
                section.child(name).error("must name at least one, or ['*'].")
        if values["relaxes"] and values["effect"] is not Effect.PERMIT:
            section.child("relaxes").error("only what permits can relax something.")
    if node.failed_since(before):
        return None
    if raw:
        values |= {"effect": Effect.FORBID, "subjects": EVERYBODY, "actions": (), "resources": ()}
    _warn(section, values, node.now)
    return Policy(**values)


def _warn(section: Node, values: Mapping[str, Any], now: datetime) -> None:
    ends = values["expires_at"]
    if ends is not None and ends <= now:
        section.child("expires").warn(
            "lies in the past: the policy does nothing.", rule="policy/expired"
        )
    elif ends is not None and values["effect"] is Effect.FORBID and not values["cedar"]:
        section.child("expires").warn(
            "a forbid that ends opens what it forbids.", rule="policy/expiring-forbid"
        )


def _read_segment_networks(node: Node) -> tuple[str, ...]:
    return tuple(map(str, read_networks(node)))


SEGMENT_SPEC = (
    OWNER,
    PURPOSE,
    Field(
        "networks",
        "networks",
        "networks in CIDR notation, such as [10.0.0.0/8, '2001:db8::/32'].",
        _read_segment_networks,
        lambda _: list_schema(MAX_VALUES, {"type": "string"}, least=1),
        required=True,
    ),
)


def make_segment(node: Node, values: dict[str, Any]) -> Segment:
    """The segment of a document whose fields are read."""
    return Segment(**values)


POLICY = ManifestKind("Policy", POLICY_SPEC, make_policy)
SEGMENT = ManifestKind("Segment", SEGMENT_SPEC, make_segment)
