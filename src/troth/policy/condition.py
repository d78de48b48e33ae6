"""Conditions: tests of facts, put together. Their truth has three values, since a fact may be
unknown: what permits must be certain, and what forbids need only be possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Any, cast

from troth.core import glob
from troth.core.address import Address
from troth.policy.fact import Fact, Facts, Value, find_value
from troth.policy.window import Window

Network = IPv4Network | IPv6Network


class Operator(StrEnum):
    """How a test compares a fact with its values."""

    KNOWN = "known"
    IN = "in"
    AT_LEAST = "atLeast"
    AT_MOST = "atMost"
    LIKE = "like"
    CONTAINS = "contains"
    """A set of texts holds all the values."""
    MEETS = "meets"
    """A set of texts holds one of the values."""
    NETWORK = "network"
    WINDOW = "window"
    SAME = "sameAs"
    """It equals another fact."""


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison. `other` is the fact of `SAME`; `words` are those of whoever wrote it, where
    they say more than the values, such as the name of a segment."""

    fact: Fact
    operator: Operator
    values: tuple[Any, ...] = ()
    other: Fact | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class All:
    """Holds if all of its parts do; without parts it always holds."""

    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Any_:
    """Holds if one of its parts does; without parts it never holds."""

    parts: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Not:
    """Holds if its part doesn't."""

    part: Condition


Condition = Test | All | Any_ | Not
ALWAYS = All()


def judge(condition: Condition, facts: Facts) -> bool | None:
    """Whether it holds; None if a fact that decides it is unknown."""
    if isinstance(condition, Test):
        return judge_test(condition, facts)
    if isinstance(condition, Not):
        found = judge(condition.part, facts)
        return None if found is None else not found
    ends = isinstance(condition, Any_)
    unknown = False
    for part in condition.parts:
        found = judge(part, facts)
        if found is ends:
            return ends
        unknown = unknown or found is None
    return None if unknown else not ends


def judge_test(test: Test, facts: Facts) -> bool | None:
    """Whether one test holds; None if its fact is unknown."""
    value = find_value(facts, test.fact)
    if test.operator is Operator.KNOWN:
        return value is not None
    if value is None:
        return None
    if test.operator is Operator.SAME:
        other = None if test.other is None else find_value(facts, test.other)
        return None if other is None else _unorder(value) == _unorder(other)
    return _COMPARE[test.operator](value, test.values)


def _unorder(value: Value) -> object:
    """Texts as the set that they are to Cedar."""
    return frozenset(value) if isinstance(value, tuple) else value


def _is_in(value: Value, values: tuple[Any, ...]) -> bool:
    # True is 1 in Python and nowhere else.
    return any(value == one and type(value) is type(one) for one in values)


def _is_within(value: Value, networks: tuple[Network, ...]) -> bool:
    address = cast(Address, value)
    return any(address.version == one.version and address in one for one in networks)


_COMPARE: Mapping[Operator, Callable[[Any, tuple[Any, ...]], bool]] = {
    Operator.IN: _is_in,
    Operator.AT_LEAST: lambda value, values: bool(value >= values[0]),
    Operator.AT_MOST: lambda value, values: bool(value <= values[0]),
    Operator.LIKE: lambda value, values: any(glob.matches(one, value) for one in values),
    Operator.CONTAINS: lambda value, values: set(values) <= set(value),
    Operator.MEETS: lambda value, values: not set(values).isdisjoint(value),
    Operator.NETWORK: _is_within,
    Operator.WINDOW: lambda value, values: any(one.contains(value) for one in values),
}


def list_tests(condition: Condition) -> Iterator[Test]:
    """Every test in it, in order."""
    if isinstance(condition, Test):
        yield condition
    elif isinstance(condition, Not):
        yield from list_tests(condition.part)
    else:
        for part in condition.parts:
            yield from list_tests(part)


def list_facts(condition: Condition) -> Iterator[Fact]:
    """Every fact that it may read, in order."""
    for test in list_tests(condition):
        yield test.fact
        if test.other is not None:
            yield test.other


def list_windows(condition: Condition) -> Iterator[Window]:
    """Every window of time that it asks about."""
    for test in list_tests(condition):
        if test.operator is Operator.WINDOW:
            yield from test.values


def find_end(condition: Condition, now: datetime) -> datetime | None:
    """Until when its truth can't change by time alone; None if time doesn't matter."""
    return min((window.find_end(now) for window in list_windows(condition)), default=None)


def every(parts: Iterable[Condition]) -> Condition:
    """All of these as one condition, as flat as can be."""
    flat: list[Condition] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, All) else (part,))
    return flat[0] if len(flat) == 1 else All(tuple(flat))


def one_of(parts: Iterable[Condition]) -> Condition:
    """One of these as one condition."""
    found = tuple(parts)
    return found[0] if len(found) == 1 else Any_(found)
