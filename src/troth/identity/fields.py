"""The fields of an Identity manifest: one table that parsing, JSON Schema and the docs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from troth.core.errors import Invalid
from troth.core.ids import MAX_SPIFFE_ID_LENGTH
from troth.identity import readers
from troth.identity.identity import Kind
from troth.identity.problem import Limits, Node, show_value, suggest_word
from troth.identity.selectors import KNOWN, MAX_SELECTORS, MAX_VALUE_LENGTH

MAX_REPORTED = 20


@dataclass(frozen=True, slots=True)
class Field:
    """One field: its name in the manifest and in the spec, its reader, its JSON Schema.

    A field with `members` is a mapping of further fields; its `attribute` is empty.
    """

    name: str
    attribute: str
    description: str
    read: Callable[[Node], Any]
    schema: Callable[[Limits], dict[str, Any]]
    default: Callable[[Limits], Any] = lambda _: None
    required: bool = False
    members: tuple[Field, ...] = ()


def read_members(node: Node, fields: tuple[Field, ...]) -> dict[str, Any]:
    """Read a mapping by its table of fields: attribute → value, problems noted on the way.

    Unknown names are errors, absent ones get their default, and what couldn't be read is absent.
    """
    if not isinstance(node.value, Mapping):
        node.error(f"must be a mapping of fields, not {show_value(node.value)}.")
        return {}
    _report_unknown(node, [f.name for f in fields])
    values: dict[str, Any] = {}
    for field in fields:
        if field.members:
            given = node.value.get(field.name)
            inner = node.child(field.name) if given is not None else _absent(node, field.name)
            values.update(read_members(inner, field.members))
        elif node.value.get(field.name) is not None:
            inner = node.child(field.name)
            try:
                values[field.attribute] = field.read(inner)
            except Invalid as error:
                inner.error(error.detail)
        elif field.required:
            node.error(f"'{field.name}' is missing: {field.description}")
        else:
            values[field.attribute] = field.default(node.limits)
    return values


def _absent(node: Node, name: str) -> Node:
    """An empty mapping in the place of a group that isn't there, so that defaults apply."""
    return Node({}, (*node.path, name), node.document, node.limits, node.now, node.problems)


def _report_unknown(node: Node, known: list[str]) -> None:
    unknown = [key for key in node.value if key not in known]
    for key in unknown[:MAX_REPORTED]:
        if isinstance(key, str):
            node.child(key).error(f"unknown field; {suggest_word(key, known)}")
        else:
            node.error(f"the key {show_value(key)} must be a text.")
    if len(unknown) > MAX_REPORTED:
        node.error(f"{len(unknown) - MAX_REPORTED} more unknown fields.")


def _text_schema(longest: int, pattern: str = "") -> Callable[[Limits], dict[str, Any]]:
    shape: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": longest}
    if pattern:
        shape["pattern"] = f"^({pattern})$"
    return lambda _: dict(shape)


def _list_schema(most: int, item: dict[str, Any], least: int = 0) -> dict[str, Any]:
    shape = {"type": "array", "items": item, "maxItems": most, "uniqueItems": True}
    return {**shape, "minItems": least} if least else shape


def _labels_schema(_: Limits) -> dict[str, Any]:
    return {
        "type": "object",
        "maxProperties": readers.MAX_LABELS,
        "propertyNames": {"pattern": f"^({readers.LABEL_KEY_PATTERN})$"},
        "additionalProperties": {
            "type": "string",
            "maxLength": readers.MAX_LABEL_PART,
            "pattern": f"^({readers.LABEL_VALUE_PATTERN})$",
        },
    }


def _nodes_schema(_: Limits) -> dict[str, Any]:
    item = {
        "type": "string",
        "maxLength": readers.MAX_NAME,
        "pattern": rf"^(\*|{readers.NAME_PATTERN})$",
    }
    return _list_schema(readers.MAX_NODES, item, least=1)


def _selectors_schema(_: Limits) -> dict[str, Any]:
    longest = MAX_VALUE_LENGTH + max(len(key) for key in KNOWN) + 1
    pattern = f"^({'|'.join(KNOWN)}):"
    return _list_schema(MAX_SELECTORS, {"type": "string", "maxLength": longest, "pattern": pattern})


def _dns_schema(_: Limits) -> dict[str, Any]:
    item = {
        "type": "string",
        "maxLength": readers.MAX_DNS_NAME,
        "pattern": f"^({readers.DNS_NAME_PATTERN})$",
    }
    return _list_schema(readers.MAX_DNS_NAMES, item)


METADATA = (
    Field(
        "name",
        "name",
        "the name that people use; unique, lower case, such as payments-api.",
        readers.read_name,
        _text_schema(readers.MAX_NAME, readers.NAME_PATTERN),
        required=True,
    ),
    Field(
        "labels",
        "labels",
        "free labels for search and policy, such as {env: prod}.",
        readers.read_labels,
        _labels_schema,
        default=lambda _: {},
    ),
)

TTL = (
    Field(
        "x509",
        "x509_ttl",
        "how long a certificate (X.509-SVID) is valid, such as 1h.",
        lambda node: readers.read_ttl(node, node.limits.x509_ceiling),
        _text_schema(24, readers.DURATION_PATTERN),
        default=lambda limits: limits.x509_default,
    ),
    Field(
        "jwt",
        "jwt_ttl",
        "how long a token (JWT-SVID) is valid, such as 5m.",
        lambda node: readers.read_ttl(node, node.limits.jwt_ceiling),
        _text_schema(24, readers.DURATION_PATTERN),
        default=lambda limits: limits.jwt_default,
    ),
)

SPEC = (
    Field(
        "kind",
        "kind",
        f"what sort of machine it is: {', '.join(kind.value for kind in Kind)}.",
        readers.read_kind,
        lambda _: {"enum": [kind.value for kind in Kind]},
        required=True,
    ),
    Field(
        "owner",
        "owner",
        "who answers for it, such as payments@example.org.",
        lambda node: readers.read_text(node, readers.MAX_TEXT),
        _text_schema(readers.MAX_TEXT),
        required=True,
    ),
    Field(
        "purpose",
        "purpose",
        "what it is for, in a sentence.",
        lambda node: readers.read_text(node, readers.MAX_PURPOSE),
        _text_schema(readers.MAX_PURPOSE),
        required=True,
    ),
    Field(
        "environment",
        "environment",
        "where it belongs, such as prod; 'default' if not given.",
        lambda node: readers.read_pattern(
            node,
            readers.WORD_PATTERN,
            readers.MAX_LABEL_PART,
            "lower-case letters, digits, '-', '_' and '.'",
        ),
        _text_schema(readers.MAX_LABEL_PART, readers.WORD_PATTERN),
        default=lambda _: "default",
    ),
    Field(
        "path",
        "path",
        "the path of its SPIFFE ID; a slash and the name if not given. It never changes.",
        readers.read_path,
        _text_schema(MAX_SPIFFE_ID_LENGTH, r"(/[A-Za-z0-9._-]+)+"),
    ),
    Field(
        "expires",
        "expires",
        "when it ends: an RFC 3339 time, or days from its registration such as 90d.",
        readers.read_expiry,
        _text_schema(40, f"{readers.DAYS_PATTERN}|{readers.TIME_PATTERN}"),
    ),
    Field(
        "nodes",
        "nodes",
        "names of the nodes that may hold it, or '*' for any; [local] if not given.",
        readers.read_nodes,
        _nodes_schema,
        default=lambda _: ("local",),
    ),
    Field(
        "selectors",
        "selectors",
        "what a process must prove to get it from an agent, such as unix:uid:1001; all of them.",
        readers.read_selectors,
        _selectors_schema,
        default=lambda _: (),
    ),
    Field(
        "dnsNames",
        "dns_names",
        "DNS names that its certificates carry besides the SPIFFE ID.",
        readers.read_dns_names,
        _dns_schema,
        default=lambda _: (),
    ),
    Field(
        "ttl",
        "",
        "how long its credentials are valid.",
        lambda node: read_members(node, TTL),
        lambda _: {},
        members=TTL,
    ),
    Field(
        "hint",
        "hint",
        "tells a workload that holds several identities which is which, such as internal.",
        lambda node: readers.read_text(node, readers.MAX_TEXT),
        _text_schema(readers.MAX_TEXT),
        default=lambda _: "",
    ),
)
