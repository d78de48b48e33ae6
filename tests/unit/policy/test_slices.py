"""A slice answers as the whole set would, and our own reading of rules as Cedar's."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import cedarpy
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.rulesets import MOMENTS, NOW, books, questions
from troth.policy import condition
from troth.policy.cedar import kind_of_principal, name_action, render_rule, split_key
from troth.policy.decision import Question, decide
from troth.policy.fact import BY_NAME, FactKind, attribute_fact
from troth.policy.fact import NOW as TIME
from troth.policy.index import MOST_PLACES, PolicyIndex, _encode
from troth.policy.rule import (
    EVERYBODY,
    IDENTITY,
    Effect,
    Principal,
    Rule,
    Subjects,
    applies,
    is_over,
    list_rule_windows,
    mark_principal,
)
from troth.policy.rulebook import RuleBook

WORLDS = books().flatmap(lambda book: st.tuples(st.just(book), questions(book)))


def list_living(rules: Any, now: datetime) -> list[Rule]:
    return [
        replace(rule, exceptions=tuple(one for one in rule.exceptions if not is_over(one, now)))
        for rule in rules
        if not is_over(rule, now)
    ]


def ask_cedar(rules: list[Rule], question: Question, now: datetime) -> tuple[bool, set[str]]:
    """The answer of Cedar to the rules as they are, with all that is known in the context."""
    windows = [window for rule in rules for window in list_rule_windows(rule)]
    groups = {fact.group for fact in BY_NAME.values()}
    context: dict[str, Any] = {group: {"labels": {}} for group in groups}
    for group, members in question.facts.items():
        for key, value in members.items():
            place = context[group]
            *above, last = split_key(attribute_fact(group, key, FactKind.TEXT))
            for name in above:
                place = place[name]
            place[last] = value if isinstance(value, str | int) else _encode(value)
    context["request"]["windows"] = [one.name for one in windows if one.contains(now)]
    principal = question.principal
    own = principal.type == IDENTITY
    uid = {
        "type": kind_of_principal(principal.type),
        "id": principal.id if own else f"{principal.type}:{principal.id}",
    }
    parents = [{"type": "Role", "id": role} for role in principal.roles]
    parents += [] if own else [{"type": "Type", "id": principal.type}]
    found = cedarpy.is_authorized(
        {
            "principal": uid,
            "action": {"type": "Action", "id": name_action(question.resource, question.action)},
            "resource": {"type": "Resource", "id": question.resource},
            "context": msgspec.json.encode(context).decode(),
        },
        "\n".join(map(render_rule, rules)),
        [{"uid": uid, "attrs": {}, "parents": parents}],
    )
    assert found.diagnostics.errors == []
    return found.allowed, set(found.diagnostics.id_annotations_by_reason.values())


@given(WORLDS, MOMENTS)
@settings(max_examples=200)
def test_a_slice_answers_as_all_rules_together(
    world: tuple[RuleBook, Question], now: datetime
) -> None:
    book, question = world
    allowed, reasons = ask_cedar(list_living(book.index.rules, now), question, now)
    found = decide(book.index, question, now)
    assert (found.allowed, set(found.determining)) == (allowed, reasons)
    assert found.faults == ()


@given(WORLDS, MOMENTS)
@settings(max_examples=150)
def test_our_own_reading_agrees_with_cedar_rule_by_rule(
    world: tuple[RuleBook, Question], now: datetime
) -> None:
    book, question = world
    marks = mark_principal(question.principal)
    facts = {
        **question.facts,
        "request": {**question.facts.get("request", {}), TIME.key: now},
    }
    for rule in list_living(book.index.rules, now):
        ours = applies(rule, marks, question.resource, question.action, facts)
        _, reasons = ask_cedar([rule], question, now)
        counts = ours is True if rule.effect is Effect.PERMIT else ours is not False
        assert counts is (rule.id in reasons), (rule, ours)


@given(WORLDS, st.lists(MOMENTS, min_size=2, max_size=5))
@settings(max_examples=100)
def test_what_was_asked_before_changes_no_answer(
    world: tuple[RuleBook, Question], moments: list[datetime]
) -> None:
    """In whatever order: explanations look ahead, and clocks are set back."""
    book, question = world
    for now in moments:
        fresh = PolicyIndex(book.index.rules)
        assert decide(book.index, question, now) == decide(fresh, question, now)


@given(WORLDS, MOMENTS)
@settings(max_examples=100)
def test_an_answer_holds_until_it_says(world: tuple[RuleBook, Question], now: datetime) -> None:
    book, question = world
    found = decide(book.index, question, now)
    end = found.valid_until
    for later in (end - timedelta(microseconds=1) if end else now + timedelta(days=30),):
        again = decide(book.index, question, later)
        assert (again.allowed, again.determining) == (found.allowed, found.determining)


PRINCIPAL = Principal(IDENTITY, "app", ("reader",))
ASKED = Question(PRINCIPAL, "read", "ledger", {})


def make_rule(**changes: Any) -> Rule:
    return replace(Rule("one", Effect.PERMIT, Subjects(roles=("reader",))), **changes)


def test_a_rule_about_very_many_is_found_and_takes_few_places() -> None:
    names = tuple(f"n{number}" for number in range(250))
    wide = make_rule(
        subjects=Subjects(roles=("reader", *names), identities=names),
        actions=("read", *names),
        resources=("ledger", *names),
    )
    index = PolicyIndex([wide])
    assert decide(index, ASKED, NOW).determining == ("one",)
    assert not decide(index, replace(ASKED, action="write"), NOW).allowed
    assert not decide(index, replace(ASKED, principal=Principal(IDENTITY, "x")), NOW).allowed
    assert not decide(index, replace(ASKED, resource="till"), NOW).allowed
    places = sum(len(found) for bucket in index._buckets.values() for found in bucket.values())
    assert places <= MOST_PLACES


def test_a_slice_holds_what_is_about_its_questions_and_nothing_else() -> None:
    wide = make_rule(
        subjects=Subjects(roles=("reader", "other"), identities=("someone",)),
        actions=("read", "write"),
        resources=("ledger", "till"),
    )
    cut = PolicyIndex([wide]).cut(frozenset({"role:reader"}), "ledger", "read", NOW)
    (kept,) = cut.rules
    assert (kept.subjects, kept.actions, kept.resources) == (
        Subjects(roles=("reader",)),
        ("read",),
        ("ledger",),
    )


def test_a_look_ahead_leaves_no_forbid_out() -> None:
    """A forbid that ends in an hour was gone for everybody once somebody had asked about then."""
    end = NOW + timedelta(hours=1)
    index = PolicyIndex([make_rule(), make_rule(id="stop", effect=Effect.FORBID, expires=end)])
    assert decide(index, ASKED, end).allowed
    assert decide(index, ASKED, NOW).determining == ("stop",)
    assert decide(index, ASKED, NOW).valid_until == end


def test_troths_own_is_nobodys_by_default() -> None:
    index = PolicyIndex([make_rule(subjects=EVERYBODY)])
    assert decide(index, ASKED, NOW).allowed
    assert not decide(index, replace(ASKED, resource="troth.identity"), NOW).allowed


@pytest.mark.parametrize(
    "facts",
    [
        {"request": {"path": "\ud800"}},
        {"delegation": {"depth": 2**70}},
        {"delegation": {"depth": 1.5}},
        {"request": {"ip": "no address"}},
    ],
)
def test_facts_that_can_not_be_are_a_denial(facts: dict[str, Any]) -> None:
    group, key = next((group, key) for group, members in facts.items() for key in members)
    known = condition.Test(BY_NAME[f"{group}.{key}"], condition.Operator.KNOWN)
    index = PolicyIndex([make_rule(), make_rule(id="never", condition=condition.Not(known))])
    found = decide(index, replace(ASKED, facts=facts), NOW)
    if key == "ip":
        assert found.allowed  # it isn't asked whether it is one
    else:
        assert not found.allowed
        assert found.faults == ("context",)


def test_half_a_character_in_a_name_is_a_denial() -> None:
    index = PolicyIndex([make_rule(subjects=EVERYBODY)])
    asked = replace(ASKED, principal=Principal("user", "\ud800"))
    assert decide(index, asked, NOW).faults == ("context",)
