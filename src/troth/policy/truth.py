"""Conditions that always hold or never do, found by trying one value for each way in which a fact
can come out. What needs two facts at once, or a text that fits patterns, isn't settled: nothing is
said that isn't so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from ipaddress import ip_address
from itertools import chain
from typing import Any

from troth.policy.condition import (
    All,
    Any_,
    Condition,
    Not,
    Operator,
    Test,
    every,
    judge,
    list_tests,
    one_of,
)
from troth.policy.fact import Fact, FactKind, Value

MOST_TESTS = 64
MOST_CANDIDATES = 1024
MOST_WINDOWS = 4

_RANGES: Mapping[str, tuple[int, int | None]] = {
    "trust.score": (0, 100),
    "delegation.depth": (0, None),
}
"""What some numbers can be."""

_OTHER = "\x00"
"""A text that no manifest can hold."""


def settle(condition: Condition, now: datetime) -> bool | None:
    """Whether the condition holds whatever the facts are (those it reads being known), from `now`
    on; False if it never does; None if it depends, or can't be told."""
    if isinstance(condition, Not):
        found = settle(condition.part, now)
        return None if found is None else not found
    if isinstance(condition, All | Any_):
        ends = isinstance(condition, Any_)
        parts = [settle(part, now) for part in condition.parts]
        if ends in parts:
            return ends
        if all(part is (not ends) for part in parts):
            return not ends
        if _settle_by_fact(condition, now) is ends:
            return ends
    return _try_values(condition, now)


def _settle_by_fact(condition: All | Any_, now: datetime) -> bool | None:
    """Whether the parts that are about one fact settle the whole."""
    by_fact: dict[Fact, list[Condition]] = {}
    for part in condition.parts:
        facts = {test.fact for test in list_tests(part)}
        if len(facts) == 1:
            by_fact.setdefault(facts.pop(), []).append(part)
    ends = isinstance(condition, Any_)
    join: Callable[[Iterable[Condition]], Condition] = one_of if ends else every
    for parts in by_fact.values():
        if 1 < len(parts) < len(condition.parts) and _try_values(join(parts), now) is ends:
            return ends
    return None


def _try_values(condition: Condition, now: datetime) -> bool | None:
    """All or none of the values of the one fact that it is about; None if some, or if unsure."""
    tests = list(list_tests(condition))
    facts = {test.fact for test in tests}
    if len(facts) != 1 or len(tests) > MOST_TESTS:
        return None
    fact = facts.pop()
    values = _list_values(fact, tests, now)
    if not values or len(values) > MOST_CANDIDATES:
        return None
    found = {judge(condition, {fact.group: {fact.key: value}}) for value in values}
    return found.pop() if len(found) == 1 else None


def _list_values(fact: Fact, tests: list[Test], now: datetime) -> list[Value]:
    """A value at least for each way in which these tests can come out; none if that isn't sure."""
    operators = {test.operator for test in tests}
    if operators & {Operator.SAME, Operator.KNOWN, Operator.CONTAINS, Operator.MEETS}:
        return []
    if Operator.LIKE in operators:
        return []
    return _CANDIDATES[fact.kind](fact, tests, now) if fact.kind in _CANDIDATES else []


def _list_texts(fact: Fact, tests: list[Test], now: datetime) -> list[Value]:
    if fact.order:
        return list(fact.order)
    return [_OTHER, *_values(tests)]


def _list_numbers(fact: Fact, tests: list[Test], now: datetime) -> list[Value]:
    values = _values(tests)
    least, most = _RANGES.get(fact.name, (None, None))
    around = {near for one in values for near in (one - 1, one, one + 1)}
    around |= {bound for bound in (least, most) if bound is not None}
    return [
        one for one in around if (least is None or one >= least) and (most is None or one <= most)
    ]


def _list_addresses(fact: Fact, tests: list[Test], now: datetime) -> list[Value]:
    # Each stretch of addresses that tests tell apart begins with the first of all, with a
    # network's first, or after a network's last.
    found: set[Any] = {ip_address("0.0.0.0"), ip_address("::")}  # noqa: S104 - not bound to
    for network in _values(tests):
        found.add(network.network_address)
        last = network.broadcast_address
        if int(last) + 1 < 2**network.max_prefixlen:
            found.add(last + 1)
    return list(found)


def _list_moments(fact: Fact, tests: list[Test], now: datetime) -> list[Value]:
    windows = _values(tests)
    if len(windows) > MOST_WINDOWS:
        return []
    edges = (edge for window in windows for edge in (window.after, window.before))
    anchors = {now, *(edge for edge in edges if edge is not None and edge > now)}
    found = (window.list_edges(anchor) for window in windows for anchor in anchors)
    return [*{moment for edges in found for moment in edges}]


def _values(tests: Iterable[Test]) -> list[Any]:
    return list(dict.fromkeys(chain.from_iterable(test.values for test in tests)))


_CANDIDATES: Mapping[FactKind, Callable[[Fact, list[Test], datetime], list[Value]]] = {
    FactKind.TEXT: _list_texts,
    FactKind.NUMBER: _list_numbers,
    FactKind.BOOLEAN: lambda fact, tests, now: [True, False],
    FactKind.ADDRESS: _list_addresses,
    FactKind.TIME: _list_moments,
}
