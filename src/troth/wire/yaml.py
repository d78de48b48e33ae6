"""YAML in: bytes to plain, JSON-like values, with the place of each value for error messages.

Only what manifests need is read: no aliases (a few bytes can unfold to gigabytes), no tags (they
name types of a programming language), no duplicate keys (readers disagree on which one counts),
no nesting beyond sense. Plain scalars follow the JSON grammar, as YAML 1.2's JSON schema does
(section 10.2), and everything else stays text: ``no`` is a text, so is ``2027-06-30``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from troth.core.errors import Invalid, TooLarge

MAX_BYTES = 1 << 20
MAX_DOCUMENTS = 1_000
MAX_DEPTH = 32
MAX_NODES = 100_000
MAX_SCALAR = 64 * 1024
_MAX_DIGITS = 18
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Path = tuple[str | int, ...]
"""Where a value is inside its document: keys and indexes from the root."""


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: its value, its file and the first line of its content.

    `positions` gives line and column, both counted from 1, for each path inside the document: of
    the key for a member of a mapping, of the item for a member of a list.
    """

    value: Any
    source: str
    line: int
    positions: Mapping[Path, tuple[int, int]]


@dataclass(slots=True)
class _Reading:
    """What is known while one stream is read."""

    source: str
    events: Iterator[Any]
    nodes: int = 0
    positions: dict[Path, tuple[int, int]] = field(default_factory=dict)


def load_documents(data: bytes, source: str) -> list[Document]:
    """Read a YAML stream; documents without content are left out.

    `source` is the file's name for messages. Raises `TooLarge` over a bound and `Invalid` for
    all else, both with ``source:line:column:`` and a sentence that says what to change.
    """
    if len(data) > MAX_BYTES:
        raise TooLarge(f"{source}: the file has more than {MAX_BYTES:,} bytes; split it.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Invalid(f"{source}:{line}: the file is not UTF-8; save it as UTF-8.") from None
    reading = _Reading(source, iter(yaml.parse(text, Loader=_LOADER)))
    try:
        return list(_read_stream(reading))
    except yaml.YAMLError as error:
        raise Invalid(_explain_error(error, source)) from None


def _read_stream(reading: _Reading) -> Iterator[Document]:
    count = 0
    for event in reading.events:
        if not isinstance(event, yaml.DocumentStartEvent):
            continue
        if event.tags:
            _fail(reading, event, "%TAG directives are not supported; remove them")
        count += 1
        if count > MAX_DOCUMENTS:
            _fail(reading, event, f"over {MAX_DOCUMENTS:,} documents; split the file", TooLarge)
        reading.positions = {}
        first = next(reading.events)
        line, column = _place(first)
        reading.positions[()] = (line, column)
        value = _read_node(reading, first, ())
        if value is not None:
            yield Document(value, reading.source, line, reading.positions)


def _read_node(reading: _Reading, event: Any, path: Path) -> Any:
    reading.nodes += 1
    if reading.nodes > MAX_NODES:
        _fail(reading, event, f"more than {MAX_NODES:,} values; split the file", TooLarge)
    if len(path) > MAX_DEPTH:
        _fail(reading, event, f"nested deeper than {MAX_DEPTH} levels; flatten it", TooLarge)
    if isinstance(event, yaml.AliasEvent):
        _fail(reading, event, f"the alias {_cut(event.anchor)} is not supported; repeat the value")
    if event.anchor is not None:
        _fail(reading, event, f"the anchor {_cut(event.anchor)} is not supported; remove it")
    if event.tag is not None:
        _fail(reading, event, f"the tag {_cut(event.tag)} is not supported; remove it")
    if isinstance(event, yaml.MappingStartEvent):
        return _read_mapping(reading, path)
    if isinstance(event, yaml.SequenceStartEvent):
        return _read_sequence(reading, path)
    return _read_scalar(reading, event)


def _read_mapping(reading: _Reading, path: Path) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    while not isinstance(event := next(reading.events), yaml.MappingEndEvent):
        if isinstance(event, yaml.CollectionStartEvent):
            _fail(reading, event, "a key must be a plain text, not a list or a mapping")
        _read_node(reading, event, path)  # the key obeys the same rules: no alias, no tag
        key: str = event.value
        if key in mapping:
            first = reading.positions[(*path, key)][0]
            _fail(reading, event, f"the key {_cut(key)} is there twice, first on line {first}")
        reading.positions[(*path, key)] = _place(event)
        mapping[key] = _read_node(reading, next(reading.events), (*path, key))
    return mapping


def _read_sequence(reading: _Reading, path: Path) -> list[Any]:
    items: list[Any] = []
    while not isinstance(event := next(reading.events), yaml.SequenceEndEvent):
        inner = (*path, len(items))
        reading.positions[inner] = _place(event)
        items.append(_read_node(reading, event, inner))
    return items


def _read_scalar(reading: _Reading, event: Any) -> Any:
    text: str = event.value
    if len(text) > MAX_SCALAR:
        _fail(reading, event, f"a text of over {MAX_SCALAR:,} characters; shorten it", TooLarge)
    if event.style:  # quoted or block: always text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if not _NUMBER.fullmatch(text):
        return text
    if _INTEGER.fullmatch(text):
        if len(text.lstrip("+-")) > _MAX_DIGITS:
            _fail(reading, event, "the number has too many digits; quote it if it is a text")
        return int(text)
    number = float(text)
    if not math.isfinite(number):
        _fail(reading, event, "the number is too large; quote it if it is a text")
    return number


def _fail(
    reading: _Reading, event: Any, message: str, kind: type[Invalid | TooLarge] = Invalid
) -> NoReturn:
    line, column = _place(event)
    raise kind(f"{reading.source}:{line}:{column}: {message}.")


def _place(event: Any) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1)


def _cut(text: str | None) -> str:
    return repr((text or "")[:60])


def _explain_error(error: yaml.YAMLError, source: str) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        reason = " ".join(part for part in (error.context, error.problem) if part)
        return f"{source}:{mark.line + 1}:{mark.column + 1}: not YAML: {reason}."
    if isinstance(error, yaml.reader.ReaderError):
        return f"{source}: a control character is in the file; remove it."
    return f"{source}: not YAML."
