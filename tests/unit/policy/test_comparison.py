"""Access before and after: what is told of it holds for every question that can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.rulesets import NOW, books, questions
from troth.policy.comparison import (
    NO_ACCESS,
    Access,
    Key,
    Level,
    Side,
    compare_access,
    measure_access,
    weigh,
)
from troth.policy.decision import decide
from troth.policy.explanation import with_time
from troth.policy.fact import Fact, FactKind, Facts
from troth.policy.inquiry import Party
from troth.policy.residue import is_open
from troth.policy.rule import Principal
from troth.policy.rulebook import RuleBook

TEXT = FactKind.TEXT
SIX = settings(max_examples=40, deadline=None)


def without_audience(facts: Facts) -> dict[str, Mapping[str, Any]]:
    """What tokens are for is told nobody: it is no part of who may what."""
    request = {key: value for key, value in facts.get("request", {}).items() if key != "audience"}
    return {**facts, "request": request}


@given(st.data())
@SIX
def test_what_is_always_or_never_so_is_so_whatever_is_asked(data: st.DataObject) -> None:
    book = data.draw(books())
    question = data.draw(questions(book))
    question = replace(question, facts=without_audience(question.facts))
    declared = {
        group: {k: v for k, v in known.items() if not is_open(Fact(group, k, TEXT))}
        for group, known in question.facts.items()
    }
    access = weigh(book, question.principal, question.resource, question.action, declared, NOW)
    decision = decide(book.index, question, NOW)
    if access.level is not Level.CONDITIONAL:
        assert decision.allowed is (access.level is Level.ALWAYS)
        assert access.condition == ""
    else:
        assert access.condition


@given(st.data())
@SIX
def test_with_every_fact_known_it_is_what_cedar_decides(data: st.DataObject) -> None:
    book = data.draw(books())
    question = data.draw(questions(book))
    facts = with_time(without_audience(question.facts), NOW)
    question = replace(question, facts=facts)
    access = weigh(
        book,
        question.principal,
        question.resource,
        question.action,
        facts,
        NOW,
        lambda fact: False,
    )
    assert access.level is not Level.CONDITIONAL
    assert decide(book.index, question, NOW).allowed is (access.level is Level.ALWAYS)


def make_party(book: RuleBook, name: str, environment: str, *roles: str) -> Party:
    facts: dict[str, dict[str, Any]] = {
        "identity": {"name": name, "environment": environment, "owner": "pay"},
        "subject": {"type": "identity", "id": name},
        "trust": {"score": 50, "tier": "medium"},
    }
    return Party(Principal("identity", name, book.expand(roles)), facts)


_people = st.fixed_dictionaries(
    {},
    optional={
        name: st.tuples(
            st.sampled_from(("prod", "dev")),
            st.lists(st.sampled_from(("reader", "writer", "boss")), max_size=2, unique=True),
        )
        for name in ("app", "job")
    },
)


@given(st.data())
@SIX
def test_nothing_that_changes_is_overlooked_and_nothing_else_is_told(data: st.DataObject) -> None:
    sides = []
    for _ in range(2):
        book = data.draw(books())
        people = data.draw(_people)
        parties: dict[Key, Party] = {
            ("identity", name): make_party(book, name, environment, *roles)
            for name, (environment, roles) in people.items()
        }
        sides.append(Side(book, parties))
    before, after = sides
    wanted: set[tuple[str, str, str, Access, Access]] = set()
    for key in before.parties.keys() | after.parties.keys():
        for resource in ("ledger", "till"):
            for action in ("read", "write", "burn"):
                was, will = (
                    measure_access(side.book, side.parties[key], resource, action, NOW)
                    if key in side.parties
                    else NO_ACCESS
                    for side in sides
                )
                if was != will:
                    wanted.add((key[1], resource, action, was, will))
    found = compare_access(before, after, NOW)
    told = {
        (one.subject, one.resource, action, one.before, one.after)
        for one in found.changes
        for action in one.actions
    }
    assert told == wanted
    assert found.complete
    for one in found.changes:
        verb = "keeps" if one.turn == "changes" else one.turn
        assert one.words.startswith(f"{one.subject} {verb}")


@given(books(), books())
@settings(max_examples=15, deadline=None)
def test_a_bound_is_kept_and_told(one: RuleBook, other: RuleBook) -> None:
    before, after = (
        Side(book, {("identity", "app"): make_party(book, "app", "prod", "reader", "boss")})
        for book in (one, other)
    )
    whole = compare_access(before, after, NOW)
    part = compare_access(before, after, NOW, most=1)
    assert len(part.changes) <= 1
    assert part.complete or len(whole.changes) >= len(part.changes)
    nothing = compare_access(before, after, NOW, only=frozenset())
    assert (nothing.changes, nothing.complete) == ((), True)
