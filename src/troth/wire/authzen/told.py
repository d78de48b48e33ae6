"""What a point tells of a request, as facts by group and key: the shape that rules read.

A value of the wrong kind is left out, and so is unknown: that never permits anything. The time is
never told: it is read from the clock of whoever decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from troth.core.address import Address, read_address
from troth.wire.authzen.question import Question

Told = dict[str, dict[str, Any]]
Describe = Callable[[Address], Mapping[str, str]]
_GROUPS = ("resource", "action", "request", "task", "delegation")

MAX_TEXT = 2048
MAX_TEXTS = 256
MOST_ACTORS = 1 << 31
TRANSPORTS = frozenset(("plain", "tls", "mtls"))
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}")
_HOST = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?"
)
_PATH = re.compile(r"/|(?:/(?!\.{1,2}(?:/|$))(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2})+)+/?")
_ESCAPED = re.compile(r"%([0-9A-F]{2})")
_NEEDLESS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/\\\0")
"""What no path has escaped that is written in the one way: else one path would have two forms."""


class LazyTold(Mapping[str, Mapping[str, Any]]):
    """What `read_told` gives, read once somebody asks for it: most rules ask for nothing, and then
    to read it would take longer than to decide. `describe` adds what is known of an address."""

    __slots__ = ("_describe", "_question", "_told")

    def __init__(self, question: Question, describe: Describe | None = None) -> None:
        self._question = question
        self._describe = describe
        self._told: Told | None = None

    def get(self, group: str, default: Any = None) -> Any:
        """The facts of a group; `default` if nothing is told of it."""
        if self._told is None and group == "request" and not self._question.subject.properties:
            context = self._question.context
            return LazyRequest(context, self._describe) if context else default
        told = self._told
        if told is None:
            told = self._told = read_told(self._question, self._describe)
        return told.get(group, default)

    def __getitem__(self, group: str) -> Mapping[str, Any]:
        found = self.get(group)
        if found is None:
            raise KeyError(group)
        facts: Mapping[str, Any] = found
        return facts

    def __iter__(self) -> Iterator[str]:
        return (group for group in _GROUPS if self.get(group))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class LazyRequest(Mapping[str, Any]):
    """The facts of group ``request`` in a context, each read when it is asked for."""

    __slots__ = ("_context", "_describe")

    def __init__(self, context: Mapping[str, Any], describe: Describe | None) -> None:
        self._context = context
        self._describe = describe

    def get(self, name: str, default: Any = None) -> Any:
        """One fact; `default` if it isn't told, or not in a form that counts."""
        read = _REQUEST.get(name)
        if read is not None:
            value = read(self._context[name]) if name in self._context else None
        elif self._describe is not None and name in _DESCRIBED:
            address = _read_address(self._context.get("ip"))
            value = None if address is None else self._describe(address).get(name)
        else:
            value = None
        return default if value is None else value

    def __getitem__(self, name: str) -> Any:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name in (*_REQUEST, *_DESCRIBED) if self.get(name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


_DESCRIBED = ("country", "network")


def read_told(question: Question, describe: Describe | None = None) -> Told:
    """The facts that a question tells, by group; with those that `describe` has of the address that
    the request came from."""
    told: Told = {}
    if question.resource.properties:
        told["resource"] = keep_values(question.resource.properties)
    if question.action.properties:
        told["action"] = keep_values(question.action.properties)
    context = question.context
    if context:
        request = _read_request(context)
        if request:
            told["request"] = request
        for group, read in (("task", _read_task), ("delegation", _read_delegation)):
            value = context.get(group)
            if type(value) is dict and (facts := read(value)):
                told[group] = facts
    properties = question.subject.properties
    if properties and "ip_address" in properties:
        _add_address(told, properties["ip_address"])
    address = told.get("request", {}).get("ip")
    if describe is not None and address is not None:
        told["request"] |= describe(address)
    return told


def keep_values(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Those that can be facts: texts, whole numbers, truths, and lists of texts as tuples."""
    kept: dict[str, Any] = {}
    for name, value in properties.items():
        kind = type(value)
        if kind is str or kind is bool or kind is int:
            kept[name] = value
        elif kind is list and (texts := _read_texts(value)) is not None:
            kept[name] = texts
    return kept


def _read_address(value: object) -> Address | None:
    """An address that means the same everywhere; None for any other."""
    return read_address(value) if type(value) is str and "%" not in value else None


def read_path(value: object) -> str | None:
    """A path that is written in the one way; None for any other, with ``//``, ``/../`` or
    ``%2e`` in it: who enforces and who decides might see two things in those."""
    if type(value) is not str or len(value) > MAX_TEXT or not _PATH.fullmatch(value):
        return None
    if any(int(code, 16) in _NEEDLESS for code in _ESCAPED.findall(value)):
        return None
    return value


def _add_address(told: Told, value: object) -> None:
    """The subject's address stands for the request's where that isn't told."""
    request = told.get("request", {})
    if "ip" not in request and (address := _read_address(value)) is not None:
        told["request"] = {**request, "ip": address}


def _read_request(context: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, read in _REQUEST.items()
        if name in context and (value := read(context[name])) is not None
    }


def _read_truth(value: object) -> bool | None:
    return value if type(value) is bool else None


def _read_method(value: object) -> str | None:
    return value if type(value) is str and _METHOD.fullmatch(value) else None


def _read_host(value: object) -> str | None:
    if type(value) is not str or len(value) > 260 or not _HOST.fullmatch(value):
        return None
    return value.lower()


def _read_transport(value: object) -> str | None:
    return value if type(value) is str and value in TRANSPORTS else None


def _read_texts(value: object) -> tuple[str, ...] | None:
    if type(value) is not list or len(value) > MAX_TEXTS:
        return None
    return tuple(value) if all(type(one) is str for one in value) else None


def _read_words(value: object) -> tuple[str, ...] | None:
    """A list of texts, or one text (`aud` of a token may be either)."""
    return (value,) if type(value) is str else _read_texts(value)


def _read_scopes(value: object) -> tuple[str, ...] | None:
    """A list of texts, or words with blanks between them (RFC 6749, section 3.3)."""
    if type(value) is str:
        words = value.split(" ")
        return tuple(words) if all(words) and len(words) <= MAX_TEXTS else None
    return _read_texts(value)


_REQUEST: Mapping[str, Any] = {
    "ip": _read_address,
    "method": _read_method,
    "path": read_path,
    "host": _read_host,
    "transport": _read_transport,
    "bound": _read_truth,
    "audience": _read_words,
    "scopes": _read_scopes,
}
"""Members of a context that are facts of the request. Its country and its kind of network are found
out from its address by who decides, and can't be told; nor can its time."""


def _read_task(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: text
        for name in ("id", "purpose")
        if type(text := value.get(name)) is str and len(text) <= MAX_TEXT
    }


def _read_delegation(value: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    depth = value.get("depth")
    if type(depth) is int and 0 <= depth <= MOST_ACTORS:
        found["depth"] = depth
    actors = _read_texts(value.get("actors"))
    if actors is not None:
        found["actors"] = actors
    return found
