"""What is wrong with a manifest, and where: one problem a line, all of them at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from troth.core.ids import TrustDomain

Path = tuple[str | int, ...]
"""Where a value is inside its document: keys and indexes from the root."""

MAX_SHOWN = 80


class Severity(StrEnum):
    """An error stops the manifests from being applied, a warning doesn't."""

    ERROR = "error"
    WARNING = "warning"


class SourceDocument(Protocol):
    """One parsed document with its places, as `troth.wire.yaml.Document` has them."""

    @property
    def value(self) -> Any:
        """The plain value: JSON-like."""
        ...

    @property
    def source(self) -> str:
        """The file's name."""
        ...

    @property
    def line(self) -> int:
        """The first line of the document, from 1; 0 if unknown."""
        ...

    @property
    def positions(self) -> Mapping[Path, tuple[int, int]]:
        """Line and column of each path, from 1; empty if unknown."""
        ...


@dataclass(frozen=True, slots=True)
class PlainDocument:
    """A document that didn't come from a file, such as one submitted through the API."""

    value: Any
    source: str = ""
    line: int = 0
    positions: Mapping[Path, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend. `line` and `column` count from 1 and are 0 where unknown.

    `rule` names what was looked for, such as ``policy/unreachable``; empty for a plain problem of
    its severity. See `troth.core.manifest.report`.
    """

    source: str
    line: int
    column: int
    path: str
    message: str
    severity: Severity
    rule: str = ""

    def __str__(self) -> str:
        place = [self.source or "manifest"]
        place += [str(n) for n in (self.line, self.column) if n]
        where = f"{self.path}: " if self.path else ""
        return f"{':'.join(place)}: {self.severity.value}: {where}{self.message}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Ceilings and defaults of what a manifest may ask for; the server passes its own.

    `trust_domain` lets the length of the whole SPIFFE ID be checked before anything is sent.
    `reserved_dns_names` are the names, in lower case, by which clients reach the server itself: an
    identity that held one of them could pass for it. ``localhost`` and all below it always count.
    """

    x509_ceiling: timedelta = timedelta(hours=24)
    x509_default: timedelta = timedelta(hours=1)
    jwt_ceiling: timedelta = timedelta(hours=1)
    jwt_default: timedelta = timedelta(minutes=5)
    ttl_floor: timedelta = timedelta(seconds=1)
    lifetime_ceiling: timedelta = timedelta(days=3650)
    lifetime_default: timedelta = timedelta(days=365)
    documents: int = 100_000
    trust_domain: TrustDomain | None = None
    reserved_dns_names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Node:
    """A value inside a document, with what is needed to read it and to complain about it."""

    value: Any
    path: Path
    document: SourceDocument
    limits: Limits
    now: datetime
    problems: list[Problem]

    def child(self, key: str | int) -> Node:
        """The member or item at `key`, which must exist."""
        return replace(self, value=self.value[key], path=(*self.path, key))

    def section(self, name: str) -> Node:
        """The member at `name`, or an empty mapping in its place, so that defaults apply."""
        if self.value.get(name) is not None:
            return self.child(name)
        return replace(self, value={}, path=(*self.path, name))

    def failed_since(self, count: int) -> bool:
        """Whether an error was noted after the first `count` problems."""
        return any(one.severity is Severity.ERROR for one in self.problems[count:])

    def error(self, message: str, rule: str = "") -> None:
        """Note something that stops the manifests from being applied."""
        self.problems.append(self._problem(message, Severity.ERROR, rule))

    def warn(self, message: str, rule: str = "") -> None:
        """Note something that is legal and probably not meant."""
        self.problems.append(self._problem(message, Severity.WARNING, rule))

    def _problem(self, message: str, severity: Severity, rule: str) -> Problem:
        line, column = locate_path(self.document, self.path)
        shown = render_path(self.path)
        return Problem(self.document.source, line, column, shown, message, severity, rule)


def locate_path(document: SourceDocument, path: Path) -> tuple[int, int]:
    """Line and column of `path`, or of the nearest thing around it that has a place."""
    while path and path not in document.positions:
        path = path[:-1]
    return document.positions.get(path, (document.line, 0))


def render_path(path: Path) -> str:
    """``spec.selectors[0]``; keys come from outside and are cut and escaped."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part if part.isprintable() and part.isascii() else ascii(part)
            text += ("." if text else "") + plain[:MAX_SHOWN]
    return text


def show_value(value: object) -> str:
    """A value for a message: quoted, escaped and cut, since it comes from outside."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > 64:
        return "a huge number"
    if isinstance(value, str) and len(value) > MAX_SHOWN:
        value = value[: MAX_SHOWN - 3] + "..."
    return repr(value)


def suggest_word(word: str, known: Iterable[str]) -> str:
    """The known words, the most similar first in a question: a tail for a message."""
    names = list(known)
    close = difflib.get_close_matches(word[:MAX_SHOWN], names, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(names)}."
