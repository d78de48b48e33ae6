"""Manifests of kind Role: their fields, and what is wrong or doubtful in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from troth.core.errors import Invalid
from troth.core.manifest import reader
from troth.core.manifest.field import Field, list_schema, text_schema
from troth.core.manifest.kind import ManifestKind
from troth.core.manifest.problem import Limits, Node, show_value
from troth.policy.condition_manifest import MAX_PARTS, Scope, read_condition
from troth.policy.role import ANY_ACTION, Permission, Role, find_cycle

MAX_INCLUDES = 32
MAX_PERMISSIONS = 256
MAX_ACTIONS = 128
MAX_ACTION = 64
ACTION_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:/-]*"
"""All of it may stand in a scope-token (RFC 6749, section 3.3)."""


def read_action(node: Node) -> str:
    """The name of an action, which is a scope too."""
    return reader.read_pattern(
        node, ACTION_PATTERN, MAX_ACTION, "letters, digits and . _ : / -, such as 'invoices:read'"
    )


def _read_names(node: Node) -> tuple[str, ...]:
    names: tuple[str, ...] = reader.read_items(node, MAX_INCLUDES, reader.read_name)
    return names


def _read_permissions(node: Node) -> tuple[Permission, ...]:
    return reader.read_items(node, MAX_PERMISSIONS, _read_permission)


def _read_permission(node: Node) -> Permission:
    needed = {"resource", "actions"}
    if not isinstance(node.value, Mapping) or not (
        needed <= node.value.keys() <= {*needed, "when"}
    ):
        raise Invalid(
            "must be a mapping of 'resource' and 'actions', and perhaps 'when', such as "
            "{resource: payments, actions: [read]}."
        )
    resource = reader.read_name(node.child("resource"))
    inner = node.child("actions")
    actions: tuple[str, ...] = reader.read_items(inner, MAX_ACTIONS, _read_granted)
    if not inner.value:
        inner.error("must hold at least one action.")
    if ANY_ACTION in actions:
        inner.warn(
            f"every action of '{resource}', those that are added later too; name what is needed.",
            rule="policy/wildcard",
        )
    return Permission(resource, actions, _read_when(node))


def _read_when(node: Node) -> tuple[Any, ...]:
    return read_when(node.child("when")) if node.value.get("when") is not None else ()


def read_when(node: Node) -> tuple[Any, ...]:
    """A condition as it is written, once nothing in it is a mistake whatever is declared beside."""
    if node.value == []:
        raise Invalid("must hold at least one condition; leave it out for none.")
    read_condition(node, Scope(open=True))
    value = node.value
    return tuple(value) if isinstance(value, list) else (value,)


def condition_schema() -> dict[str, Any]:
    """The JSON Schema of a condition: what it speaks of is told by the parser."""
    one = {"type": "object", "minProperties": 1, "maxProperties": MAX_PARTS}
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_PARTS}]}


def _read_granted(node: Node) -> str:
    return ANY_ACTION if node.value == ANY_ACTION else read_action(node)


def _permissions_schema(_: Limits) -> dict[str, Any]:
    action = {"type": "string", "maxLength": MAX_ACTION, "pattern": rf"^(\*|{ACTION_PATTERN})$"}
    return list_schema(
        MAX_PERMISSIONS,
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["resource", "actions"],
            "properties": {
                "resource": text_schema(reader.MAX_NAME, reader.NAME_PATTERN)(Limits()),
                "actions": list_schema(MAX_ACTIONS, action, least=1),
                "when": condition_schema(),
            },
        },
    )


def names_schema(most: int) -> dict[str, Any]:
    """The JSON Schema of a list of names."""
    return list_schema(most, text_schema(reader.MAX_NAME, reader.NAME_PATTERN)(Limits()))


def make_role(node: Node, values: dict[str, Any]) -> Role:
    """The role of a document whose fields are read."""
    role = Role(**values)
    if not role.permissions and not role.includes:
        node.child("spec").warn("no permissions and no includes: who holds it may do nothing.")
    return role


def report_cycles(read: list[tuple[Node, Role]]) -> None:
    """An error where roles include each other in a ring."""
    ring = find_cycle({role.name: role for _, role in read})
    for node, role in read:
        if ring and role.name == ring[0]:
            node.child("spec").child("includes").error(
                f"{' → '.join(map(show_value, ring))}: roles that include each other are one role; "
                "remove an include."
            )


OWNER = Field(
    "owner",
    "owner",
    "who answers for it, such as payments@example.org.",
    lambda node: reader.read_text(node, reader.MAX_TEXT),
    text_schema(reader.MAX_TEXT),
    required=True,
)
PURPOSE = Field(
    "purpose",
    "purpose",
    "what it is for, in a sentence.",
    lambda node: reader.read_text(node, reader.MAX_PURPOSE),
    text_schema(reader.MAX_PURPOSE),
    required=True,
)

ROLE_SPEC = (
    OWNER,
    PURPOSE,
    Field(
        "includes",
        "includes",
        "names of roles whose permissions it holds too.",
        _read_names,
        lambda _: names_schema(MAX_INCLUDES),
        default=lambda _: (),
    ),
    Field(
        "permissions",
        "permissions",
        "actions on resources, such as {resource: payments, actions: [read]}; with `when`, on that "
        "condition.",
        _read_permissions,
        _permissions_schema,
        default=lambda _: (),
    ),
)

ROLE = ManifestKind("Role", ROLE_SPEC, make_role)
