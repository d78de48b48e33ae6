"""Fields of manifests: one table for each kind that parsing, JSON Schema and the docs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from troth.core.errors import Invalid
from troth.core.manifest import reader
from troth.core.manifest.problem import Limits, Node, show_value, suggest_word

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
            values.update(read_members(node.section(field.name), field.members))
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


def _report_unknown(node: Node, known: list[str]) -> None:
    unknown = [key for key in node.value if key not in known]
    for key in unknown[:MAX_REPORTED]:
        if isinstance(key, str):
            node.child(key).error(f"unknown field; {suggest_word(key, known)}")
        else:
            node.error(f"the key {show_value(key)} must be a text.")
    if len(unknown) > MAX_REPORTED:
        node.error(f"{len(unknown) - MAX_REPORTED} more unknown fields.")


def text_schema(longest: int, pattern: str = "") -> Callable[[Limits], dict[str, Any]]:
    """The JSON Schema of a text of 1 to `longest` characters that matches `pattern`."""
    shape: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": longest}
    if pattern:
        shape["pattern"] = f"^({pattern})$"
    return lambda _: dict(shape)


def list_schema(most: int, item: dict[str, Any], least: int = 0) -> dict[str, Any]:
    """The JSON Schema of a list without duplicates."""
    shape = {"type": "array", "items": item, "maxItems": most, "uniqueItems": True}
    return {**shape, "minItems": least} if least else shape


def _labels_schema(_: Limits) -> dict[str, Any]:
    return {
        "type": "object",
        "maxProperties": reader.MAX_LABELS,
        "propertyNames": {"pattern": f"^({reader.LABEL_KEY_PATTERN})$"},
        "additionalProperties": {
            "type": "string",
            "maxLength": reader.MAX_LABEL_PART,
            "pattern": f"^({reader.LABEL_VALUE_PATTERN})$",
        },
    }


METADATA = (
    Field(
        "name",
        "name",
        "the name that people use; unique, lower case, such as payments-api.",
        reader.read_name,
        text_schema(reader.MAX_NAME, reader.NAME_PATTERN),
        required=True,
    ),
    Field(
        "labels",
        "labels",
        "free labels for search and policy, such as {env: prod}.",
        reader.read_labels,
        _labels_schema,
        default=lambda _: {},
    ),
)
