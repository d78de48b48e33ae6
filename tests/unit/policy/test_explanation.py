"""What an explanation names as missing is exact: with it the question is permitted."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.rulesets import MOMENTS, NOW, VALUES, books, questions
from troth.policy.decision import Question, decide
from troth.policy.explanation import Missing, explain, supply
from troth.policy.fact import BY_NAME, GRANTED, FactKind, attribute_fact
from troth.policy.fact import NOW as TIME
from troth.policy.policy import Policy, Segment
from troth.policy.role import Permission, Role
from troth.policy.rule import EVERYBODY, IDENTITY, Effect, Principal, Subjects
from troth.policy.rulebook import RuleBook, make_rule_book

WORLDS = books().flatmap(lambda book: st.tuples(st.just(book), questions(book)))


def find_moment(missing: tuple[Missing, ...], now: datetime) -> datetime:
    moments = [one.value for one in missing if one.fact == TIME]
    return moments[0] if moments and isinstance(moments[0], datetime) else now


@given(WORLDS, MOMENTS)
@settings(max_examples=300)
def test_exactly_what_is_missing_turns_the_answer(
    world: tuple[RuleBook, Question], now: datetime
) -> None:
    book, question = world
    found = decide(book.index, question, now)
    told = explain(book, found, now)
    assert told.reason.endswith(".")
    if found.allowed:
        assert told.missing == ()
        return
    if not told.missing:
        return
    supplied = supply(book, question, told.missing)
    fresh = make_rule_book(
        0,
        book.roles.values(),
        book.resources.values(),
        book.policies.values(),
        book.segments.values(),
    )
    assert decide(fresh.index, supplied, find_moment(told.missing, now)).allowed
    names = [one.fact.name for one in told.missing]
    assert len(set(names)) == len(names)
    assert all(one.words for one in told.missing)


@given(WORLDS, MOMENTS, st.data())
@settings(max_examples=300)
def test_where_nothing_is_named_no_single_fact_would_have_done(
    world: tuple[RuleBook, Question], now: datetime, data: st.DataObject
) -> None:
    book, question = world
    found = decide(book.index, question, now)
    if found.allowed or explain(book, found, now).missing:
        return
    for group, key in data.draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=12)):
        if (group, key) == ("action", "name"):
            continue
        value = data.draw(VALUES[group, key])
        fact = BY_NAME.get(f"{group}.{key}") or attribute_fact(group, key, FactKind.TEXT)
        other = supply(book, question, [Missing(fact, value, "")])
        if fact == GRANTED:
            held = question.facts.get("grant", {}).get("roles", ())
            if not set(held if isinstance(held, tuple) else ()) <= set(value):
                continue  # nobody is told to give a role back
        assert not decide(book.index, other, now).allowed, (group, key, value)


# One by one


def make_policy(name: str, effect: Effect, *when: Any, **changes: Any) -> Policy:
    return replace(Policy(name, {}, "o", "p", effect, EVERYBODY, when=when), **changes)


ASKED = Question(Principal(IDENTITY, "app"), "read", "ledger", {})


def tell(book: RuleBook, **facts: Any) -> list[tuple[str, Any, str]]:
    asked = replace(ASKED, facts=facts)
    told = explain(book, decide(book.index, asked, NOW), NOW)
    return [(one.fact.name, one.value, one.words) for one in told.missing]


def test_the_least_that_would_do_is_named() -> None:
    book = make_rule_book(
        0, (), (), [make_policy("a", Effect.PERMIT, {"trust.score": {"atLeast": 60}})]
    )
    assert tell(book, trust={"score": 40}) == [("trust.score", 60, "trust.score ≥ 60")]
    assert tell(book) == [("trust.score", 60, "trust.score ≥ 60")]


def test_a_segment_is_named_by_its_name_and_a_role_by_a_grant() -> None:
    role = Role("boss", {}, "o", "p", (), (Permission("ledger", ("read",)),))
    segment = Segment("shop", {}, "o", "p", ("10.1.0.0/16",))
    book = make_rule_book(
        0, [role], (), [make_policy("a", Effect.PERMIT, {"request.segment": "shop"})], [segment]
    )
    assert tell(book) == [("request.ip", ip_address("10.1.0.0"), "from segment shop")]
    book = make_rule_book(0, [role], ())
    assert tell(book) == [("grant.roles", ("boss",), "an approved grant on role boss")]


def test_a_forbid_that_can_be_got_out_of_is_named_beside_the_permit() -> None:
    book = make_rule_book(
        0,
        (),
        (),
        [
            make_policy("a", Effect.PERMIT, {"trust.tier": {"atLeast": "medium"}}),
            make_policy("b", Effect.FORBID, {"request.bound": False}),
        ],
    )
    found = tell(book, trust={"tier": "low"}, request={"bound": False})
    assert {name: value for name, value, _ in found} == {
        "trust.tier": "medium",
        "request.bound": True,
    }


def test_a_forbid_without_a_condition_leaves_nothing_to_be_named() -> None:
    book = make_rule_book(
        0, (), (), [make_policy("a", Effect.PERMIT), make_policy("b", Effect.FORBID)]
    )
    asked = explain(book, decide(book.index, ASKED, NOW), NOW)
    assert asked.reason == "policy/b forbids it."
    assert asked.missing == ()


def test_a_way_that_is_barred_is_passed_over_for_one_that_is_open() -> None:
    """Of two ways to a permit the first is forbidden to everybody."""
    book = make_rule_book(
        0,
        (),
        (),
        [
            make_policy(
                "a", Effect.PERMIT, {"any": [{"request.country": "CH"}, {"request.country": "DE"}]}
            ),
            make_policy("b", Effect.FORBID, {"request.country": "CH"}),
        ],
    )
    assert [(n, v) for n, v, _ in tell(book)] == [("request.country", "DE")]


def test_a_missing_fact_denies_and_is_named() -> None:
    book = make_rule_book(
        0,
        (),
        (),
        [
            make_policy("a", Effect.PERMIT),
            make_policy("b", Effect.FORBID, {"request.country": "KP"}),
        ],
    )
    found = decide(book.index, ASKED, NOW)
    assert not found.allowed
    told = explain(book, found, NOW)
    assert told.unknown == ("request.country",)
    assert [one.fact.name for one in told.missing] == ["request.country"]


def test_a_time_is_named_as_when_it_begins() -> None:
    window = {"from": "12:00", "to": "13:00", "zone": "Europe/Zurich"}
    book = make_rule_book(0, (), (), [make_policy("a", Effect.PERMIT, {"request.time": window})])
    ((name, value, words),) = tell(book)
    assert name == "request.time"
    assert value.isoformat() == "2026-11-20T11:00:00+00:00"
    assert "12:00-13:00 Europe/Zurich" in words


def test_thousands_of_permits_of_others_are_looked_at_to_a_bound() -> None:
    policies = [
        make_policy(f"p{n}", Effect.PERMIT, subjects=Subjects(identities=(f"i{n}",)))
        for n in range(5_000)
    ]
    assert tell(make_rule_book(0, (), (), policies)) == []


def test_a_value_that_runs_into_a_forbid_is_passed_over() -> None:
    book = make_rule_book(
        0,
        (),
        (),
        [
            make_policy("a", Effect.PERMIT, {"request.country": {"in": ["CH", "DE"]}}),
            make_policy("b", Effect.FORBID, {"request.country": "CH"}),
        ],
    )
    found = tell(book, request={"country": "FR"})
    assert [(name, value) for name, value, _ in found] == [("request.country", "DE")]
