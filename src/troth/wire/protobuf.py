"""Protocol Buffers message classes from a readable table, in a pool of their own.

Generated modules register what they hold in one pool for the whole process. A second copy of the
same `.proto` there, such as the one inside the PyPI package ``spiffe``, is an error; so what we
define stays private.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from troth.core.errors import Invalid

M = TypeVar("M", bound=Message)

_Proto = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Proto.TYPE_STRING,
    "bytes": _Proto.TYPE_BYTES,
}


class Shape(Enum):
    """How often a field's value occurs; a map is always keyed by strings here."""

    ONE = "one"
    MANY = "many"
    MAP = "map"


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `kind` is ``string``, ``bytes`` or the name of a message."""

    name: str
    number: int
    kind: str
    shape: Shape = Shape.ONE


def build_messages(
    file_name: str,
    messages: Mapping[str, tuple[Field, ...]],
    imports: Iterable[Any] = (),
) -> dict[str, type[Message]]:
    """Message classes (proto3, no package) by name; `imports` are descriptors of other files."""
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name=file_name, syntax="proto3")
    for imported in imports:
        pool.AddSerializedFile(imported.serialized_pb)
        file.dependency.append(imported.name)
    for name, fields in messages.items():
        _describe_message(file.message_type.add(name=name), fields)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in messages
    }


def parse_message(kind: type[M], data: bytes) -> M:
    """Decode `data`; raises `Invalid` if it isn't a message of this kind."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise Invalid(
            f"The request is not a well-formed {kind.DESCRIPTOR.name} message; "
            "generate the client from the published .proto file."
        ) from error


def _describe_message(target: descriptor_pb2.DescriptorProto, fields: tuple[Field, ...]) -> None:
    for field in fields:
        described = target.field.add(name=field.name, number=field.number)
        if field.shape is Shape.ONE:
            described.label = _Proto.LABEL_OPTIONAL
        else:
            described.label = _Proto.LABEL_REPEATED
        if field.shape is Shape.MAP:
            _describe_map_entry(target, field)
            described.type = _Proto.TYPE_MESSAGE
            described.type_name = f".{target.name}.{_entry_name(field)}"
        else:
            _set_kind(described, field.kind)


def _describe_map_entry(target: descriptor_pb2.DescriptorProto, field: Field) -> None:
    """A map is a repeated message of key and value (protobuf language guide, "Maps")."""
    entry = target.nested_type.add(name=_entry_name(field))
    entry.options.map_entry = True
    for number, (name, kind) in enumerate((("key", "string"), ("value", field.kind)), 1):
        described = entry.field.add(name=name, number=number, label=_Proto.LABEL_OPTIONAL)
        _set_kind(described, kind)


def _entry_name(field: Field) -> str:
    return "".join(part.capitalize() for part in field.name.split("_")) + "Entry"


def _set_kind(described: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        described.type = scalar
    else:
        described.type = _Proto.TYPE_MESSAGE
        described.type_name = f".{kind}"
