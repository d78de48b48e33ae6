"""The part of a Resource's manifest that says how it is protected: what questions are about it,
what conditions may ask about it, and how it looks over HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from troth.core.errors import Invalid
from troth.core.glob import ANY
from troth.core.manifest import reader
from troth.core.manifest.field import Field, list_schema, text_schema
from troth.core.manifest.problem import Node, show_value, suggest_word
from troth.core.tier import Tier
from troth.policy.condition_manifest import MOST
from troth.policy.fact import BY_NAME, SENSITIVITY, FactKind
from troth.policy.resource import HttpRoute, Instance

MAX_ATTRIBUTES = 64
MAX_INSTANCES = 10_000
MAX_ID = 512
MAX_ROUTES = 256
MAX_HOSTS = 32
MAX_AUDIENCES = 32
TYPE_PATTERN = r"[A-Za-z][A-Za-z0-9._-]*"
ATTRIBUTE_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*"
HOST_PATTERN = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")
IDENTIFIER = "{id}"
"""What stands in a route's path for the segment that says which one."""

KINDS = (FactKind.TEXT, FactKind.NUMBER, FactKind.BOOLEAN, FactKind.TEXTS)
_SEGMENT = re.compile(r"\*{1,2}|\{id\}|(?:[A-Za-z0-9._~!$&'()+,;=:@-]|%[0-9A-Fa-f]{2})+")


def _read_type(node: Node) -> str:
    text = reader.read_pattern(node, TYPE_PATTERN, 64, "letters, digits and . _ -, such as 'todo'")
    if text in ("identity", "role", "type") or text.startswith("troth"):
        raise Invalid(f"the type {show_value(text)} is troth's own; choose another.")
    return text


def _read_glob(node: Node) -> str:
    return reader.read_text(node, MAX_ID)


def _read_choice(node: Node, known: tuple[str, ...]) -> str:
    if not isinstance(node.value, str) or node.value not in known:
        tail = suggest_word(node.value if isinstance(node.value, str) else "", known)
        raise Invalid(f"{show_value(node.value)} is unknown; {tail}")
    return node.value


def _read_attributes(group: str) -> Any:
    taken = {fact.key for fact in BY_NAME.values() if fact.group == group} | {"labels"}

    def read(node: Node) -> dict[str, FactKind]:
        if not isinstance(node.value, Mapping) or len(node.value) > MAX_ATTRIBUTES:
            raise Invalid(
                f"must be a mapping of at most {MAX_ATTRIBUTES} names to kinds, such as "
                "{status: text}."
            )
        found: dict[str, FactKind] = {}
        for name in node.value:
            inner = node.child(name)
            if not isinstance(name, str) or not re.fullmatch(ATTRIBUTE_PATTERN, name, re.ASCII):
                node.error(f"the name {show_value(name)} must be letters, digits and '_'.")
            elif name in taken:
                inner.error(f"{group}.{name} is a fact already; choose another name.")
            else:
                try:
                    found[name] = FactKind(_read_choice(inner, tuple(KINDS)))
                except Invalid as error:
                    inner.error(error.detail)
        return found

    return read


def _read_instances(node: Node) -> tuple[Instance, ...]:
    if not isinstance(node.value, list) or len(node.value) > MAX_INSTANCES:
        raise Invalid(f"must be a list of at most {MAX_INSTANCES:,} instances.")
    found: dict[str, Instance] = {}
    for number in range(len(node.value)):
        inner = node.child(number)
        try:
            one = _read_instance(inner)
        except Invalid as error:
            inner.error(error.detail)
            continue
        if one.id in found:
            inner.error(f"{show_value(one.id)} is in the list twice; remove one.")
        found[one.id] = one
    return tuple(found.values())


def _read_instance(node: Node) -> Instance:
    value = node.value
    if isinstance(value, str):
        return Instance(reader.read_text(node, MAX_ID))
    if not isinstance(value, Mapping) or not {"id"} <= value.keys() <= {
        "id",
        "properties",
        "roles",
    }:
        raise Invalid("must be a mapping of 'id', 'properties' and 'roles', or only an id.")
    properties = value.get("properties") or {}
    if not isinstance(properties, Mapping) or len(properties) > MAX_ATTRIBUTES:
        raise Invalid(f"'properties' must be a mapping of at most {MAX_ATTRIBUTES}.")
    roles: tuple[str, ...] = ()
    if value.get("roles") is not None:
        roles = reader.read_items(node.child("roles"), 64, reader.read_name)
    return Instance(reader.read_text(node.child("id"), MAX_ID), dict(properties), roles)


def check_property(value: object, kind: FactKind) -> Any:
    """A property's value as the fact of that kind; None if it isn't one."""
    if kind is FactKind.TEXT:
        return value if isinstance(value, str) else None
    if kind is FactKind.BOOLEAN:
        return value if isinstance(value, bool) else None
    if kind is FactKind.NUMBER:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole and abs(value) <= MOST else None  # type: ignore[arg-type]
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return tuple(value)
    return None


def report_properties(node: Node, instances: tuple[Instance, ...], kinds: Any) -> None:
    """An error for each property of an instance that isn't as the attributes say."""
    for one in instances:
        for name, value in one.properties.items():
            kind = kinds.get(name)
            if kind is None:
                node.error(f"instance {show_value(one.id)}: no attribute {show_value(name)}.")
            elif check_property(value, kind) is None:
                node.error(f"instance {show_value(one.id)}: {name} must be {kind.value}.")


def _read_audience(node: Node) -> str:
    return reader.read_text(node, MAX_ID)


def _read_host(node: Node) -> str:
    return reader.read_pattern(node, HOST_PATTERN, 260, "a host name in lower case")


def _read_routes(node: Node) -> tuple[HttpRoute, ...]:
    return reader.read_items(node, MAX_ROUTES, _read_route)


def _read_route(node: Node) -> HttpRoute:
    value = node.value
    if not isinstance(value, Mapping) or not {"action", "path"} <= value.keys() <= {
        "action",
        "path",
        "methods",
    }:
        raise Invalid(
            "must be a mapping of 'action', 'path' and perhaps 'methods', such as "
            "{action: read, path: '/orders/{id}', methods: [GET]}."
        )
    path = reader.read_text(node.child("path"), MAX_ID)
    check_route_path(path)
    methods: tuple[str, ...] = ()
    if value.get("methods") is not None:
        methods = reader.read_items(
            node.child("methods"), len(METHODS), lambda one: _read_choice(one, METHODS)
        )
    return HttpRoute(reader.read_text(node.child("action"), 64), path, methods)


def check_route_path(path: str) -> None:
    """Raise `Invalid` unless a route can have this path."""
    parts = path.split("/")
    sound = path.startswith("/") and (
        path == "/" or all(_SEGMENT.fullmatch(part) for part in parts[1:])
    )
    if not sound or path.count(IDENTIFIER) > 1 or "**" in parts[:-1]:
        raise Invalid(
            f"{show_value(path)} must be a path such as '/orders/{{id}}/lines', with '*' for a "
            "segment, at most one '{id}', and '**' at the end alone for all that follows."
        )
    if any(part in (".", "..") for part in parts):
        raise Invalid("must have no '.' or '..' segment: no request that has one gets here.")


PROTECTION = (
    Field(
        "type",
        "type",
        "the type of what it holds, as questions name it; its own name if not given.",
        _read_type,
        text_schema(64, TYPE_PATTERN),
        default=lambda _: "",
    ),
    Field(
        "pattern",
        "pattern",
        "which ids of that type are its own; '*' stands for any characters.",
        _read_glob,
        text_schema(MAX_ID),
        default=lambda _: ANY,
    ),
    Field(
        "environment",
        "environment",
        "where it belongs, such as prod: identities of other environments don't reach it.",
        lambda node: reader.read_pattern(
            node, reader.WORD_PATTERN, reader.MAX_NAME, "a word such as 'prod'"
        ),
        text_schema(reader.MAX_NAME, reader.WORD_PATTERN),
        default=lambda _: "",
    ),
    Field(
        "sensitivity",
        "sensitivity",
        f"how much it matters: {', '.join(SENSITIVITY)}; medium if not given. What changes access "
        "to critical ones waits for a second person.",
        lambda node: _read_choice(node, SENSITIVITY),
        lambda _: {"enum": list(SENSITIVITY)},
        default=lambda _: "medium",
    ),
    Field(
        "minimumTier",
        "minimum_tier",
        f"the trust tier that it takes: {', '.join(Tier)}; low if not given.",
        lambda node: Tier(_read_choice(node, tuple(Tier))),
        lambda _: {"enum": [*Tier]},
        default=lambda _: Tier.LOW,
    ),
    Field(
        "audiences",
        "audiences",
        "the audiences of which a request's token must have one; its identifiers if not given.",
        lambda node: reader.read_items(node, MAX_AUDIENCES, _read_audience),
        lambda _: list_schema(MAX_AUDIENCES, {"type": "string", "maxLength": MAX_ID}),
        default=lambda _: (),
    ),
    Field(
        "attributes",
        "attributes",
        f"what is known of one of its type: names to kinds ({', '.join(KINDS)}).",
        _read_attributes("resource"),
        lambda _: _attributes_schema(),
        default=lambda _: {},
    ),
    Field(
        "actionAttributes",
        "action_attributes",
        "what is known of an action besides its name: names to kinds.",
        _read_attributes("action"),
        lambda _: _attributes_schema(),
        default=lambda _: {},
    ),
    Field(
        "instances",
        "instances",
        "those of its type that are known by name: {id, properties, roles}; searches find them, "
        "and questions may have them as their subject.",
        _read_instances,
        lambda _: {"type": "array", "maxItems": MAX_INSTANCES},
        default=lambda _: (),
    ),
    Field(
        "hosts",
        "hosts",
        "the hosts at which proxies meet it; none: any.",
        lambda node: reader.read_items(node, MAX_HOSTS, _read_host),
        lambda _: list_schema(MAX_HOSTS, text_schema(260, HOST_PATTERN)(_)),
        default=lambda _: (),
    ),
    Field(
        "routes",
        "routes",
        "requests that are actions: {action, path, methods}; the first that fits counts.",
        _read_routes,
        lambda _: {"type": "array", "maxItems": MAX_ROUTES, "items": {"type": "object"}},
        default=lambda _: (),
    ),
)


def _attributes_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "maxProperties": MAX_ATTRIBUTES,
        "propertyNames": {"pattern": f"^({ATTRIBUTE_PATTERN})$"},
        "additionalProperties": {"enum": [*KINDS]},
    }
