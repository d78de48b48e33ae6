"""Explanations: what of a denial would have to be otherwise, and what can be done about it.

What is named as missing is exact: a question that is asked again with just these facts is
permitted. Nothing is named where that could not be found out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, islice

from troth.policy.condition import All, Any_, Condition, Not, Operator, Test, judge, judge_test
from troth.policy.decision import CONTEXT, Decision, Question, decide
from troth.policy.fact import GRANTED, NOW, Fact, Facts, Value, find_value
from troth.policy.index import PolicyIndex
from troth.policy.rule import Effect, Rule, applies, is_over
from troth.policy.rulebook import RuleBook
from troth.policy.witness import find_witness
from troth.policy.words import describe_test

MOST_CANDIDATES = 64
"""Permits that are looked into before it is given up."""

MOST_WAYS = 8
"""Ways to one condition that are looked into."""

MOST_TRIES = 4

Wish = tuple[Test, bool]
Way = tuple[Wish, ...]
"""Tests that must all come out as wanted."""

OBTAINABLE = ("trust", "grant", "request", "task")
"""The groups of facts that whoever asks can do something about."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A fact that would have to be otherwise: with `value` it would do. `words` say what is asked
    for, such as ``trust.score ≥ 60``."""

    fact: Fact
    value: Value
    words: str

    @property
    def obtainable(self) -> bool:
        """Whether whoever asks can do something about it; else somebody else must."""
        return self.fact.group in OBTAINABLE


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a question was answered as it was, in a sentence; what is `missing` of a permission, the
    fewest facts that were found; and which facts are `unknown` that a rule asked for, by name."""

    reason: str
    missing: tuple[Missing, ...] = ()
    unknown: tuple[str, ...] = ()


def explain(book: RuleBook, decision: Decision, now: datetime) -> Explanation:
    """The explanation of a decision that was made by the rules of `book` at `now`."""
    question = decision.question
    if question is None or decision.slice is None:
        return Explanation("Nothing is known of the question.")
    names = " and ".join(decision.determining[:3])
    if decision.allowed:
        return Explanation(f"{names} permits it.")
    faults = [one for one in decision.faults if one == CONTEXT or one in decision.determining]
    if faults:
        return Explanation(
            f"{' and '.join(faults[:3])} could not be evaluated, so nothing is permitted."
        )
    reason = f"{names} forbids it." if decision.determining else "No rule permits it."
    facts = question.facts
    unknown = sorted(
        {fact.name for fact in decision.slice.reads if find_value(facts, fact) is None} - {NOW.name}
    )
    return Explanation(reason, find_missing(book, question, now), tuple(unknown))


def find_missing(book: RuleBook, question: Question, now: datetime) -> tuple[Missing, ...]:
    """The fewest facts found that would have the question permitted; none if none were found."""
    index = book.index
    question = replace(question, facts=with_time(question.facts, now))
    marks = index.enlist(question.principal).marks
    best: tuple[Missing, ...] = ()
    # Those first whose scope fits already: a condition is nearer than a role.
    near = index.find_rules(marks, question.resource, question.action)
    known = {rule.id for rule in near}
    far = (
        rule
        for rule in index.find_scoped(question.resource, question.action)
        if rule.id not in known and rule.subjects.roles
    )
    candidates = (
        rule
        for rule in chain(near, far)
        if rule.effect is Effect.PERMIT and not rule.cedar and not is_over(rule, now)
    )
    for rule in islice(candidates, MOST_CANDIDATES):
        for found in _try_permit(book, rule, question, now):
            if not best or len(found) < len(best):
                best = found
            break
        if len(best) == 1:
            break
    return best


def supply(book: RuleBook, question: Question, missing: Iterable[Missing]) -> Question:
    """The question with these facts. The time must be given to whoever decides besides."""
    facts = {group: dict(values) for group, values in question.facts.items()}
    principal = question.principal
    for one in missing:
        facts.setdefault(one.fact.group, {})[one.fact.key] = one.value
        if one.fact == GRANTED and isinstance(one.value, tuple):
            roles = book.expand((*principal.roles, *one.value))
            principal = replace(principal, roles=roles)
    return replace(question, principal=principal, facts=facts)


def with_time(facts: Facts, now: datetime) -> Facts:
    """The facts with the time among them."""
    return {**facts, NOW.group: {**facts.get(NOW.group, {}), NOW.key: now}}


def _try_permit(
    book: RuleBook, rule: Rule, question: Question, now: datetime
) -> Iterator[tuple[Missing, ...]]:
    """What would have this rule permit the question and no other forbid it."""
    index = book.index
    marks = index.enlist(question.principal).marks
    if rule.means(marks, question.resource, question.action):
        yield from _complete(book, rule, question, (), now)
        return
    held = find_value(question.facts, GRANTED)
    for role in rule.subjects.roles:
        roles = (*(held if isinstance(held, tuple) else ()), role)
        grant = Missing(GRANTED, roles, f"an approved grant on role {role}")
        granted = supply(book, question, (grant,))
        yield from _complete(book, rule, granted, (grant,), now)


def _complete(
    book: RuleBook,
    rule: Rule,
    question: Question,
    before: tuple[Missing, ...],
    now: datetime,
) -> Iterator[tuple[Missing, ...]]:
    """The rest that is missing of a permission by `rule`, if that was found and does it."""
    ways = _require(rule.condition, True, question.facts)
    for forbid in _list_forbids(book.index, question, now):
        ways = _combine(ways, _require_none(book.index, forbid, question))
    for way in ways:
        found = _supply_way(book, way, question, now)
        if found is not None:
            yield (*before, *found)
            return


def _supply_way(
    book: RuleBook, way: Way, question: Question, now: datetime
) -> tuple[Missing, ...] | None:
    """What one way comes to, if with it the question is permitted. Where it runs into a forbid, a
    value is looked for that doesn't."""
    for _ in range(MOST_TRIES):
        missing = _find_values(way, question.facts, now)
        if missing is None:
            return None
        then = _find_now(missing, now)
        supplied = supply(book, question, missing)
        decision = decide(book.index, supplied, then)
        if decision.allowed:
            return missing
        supplied = replace(supplied, facts=with_time(supplied.facts, then))
        others: list[Way] = [()]
        for forbid in _list_forbids(book.index, supplied, then):
            if forbid.id in decision.determining:
                others = _combine(others, _require_none(book.index, forbid, supplied))
        added = [wish for wish in (others[0] if others else ()) if wish not in way]
        if not added:
            return None
        way = (*way, *added)
    return None


def _find_now(missing: Iterable[Missing], now: datetime) -> datetime:
    for one in missing:
        if one.fact == NOW and isinstance(one.value, datetime):
            return one.value
    return now


def _list_forbids(index: PolicyIndex, question: Question, now: datetime) -> Iterator[Rule]:
    """The forbids that may apply to the question."""
    marks = index.enlist(question.principal).marks
    for rule in index.find_rules(marks, question.resource, question.action):
        if rule.effect is Effect.FORBID and not rule.cedar and not is_over(rule, now):
            living = replace(
                rule, exceptions=tuple(one for one in rule.exceptions if not is_over(one, now))
            )
            yield living


def _require_none(index: PolicyIndex, rule: Rule, question: Question) -> list[Way]:
    """What would have a forbid not apply."""
    resource, action = question.resource, question.action
    marks = index.enlist(question.principal).marks
    if applies(rule, marks, resource, action, question.facts) is False:
        return [()]
    ways = _require(rule.condition, False, question.facts)
    for one in rule.exceptions[:MOST_CANDIDATES]:
        if one.means(marks, resource, action):
            ways += _require(one.condition, True, question.facts)
    return _shorten(ways)


def _require(condition: Condition, wanted: bool, facts: Facts) -> list[Way]:
    """Tests that must come out otherwise for the condition to be `wanted` for certain: the shortest
    ways first; none if it can't be."""
    if judge(condition, facts) is wanted:
        return [()]
    if isinstance(condition, Test):
        return [((condition, wanted),)]
    if isinstance(condition, Not):
        return _require(condition.part, not wanted, facts)
    parts = (_require(part, wanted, facts) for part in condition.parts)
    if isinstance(condition, All if wanted else Any_):
        joint: list[Way] = [()]
        for ways in parts:
            joint = _combine(joint, ways)
        return joint
    return _shorten(way for ways in parts for way in ways)


def _combine(first: Sequence[Way], second: Sequence[Way]) -> list[Way]:
    return _shorten((*one, *other) for one in first for other in second)


def _shorten(ways: Iterable[Way]) -> list[Way]:
    return sorted(ways, key=len)[:MOST_WAYS]


def _find_values(wishes: Sequence[Wish], facts: Facts, now: datetime) -> tuple[Missing, ...] | None:
    """A value for each fact that these wishes are about; None if one has none."""
    by_fact: dict[Fact, list[Wish]] = {}
    for test, wanted in wishes:
        if test.operator is Operator.KNOWN and not wanted:
            return None  # nobody is asked to know less
        by_fact.setdefault(test.fact, []).append((test, wanted))
        if test.other is not None and find_value(facts, test.other) is None:
            by_fact.setdefault(test.other, [])
    missing: list[Missing] = []
    for fact, tests in by_fact.items():
        if not tests:
            # Compared with a fact that isn't known either: any value will do for both.
            other = Test(fact, Operator.KNOWN)
            tests = [(other, True)]
        value = find_witness(fact, tests, facts, now)
        if value is None:
            return None
        words = " and ".join(dict.fromkeys(describe_test(t, wanted=w) for t, w in tests))
        missing.append(Missing(fact, value, words))
        facts = {**facts, fact.group: {**facts.get(fact.group, {}), fact.key: value}}
    return tuple(missing) if _all_hold(wishes, facts) else None


def _all_hold(wishes: Iterable[Wish], facts: Facts) -> bool:
    return all(judge_test(test, facts) is wanted for test, wanted in wishes)
