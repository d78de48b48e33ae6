"""Conditions as manifests write them: read, with each mistake told at its own place.

A mapping holds if all of its members do, and so does a list; ``any``, ``all`` and ``not`` put
others together; every other member is a fact and what it must be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time
from ipaddress import ip_network
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from troth.core.errors import Invalid
from troth.core.glob import ANY
from troth.core.manifest import reader
from troth.core.manifest.problem import Node, show_value, suggest_word
from troth.policy.condition import (
    Condition,
    Network,
    Not,
    Operator,
    Test,
    every,
    one_of,
)
from troth.policy.fact import (
    ATTRIBUTED,
    BY_NAME,
    LABELLED,
    LABELS,
    SOURCE,
    Fact,
    FactKind,
    attribute_fact,
    label_fact,
)
from troth.policy.window import DAYS, Window, find_zone

MAX_DEPTH = 16
MAX_PARTS = 64
MAX_VALUES = 256
MAX_VALUE = 512
MOST = 2**63 - 1
SEGMENT = "request.segment"
"""Not a fact of its own: the networks of a declared segment, by its name."""

Find = Callable[[str, str], FactKind | None]
"""The kind of an attribute by group and key; None if nobody declared it."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What names in conditions mean: the kinds of declared attributes, and segments' networks.

    Where a scope is `open`, attributes and segments may be declared elsewhere; with
    `open_segments`, segments alone.
    """

    attributes: Mapping[tuple[str, str], FactKind] = field(default_factory=dict)
    segments: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)
    open: bool = False
    open_segments: bool = False


def read_condition(node: Node, scope: Scope, depth: int = 0) -> Condition:
    """The condition at `node`, mistakes noted; what couldn't be read is left out."""
    if depth > MAX_DEPTH:
        node.error(f"conditions are nested more than {MAX_DEPTH} deep; use fewer levels.")
        return every(())
    if isinstance(node.value, list):
        return every(_read_parts(node, scope, depth))
    if not isinstance(node.value, Mapping):
        node.error(
            f"must be a mapping of facts, such as {{trust.score: {{atLeast: 60}}}}, not "
            f"{show_value(node.value)}."
        )
        return every(())
    if not node.value or len(node.value) > MAX_PARTS:
        node.error(f"must hold 1 to {MAX_PARTS} facts; it has {len(node.value)}.")
        return every(())
    return every(_read_member(node, name, scope, depth) for name in node.value)


def _read_parts(node: Node, scope: Scope, depth: int) -> tuple[Condition, ...]:
    if not 1 <= len(node.value) <= MAX_PARTS:
        node.error(f"must have 1 to {MAX_PARTS} entries; it has {len(node.value)}.")
        return ()
    return tuple(
        read_condition(node.child(number), scope, depth + 1) for number in range(len(node.value))
    )


def _read_member(node: Node, name: object, scope: Scope, depth: int) -> Condition:
    if not isinstance(name, str):
        node.error(f"the key {show_value(name)} must be a text.")
        return every(())
    inner = node.child(name)
    if name in ("all", "any"):
        if not isinstance(inner.value, list) or not inner.value:
            inner.error("must be a list of conditions, with at least one.")
            return every(())
        return (every if name == "all" else one_of)(_read_parts(inner, scope, depth))
    if name == "not":
        return Not(read_condition(inner, scope, depth + 1))
    try:
        return _read_tests(inner, name, scope)
    except Invalid as error:
        inner.error(error.detail)
        return every(())


def _read_tests(node: Node, name: str, scope: Scope) -> Condition:
    if name == SEGMENT:
        return _read_segments(node, scope)
    fact = find_fact(name, scope, node.value)
    if fact.kind is FactKind.TIME:
        return _read_windows(node, fact)
    if not isinstance(node.value, Mapping):
        return _PLAIN[fact.kind](node, fact, scope)
    if not node.value:
        raise Invalid("must say what it must be, such as {is: prod}.")
    return every(_read_operator(node, word, fact, scope) for word in node.value)


def find_fact(name: str, scope: Scope, value: object = None) -> Fact:
    """The fact of that name; `Invalid` if there is none. In an open scope an attribute's kind is
    guessed from the `value` that it is compared with."""
    known = BY_NAME.get(name)
    if known is not None:
        return known
    group, _, key = name.partition(".")
    if group in LABELLED and key.startswith(LABELS):
        return label_fact(group, reader.check_label_key(key.removeprefix(LABELS)))
    kind = scope.attributes.get((group, key))
    if kind is None and scope.open and group in ATTRIBUTED and key:
        kind = _guess_kind(value)
    if kind is not None:
        return attribute_fact(group, key, kind)
    if group in ATTRIBUTED and key:
        declared = sorted(f"{g}.{k}" for g, k in scope.attributes if g == group)
        what = "attributes" if group != "action" else "actionAttributes"
        tail = suggest_word(name, [*declared, *(n for n in BY_NAME if n.startswith(group))])
        raise Invalid(f"no {what} of the resource declare '{key[:80]}'; {tail}")
    raise Invalid(f"the fact {show_value(name)} is unknown; {suggest_word(name, BY_NAME)}")


def _guess_kind(value: object) -> FactKind:
    while isinstance(value, Mapping) and value:
        word, value = next(iter(value.items()))
        if word in ("contains", "containsAny"):
            return FactKind.TEXTS
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, bool):
        return FactKind.BOOLEAN
    return FactKind.NUMBER if isinstance(value, int) else FactKind.TEXT


# One operator


def _read_operator(node: Node, word: object, fact: Fact, scope: Scope) -> Condition:
    known = _OPERATORS[fact.kind]
    if not isinstance(word, str) or word not in (*known, *_COMMON):
        ordered = () if fact.order or fact.kind is FactKind.NUMBER else ("atLeast", "atMost")
        words = [one for one in (*known, *_COMMON) if one not in ordered]
        raise Invalid(
            f"{fact.name} can't be compared by {show_value(word)}; "
            f"{suggest_word(word if isinstance(word, str) else '', words)}"
        )
    inner = node.child(word)
    try:
        return (known.get(word) or _COMMON[word])(inner, fact, scope)
    except Invalid as error:
        inner.error(error.detail)
        return every(())


def _read_is(node: Node, fact: Fact, scope: Scope) -> Condition:
    if isinstance(node.value, list):
        return _read_in(node, fact, scope)
    return Test(fact, Operator.IN, (_read_value(node, fact),))


def _read_in(node: Node, fact: Fact, scope: Scope) -> Condition:
    return Test(fact, Operator.IN, _read_values(node, fact))


def _negate(read: Callable[[Node, Fact, Scope], Condition]) -> Any:
    return lambda node, fact, scope: Not(read(node, fact, scope))


def _read_at_least(node: Node, fact: Fact, scope: Scope) -> Condition:
    return _read_bound(node, fact, Operator.AT_LEAST)


def _read_at_most(node: Node, fact: Fact, scope: Scope) -> Condition:
    return _read_bound(node, fact, Operator.AT_MOST)


def _read_bound(node: Node, fact: Fact, operator: Operator) -> Condition:
    value = _read_value(node, fact)
    if not fact.order:
        if fact.kind is not FactKind.NUMBER:
            raise Invalid(f"{fact.name} has no order; use 'is' or 'in'.")
        return Test(fact, operator, (value,))
    at = fact.order.index(str(value))
    least = operator is Operator.AT_LEAST
    sign = "≥" if least else "≤"
    values = fact.order[at:] if least else fact.order[at::-1]
    return Test(fact, Operator.IN, values, words=f"{fact.name} {sign} {value}")


def _read_above(node: Node, fact: Fact, scope: Scope) -> Condition:
    return Not(Test(fact, Operator.AT_MOST, (_read_value(node, fact),)))


def _read_below(node: Node, fact: Fact, scope: Scope) -> Condition:
    return Not(Test(fact, Operator.AT_LEAST, (_read_value(node, fact),)))


def _read_like(node: Node, fact: Fact, scope: Scope) -> Condition:
    return Test(fact, Operator.LIKE, _read_values(node, fact))


def _read_start(node: Node, fact: Fact, scope: Scope) -> Condition:
    texts = (_refuse_star(value) for value in _read_values(node, fact))
    return Test(fact, Operator.LIKE, tuple(f"{text}{ANY}" for text in texts))


def _read_end(node: Node, fact: Fact, scope: Scope) -> Condition:
    texts = (_refuse_star(value) for value in _read_values(node, fact))
    return Test(fact, Operator.LIKE, tuple(f"{ANY}{text}" for text in texts))


def _refuse_star(text: str) -> str:
    if ANY in text:
        raise Invalid("must have no '*'; use 'like' for patterns.")
    return text


def _read_contains(node: Node, fact: Fact, scope: Scope) -> Condition:
    return Test(fact, Operator.CONTAINS, _read_values(node, fact))


def _read_meets(node: Node, fact: Fact, scope: Scope) -> Condition:
    return Test(fact, Operator.MEETS, _read_values(node, fact))


def _read_same(node: Node, fact: Fact, scope: Scope) -> Condition:
    name = reader.read_text(node, MAX_VALUE)
    other = find_fact(name, scope)
    if other == fact:
        raise Invalid("compares a fact with itself.")
    if other.kind is not fact.kind:
        if not scope.open:
            raise Invalid(
                f"{other.name} is {other.kind.value} and {fact.name} is {fact.kind.value}."
            )
        other = replace(other, kind=fact.kind)
    return Test(fact, Operator.SAME, other=other)


def _read_known(node: Node, fact: Fact, scope: Scope) -> Condition:
    if not isinstance(node.value, bool):
        raise Invalid(f"must be true or false, not {show_value(node.value)}.")
    known = Test(fact, Operator.KNOWN)
    return known if node.value else Not(known)


def _read_networks(node: Node, fact: Fact, scope: Scope) -> Condition:
    return Test(fact, Operator.NETWORK, read_networks(node))


def read_networks(node: Node) -> tuple[Network, ...]:
    """One network in CIDR notation, or a list of them."""
    values = node.value if isinstance(node.value, list) else [node.value]
    if not 1 <= len(values) <= MAX_VALUES:
        raise Invalid(f"must hold 1 to {MAX_VALUES} networks; it has {len(values)}.")
    return tuple(map(_parse_network, values))


def _parse_network(value: object) -> Network:
    try:
        return ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise Invalid(
            f"{show_value(value)} is not a network: write it as 10.0.0.0/8 or 2001:db8::/32, "
            "without bits after the prefix."
        ) from None


_TEXT = {
    "is": _read_is,
    "in": _read_in,
    "not": _negate(_read_is),
    "notIn": _negate(_read_in),
    "like": _read_like,
    "startsWith": _read_start,
    "endsWith": _read_end,
    "atLeast": _read_at_least,
    "atMost": _read_at_most,
}
_OPERATORS: Mapping[FactKind, Mapping[str, Callable[[Node, Fact, Scope], Condition]]] = {
    FactKind.TEXT: _TEXT,
    FactKind.NUMBER: {
        "is": _read_is,
        "in": _read_in,
        "not": _negate(_read_is),
        "notIn": _negate(_read_in),
        "atLeast": _read_at_least,
        "atMost": _read_at_most,
        "above": _read_above,
        "below": _read_below,
    },
    FactKind.BOOLEAN: {"is": _read_is, "not": _negate(_read_is)},
    FactKind.TEXTS: {
        "contains": _read_contains,
        "containsAny": _read_meets,
        "notContains": _negate(_read_meets),
    },
    FactKind.ADDRESS: {"in": _read_networks, "notIn": _negate(_read_networks)},
}
_COMMON = {"sameAs": _read_same, "known": _read_known}
_PLAIN = {
    FactKind.TEXT: _read_is,
    FactKind.NUMBER: _read_is,
    FactKind.BOOLEAN: _read_is,
    FactKind.TEXTS: _read_contains,
    FactKind.ADDRESS: _read_networks,
}


# Values


def _read_values(node: Node, fact: Fact) -> tuple[Any, ...]:
    if not isinstance(node.value, list):
        return (_read_value(node, fact),)
    if not 1 <= len(node.value) <= MAX_VALUES:
        raise Invalid(f"must hold 1 to {MAX_VALUES} values; it has {len(node.value)}.")
    values = [_read_value(node.child(number), fact) for number in range(len(node.value))]
    return tuple(dict.fromkeys(values))


def _read_value(node: Node, fact: Fact) -> Any:
    value = node.value
    if fact.kind is FactKind.NUMBER:
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MOST:
            raise Invalid(f"{fact.name} is a whole number, and {show_value(value)} isn't.")
        return value
    if fact.kind is FactKind.BOOLEAN:
        if not isinstance(value, bool):
            raise Invalid(f"{fact.name} is true or false, not {show_value(value)}.")
        return value
    text = reader.read_text(node, MAX_VALUE)
    if fact.order and text not in fact.order:
        raise Invalid(f"{show_value(text)} is unknown; {suggest_word(text, fact.order)}")
    return text


# Segments and time


def _read_segments(node: Node, scope: Scope) -> Condition:
    if isinstance(node.value, Mapping):
        return every(_read_segment_word(node, word, scope) for word in node.value)
    return _find_segments(node, scope)


def _read_segment_word(node: Node, word: object, scope: Scope) -> Condition:
    if word not in ("in", "is", "not", "notIn"):
        raise Invalid(f"{SEGMENT} takes 'in' and 'notIn', not {show_value(word)}.")
    found = _find_segments(node.child(word), scope)
    return Not(found) if word in ("not", "notIn") else found


def _find_segments(node: Node, scope: Scope) -> Condition:
    names = node.value if isinstance(node.value, list) else [node.value]
    if not 1 <= len(names) <= MAX_PARTS or not all(isinstance(name, str) for name in names):
        raise Invalid(f"must name 1 to {MAX_PARTS} segments.")
    networks: list[Network] = []
    for name in names:
        if name not in scope.segments and not (scope.open or scope.open_segments):
            raise Invalid(
                f"there is no segment {show_value(name)}; {_suggest(name, scope.segments)}"
            )
        networks += scope.segments.get(name, ())
    return Test(
        SOURCE, Operator.NETWORK, tuple(networks), words=f"from segment {' or '.join(names)}"
    )


def _suggest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    return suggest_word(name, names) if names else "declare it in a manifest of kind Segment."


_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]", re.ASCII)
_WINDOW = ("from", "to", "days", "zone", "after", "before")


def _read_windows(node: Node, fact: Fact) -> Condition:
    values = node.value if isinstance(node.value, list) else None
    if values is None:
        return Test(fact, Operator.WINDOW, (_read_window(node),))
    if not 1 <= len(values) <= MAX_PARTS:
        raise Invalid(f"must hold 1 to {MAX_PARTS} windows; it has {len(values)}.")
    return Test(
        fact, Operator.WINDOW, tuple(_read_window(node.child(n)) for n in range(len(values)))
    )


def _read_window(node: Node) -> Window:
    value = node.value
    if not isinstance(value, Mapping) or not value or not value.keys() <= set(_WINDOW):
        raise Invalid(
            "must be a window of time, such as {days: [mon, tue], from: '08:00', to: '18:00', "
            f"zone: Europe/Zurich}}; known: {', '.join(_WINDOW)}."
        )
    hours = ("from" in value, "to" in value)
    if any(hours) and not all(hours):
        raise Invalid("'from' and 'to' belong together.")
    window = Window(
        days=_read_days(value.get("days", list(DAYS))),
        start=_read_clock(value.get("from", "00:00")),
        end=_read_clock(value.get("to", "00:00")),
        zone=_read_zone(value.get("zone", "UTC")),
        after=_read_moment(value.get("after")),
        before=_read_moment(value.get("before")),
    )
    if all(hours) and window.start == window.end:
        raise Invalid("'from' and 'to' are the same; leave both out for whole days.")
    if window.after and window.before and window.after >= window.before:
        raise Invalid("'after' isn't earlier than 'before': it never holds.")
    return window


def _read_days(value: object) -> frozenset[int]:
    days = value if isinstance(value, list) else [value]
    if not days or not all(day in DAYS for day in days):
        raise Invalid(f"'days' must be of {', '.join(DAYS)}.")
    return frozenset(DAYS.index(day) for day in days)


def _read_clock(value: object) -> time:
    if not isinstance(value, str) or not _CLOCK.fullmatch(value):
        raise Invalid(f"{show_value(value)} is not a time of day: write it as '08:00', in quotes.")
    return time(int(value[:2]), int(value[3:]))


def _read_zone(value: object) -> str:
    name = value if isinstance(value, str) and len(value) <= 64 else ""
    try:
        find_zone(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid(
            f"{show_value(value)} is not a time zone of the IANA database, such as Europe/Zurich."
        ) from None
    return name


def _read_moment(value: object) -> datetime | None:
    if value is None:
        return None
    try:
        return parse_moment(value)
    except ValueError:
        raise Invalid(
            f"{show_value(value)} is not a moment: write it as '2027-01-31T18:00:00Z', in quotes."
        ) from None


def parse_moment(value: object) -> datetime:
    """A moment of the years 1970 to 9000, with its zone told; ValueError if it is none."""
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    if (
        not isinstance(found, datetime)
        or found.tzinfo is None
        or not _FIRST_YEAR <= found.year <= _LAST_YEAR
    ):
        raise ValueError("no moment")
    return found.astimezone(UTC)


_FIRST_YEAR, _LAST_YEAR = 1970, 9000
