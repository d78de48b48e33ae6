"""The settings in words, for documentation and for reading: from the types themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from troth.server.settings import Settings


class Setting(NamedTuple):
    """One setting for documentation: its dotted name, type, default and meaning, in words."""

    name: str
    type: str
    default: str
    help: str


def name_environment(setting: str) -> str:
    """The environment variable that overrides `setting`: ``TROTH_LISTEN_PUBLIC`` and so on."""
    return "TROTH_" + setting.replace(".", "_").upper()


def describe_settings() -> list[Setting]:
    """Every setting, from the types themselves, in the order of the file."""
    return list(_describe(Settings, ""))


def _describe(struct: type[Struct], prefix: str) -> Iterator[Setting]:
    info: Any = msgspec.inspect.type_info(struct)
    words = _read_help(struct)  # once a table: the schema takes a millisecond
    for field in info.fields:
        kind: Any = field.type
        meta: dict[str, Any] = {}
        if isinstance(kind, msgspec.inspect.Metadata):
            kind, meta = kind.type, kind.extra or {}
        if isinstance(kind, msgspec.inspect.StructType):
            yield from _describe(kind.cls, f"{prefix}{field.name}.")
            continue
        default = meta.get("default") or _render(_default_of(field))
        yield Setting(prefix + field.name, _name_type(kind), default, words[field.name])


def _read_help(struct: type[Struct]) -> dict[str, str]:
    """The description of each field: msgspec's inspection drops it, its JSON Schema keeps it."""
    properties = msgspec.json.schema(struct)["$defs"][struct.__name__]["properties"]
    return {name: str(shape.get("description", "")) for name, shape in properties.items()}


def _default_of(field: Any) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _render(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _name_type(kind: Any) -> str:
    if isinstance(kind, msgspec.inspect.LiteralType):
        return " | ".join(str(value) for value in kind.values)
    if isinstance(kind, msgspec.inspect.DictType):
        return "table"
    if isinstance(kind, msgspec.inspect.ListType):
        return "tables"
    return _TYPES[type(kind).__name__]


_TYPES = {"BoolType": "boolean", "IntType": "integer", "FloatType": "number", "StrType": "text"}
