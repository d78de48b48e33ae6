"""Questions: who wants to do what with which thing, one of them or many at once.

Source: AuthZEN 1.0, "Information Model", "Access Evaluation API", "Access Evaluations API".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from troth.core.errors import Invalid

MAX_BODY = 1 << 20
MAX_QUESTIONS = 256
"""Of one request: each is decided, and recorded."""
MAX_TYPE = 128
MAX_ID = 2048
"""Characters; a SPIFFE ID may have as many."""
MAX_ACTION = 256

TypeName = Annotated[str, Meta(max_length=MAX_TYPE)]
IdName = Annotated[str, Meta(max_length=MAX_ID)]
ActionName = Annotated[str, Meta(max_length=MAX_ACTION)]
Properties = dict[str, Any] | None
"""An optional object; null is taken for one that isn't there."""


class Entity(Struct, frozen=True):
    """A subject or a resource: one of a type, and what the point says of it."""

    type: TypeName
    id: IdName
    properties: Properties = None


class Action(Struct, frozen=True):
    """What is to be done, and how."""

    name: ActionName
    properties: Properties = None


class Question(Struct, frozen=True):
    """May the subject do the action with the resource, in this context?"""

    subject: Entity
    action: Action
    resource: Entity
    context: Properties = None


class Semantic(StrEnum):
    """Which of several questions are answered: all, or those up to the first that is denied, or
    permitted."""

    ALL = "execute_all"
    DENY = "deny_on_first_deny"
    PERMIT = "permit_on_first_permit"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one question of several, in a sentence; it counts as denied."""

    words: str


@dataclass(frozen=True, slots=True)
class Evaluations:
    """What one request asks. With `single` it asked one question, and gets one answer."""

    items: Sequence[Question | Fault]
    semantic: Semantic = Semantic.ALL
    single: bool = False


class _Part(Struct, frozen=True):
    """A subject or resource, as far as an item or the defaults say."""

    type: TypeName | None = None
    id: IdName | None = None
    properties: Properties = None


class _ActionPart(Struct, frozen=True):
    name: ActionName | None = None
    properties: Properties = None


class _Item(Struct, frozen=True):
    subject: _Part | None = None
    action: _ActionPart | None = None
    resource: _Part | None = None
    context: Properties = None


class _Options(Struct, frozen=True):
    evaluations_semantic: Semantic | None = None


class _Batch(_Item, frozen=True):
    evaluations: list[msgspec.Raw] | None = None
    options: _Options | None = None


Read = TypeVar("Read")

_question = msgspec.json.Decoder(Question)
_batch = msgspec.json.Decoder(_Batch)
_item = msgspec.json.Decoder(_Item)


def parse_evaluation(body: bytes) -> Evaluations:
    """The one question of an Access Evaluation request; `Invalid` if it is none."""
    return Evaluations((read_json(body, _question.decode),), single=True)


def parse_evaluations(body: bytes) -> Evaluations:
    """The questions of an Access Evaluations request; without any, the one that it is itself.

    What is wrong with one of several is its own `Fault`; `Invalid` is for the request as a whole.
    """
    batch = read_json(body, _batch.decode)
    if not batch.evaluations:
        return parse_evaluation(body)
    if len(batch.evaluations) > MAX_QUESTIONS:
        raise Invalid(
            f"There are {len(batch.evaluations)} evaluations; ask at most {MAX_QUESTIONS} at once."
        )
    semantic = batch.options.evaluations_semantic if batch.options else None
    items = [_read_item(raw, batch) for raw in batch.evaluations]
    return Evaluations(items, semantic or Semantic.ALL)


def _read_item(raw: msgspec.Raw, batch: _Batch) -> Question | Fault:
    try:
        item = _item.decode(raw)
    except msgspec.ValidationError as error:
        return Fault(describe_fault(error))
    subject = _complete(item.subject, batch.subject, "subject")
    action = item.action or batch.action
    resource = _complete(item.resource, batch.resource, "resource")
    if isinstance(subject, Fault):
        return subject
    if isinstance(resource, Fault):
        return resource
    if action is None:
        return _miss("action")
    name = action.name
    if name is None and batch.action is not None:
        name = batch.action.name
    if name is None:
        return _miss("action.name")
    context = batch.context if item.context is None else item.context
    return Question(subject, Action(name, action.properties), resource, context)


def _complete(own: _Part | None, default: _Part | None, name: str) -> Entity | Fault:
    """An item's own value replaces the default; but for its type and id where it has none."""
    part = own or default
    if part is None:
        return _miss(name)
    type_, id_ = part.type, part.id
    if default is not None:
        type_ = default.type if type_ is None else type_
        id_ = default.id if id_ is None else id_
    if type_ is None or id_ is None:
        return _miss(f"{name}.{'type' if type_ is None else 'id'}")
    return Entity(type_, id_, part.properties)


def _miss(name: str) -> Fault:
    return Fault(f"The member {name!r} is missing, and there is no default for it.")


def read_json(body: bytes, decode: Callable[[bytes], Read]) -> Read:
    """What `decode` makes of a body; `Invalid` for one that is no JSON, has a member twice or isn't
    as its type says. Its nesting must have been looked at before."""
    if not body:
        raise Invalid("The body is empty; it must be a JSON object.")
    try:
        found = decode(body)
        if count_members(found) != len(_MEMBER.findall(body)):
            refuse_duplicates(body)
        return found
    except msgspec.ValidationError as error:
        raise Invalid(describe_fault(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid("The body is not JSON in UTF-8.") from error
    except RecursionError as error:
        raise Invalid("The body is nested too deep.") from error


def describe_fault(error: msgspec.ValidationError) -> str:
    """What is wrong, in msgspec's words: they name the place, and nothing of ours."""
    return f"The request isn't as AuthZEN 1.0 has it: {str(error)[:300]}."


_MEMBER = re.compile(rb'"[ \t\n\r]*:')
"""How a member's name ends; a text may have the same in it."""


def count_members(value: object) -> int:
    """How many members there are in all that was kept of a JSON value, at any depth.

    A body that has just as many ends of names has none twice: only where it has more must somebody
    look closer, which takes much longer.
    """
    inner: Collection[object]
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, Struct):
        inner = [one for name in value.__struct_fields__ if (one := getattr(value, name))]
    elif isinstance(value, list):
        return sum(map(count_members, value))
    else:
        return 0
    count = len(inner)
    for one in inner:
        if type(one) is not str:
            count += count_members(one)
    return count


def refuse_duplicates(body: bytes) -> None:
    """Raise `Invalid` where a member is there twice: parsers differ in which one they take, and so
    would those who read what was asked (RFC 8259, section 4)."""
    json.loads(body, object_pairs_hook=_check_pairs, parse_int=str, parse_float=str)


def _check_pairs(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({name for name, _ in pairs}) != len(pairs):
        raise Invalid("The body has a member twice; give it once.")
