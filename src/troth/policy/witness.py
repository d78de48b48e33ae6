"""Witnesses: a value of a fact for which a test comes out as wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from troth.core import glob
from troth.policy.condition import Operator, Test, judge_test
from troth.policy.fact import Fact, FactKind, Facts, Value, find_value

_OUTSIDE = ("192.0.2.1", "198.51.100.1", "203.0.113.1", "10.0.0.1", "2001:db8::1", "fd00::1", "::1")
"""Addresses for documentation and others, of which one lies outside of most lists."""

_SAMPLES: Mapping[FactKind, Value] = {
    FactKind.TEXT: "some",
    FactKind.NUMBER: 0,
    FactKind.BOOLEAN: True,
    FactKind.TEXTS: (),
    FactKind.ADDRESS: ip_address(_OUTSIDE[0]),
}


def find_witness(
    fact: Fact, tests: list[tuple[Test, bool]], facts: Facts, now: datetime
) -> Value | None:
    """A value of `fact` for which each of these tests on it comes out as wanted; None if none was
    found."""
    for test, wanted in tests:
        for value in _list_candidates(test, wanted, facts, now):
            supplied = {**facts, fact.group: {**facts.get(fact.group, {}), fact.key: value}}
            if all(judge_test(one, supplied) is want for one, want in tests):
                return value
    return None


def _list_candidates(test: Test, wanted: bool, facts: Facts, now: datetime) -> Iterator[Value]:
    if test.operator is Operator.SAME:
        yield from _list_same(test, wanted, facts)
    elif test.operator is Operator.KNOWN:
        if test.fact.kind in _SAMPLES:
            yield _SAMPLES[test.fact.kind]
    else:
        yield from _FIND[test.operator](test, wanted, find_value(facts, test.fact), now)


def _list_same(test: Test, wanted: bool, facts: Facts) -> Iterator[Value]:
    other = None if test.other is None else find_value(facts, test.other)
    if wanted:
        yield _SAMPLES[test.fact.kind] if other is None else other
    elif other is not None:
        yield from _differ(test.fact, (other,))


def _differ(fact: Fact, values: tuple[Any, ...]) -> Iterator[Value]:
    """Values other than these."""
    if fact.kind is FactKind.BOOLEAN:
        yield from (one for one in (True, False) if one not in values)
    elif fact.kind is FactKind.NUMBER:
        yield max(values) + 1
        yield min(values) - 1
    elif fact.order:
        yield from (one for one in fact.order if one not in values)
    elif fact.kind is FactKind.TEXT:
        yield f"not-{values[0]}" if values else "other"
        yield "other"


def _find_in(test: Test, wanted: bool, value: Value | None, now: datetime) -> Iterator[Value]:
    # The least that will do comes first: nobody is to be advised to get more.
    yield from test.values if wanted else _differ(test.fact, test.values)


def _find_bound(test: Test, wanted: bool, value: Value | None, now: datetime) -> Iterator[Value]:
    step = -1 if test.operator is Operator.AT_LEAST else 1
    yield test.values[0] if wanted else test.values[0] + step


def _find_like(test: Test, wanted: bool, value: Value | None, now: datetime) -> Iterator[Value]:
    yield from map(glob.fill, test.values) if wanted else ("other", "", "~")


def _find_set(test: Test, wanted: bool, value: Value | None, now: datetime) -> Iterator[Value]:
    held = value if isinstance(value, tuple) else ()
    if not wanted:
        yield tuple(one for one in held if one not in test.values)
    elif test.operator is Operator.CONTAINS:
        yield tuple(dict.fromkeys((*held, *test.values)))
    else:
        yield from ((*held, one) for one in test.values)


def _find_address(test: Test, wanted: bool, value: Value | None, now: datetime) -> Iterator[Value]:
    if wanted:
        yield from (network.network_address for network in test.values)
    else:
        yield from map(ip_address, _OUTSIDE)


def _find_moment(test: Test, wanted: bool, value: Value | None, now: datetime) -> Iterator[Value]:
    if wanted:
        found = (window.find_moment(now) for window in test.values)
        yield from sorted(one for one in found if one is not None)
        return
    edges = {edge for window in test.values for edge in window.list_edges(now)}
    for moment in sorted(edges):
        if not any(window.contains(moment) for window in test.values):
            yield moment
            return


_FIND: Mapping[Operator, Callable[[Test, bool, Value | None, datetime], Iterator[Value]]] = {
    Operator.IN: _find_in,
    Operator.AT_LEAST: _find_bound,
    Operator.AT_MOST: _find_bound,
    Operator.LIKE: _find_like,
    Operator.CONTAINS: _find_set,
    Operator.MEETS: _find_set,
    Operator.NETWORK: _find_address,
    Operator.WINDOW: _find_moment,
}
