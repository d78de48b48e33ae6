"""Findings: what is legal and probably not meant."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.rulesets import CONDITIONS, NOW, TERMS, books, facts, questions
from troth.policy.condition import judge, list_facts
from troth.policy.decision import decide
from troth.policy.fact import NOW as TIME
from troth.policy.fact import FactKind
from troth.policy.findings import Finding, list_findings, list_unused
from troth.policy.policy import BuiltIn, Policy, Segment
from troth.policy.resource import Instance, Resource
from troth.policy.role import Permission, Role
from troth.policy.rule import EVERYBODY, Effect, Subjects
from troth.policy.rulebook import make_rule_book
from troth.policy.truth import settle

CLERKS = Subjects(roles=("clerk",))
LEDGER = Resource("ledger", {}, "o", "p", (), (), {"read": "Read", "write": "Write"}, (), TERMS)
WEEKEND = ["fri", "sat", "sun"]
PERMIT, FORBID = Effect.PERMIT, Effect.FORBID


def make_policy(name: str, effect: Effect = PERMIT, *when: Any, **changes: Any) -> Policy:
    made = Policy(name, {}, "o", "p", effect, CLERKS, ("read",), ("ledger",), when)
    return replace(made, **changes)


def find(*policies: Policy, roles: Any = (), resources: Any = (LEDGER,)) -> list[Finding]:
    book = make_rule_book(0, roles, resources, policies)
    assert book.mistakes == ()
    return list(list_findings(book, NOW))


def name(found: list[Finding]) -> list[tuple[str, str]]:
    return [(one.rule.removeprefix("policy/"), one.name) for one in found]


# Conditions


@given(CONDITIONS, st.lists(facts(), min_size=1, max_size=6), st.integers(0, 8 * 24 * 60))
@settings(max_examples=300)
def test_nothing_is_said_of_a_condition_that_is_not_so(
    value: Any, samples: list[dict[str, dict[str, Any]]], minutes: int
) -> None:
    when = tuple(value) if isinstance(value, list) else (value,)
    kinds = {"status": FactKind.TEXT, "level": FactKind.NUMBER, "tags": FactKind.TEXTS}
    ledger = replace(LEDGER, attributes=kinds, action_attributes={"soft": FactKind.BOOLEAN})
    segments = [Segment(n, {}, "o", "p", ("10.1.0.0/16",)) for n in ("shop", "office")]
    book = make_rule_book(0, (), [ledger], [make_policy("p", PERMIT, *when)], segments)
    assert book.mistakes == ()
    (rule,) = book.index.rules
    found = settle(rule.condition, NOW)
    if found is None:
        return
    for known in samples:
        moment = NOW + timedelta(minutes=minutes)
        known = {**known, "request": {**known.get("request", {}), TIME.key: moment}}
        if all(fact.key in known.get(fact.group, {}) for fact in list_facts(rule.condition)):
            assert judge(rule.condition, known) in (found, None)


@pytest.mark.parametrize(
    ("when", "word"),
    [
        ({"trust.score": {"atLeast": 60, "atMost": 40}}, "never"),
        ({"trust.score": {"above": 59, "below": 60}}, "never"),
        ({"trust.score": {"atLeast": 101}}, "never"),
        ({"trust.score": {"atLeast": 0}}, "always"),
        ({"delegation.depth": {"atLeast": 0}}, "always"),
        ({"trust.score": {"atLeast": 40, "atMost": 60}}, ""),
        ({"any": [{"trust.score": {"atLeast": 40}}, {"trust.score": {"atMost": 60}}]}, "always"),
        ({"identity.kind": {"is": "job", "not": "job"}}, "never"),
        ({"identity.kind": {"in": ["job", "bot"], "notIn": ["bot", "job"]}}, "never"),
        ([{"identity.kind": "job"}, {"identity.kind": "service"}], "never"),
        ([{"identity.kind": "job"}, {"identity.owner": "x"}, {"identity.kind": "bot"}], "never"),
        ([{"identity.kind": "job"}, {"identity.owner": "x"}], ""),
        ({"trust.tier": {"atLeast": "low"}}, "always"),
        ({"trust.tier": {"atLeast": "high", "atMost": "medium"}}, "never"),
        ({"request.bound": {"is": True, "not": True}}, "never"),
        ({"request.ip": {"in": ["10.0.0.0/8"], "notIn": ["10.0.0.0/8"]}}, "never"),
        ({"request.ip": {"in": ["10.1.0.0/16"], "notIn": ["10.0.0.0/8"]}}, "never"),
        ({"request.ip": {"in": ["10.0.0.0/8"], "notIn": ["10.1.0.0/16"]}}, ""),
        ({"request.ip": ["0.0.0.0/0", "::/0"]}, "always"),
        ({"request.time": {"before": "2026-01-01T00:00:00Z"}}, "never"),
        (
            [
                {"request.time": {"days": ["mon"], "from": "08:00", "to": "09:00"}},
                {"request.time": {"days": ["tue"]}},
            ],
            "never",
        ),
        ({"request.time": [{"days": ["mon", "tue", "wed"]}, {"days": ["thu", "fri"]}]}, ""),
        (
            {
                "request.time": [
                    {"days": ["mon", "tue", "wed", "thu"]},
                    {"days": ["fri", "sat", "sun"]},
                ]
            },
            "always",
        ),
        ({"not": {"trust.score": {"atLeast": 0}}}, "never"),
        ({"identity.kind": {"like": "*"}}, ""),
    ],
)
def test_conditions_that_say_nothing_or_too_much(when: Any, word: str) -> None:
    found = find(make_policy("p", PERMIT, *(when if isinstance(when, list) else [when])))
    assert name(found) == ([(word, "p")] if word else [])
    assert not found or found[0].path == ("spec", "when")


# Rules beside others


def test_a_permit_that_a_forbid_covers_is_unreachable() -> None:
    forbid = make_policy("no", FORBID)
    assert name(find(make_policy("p"), forbid)) == [("unreachable", "p")]
    for wider in (
        replace(forbid, subjects=EVERYBODY),
        replace(forbid, actions=()),
        replace(forbid, resources=()),
        replace(forbid, resources=("till", "ledger"), actions=("write", "read")),
        replace(forbid, subjects=Subjects(roles=("x", "clerk"), types=("user",))),
        replace(forbid, when=({"trust.score": {"atLeast": 0}},)),
    ):
        assert ("unreachable", "p") in name(find(make_policy("p"), wider)), wider
    for narrower in (
        replace(forbid, actions=("write",)),
        replace(forbid, resources=("till",)),
        replace(forbid, subjects=Subjects(roles=("x",))),
        replace(forbid, when=({"trust.score": {"atMost": 3}},)),
        replace(forbid, expires_at=NOW + timedelta(days=1)),
    ):
        assert name(find(make_policy("p"), narrower)) == [], narrower
    role = Role("clerk", {}, "o", "p", (), (Permission("ledger", ("read",)),))
    found = find(forbid, roles=[role])
    assert name(found) == [("unreachable", "clerk")]
    assert found[0].path == ("spec", "permissions", 0)


@given(books(), st.data())
@settings(max_examples=80)
def test_what_is_said_to_be_unreachable_or_needless_is(book: Any, data: st.DataObject) -> None:
    """Nothing is answered otherwise without it."""
    found = [one for one in list_findings(book, NOW) if one.kind == "Policy"]
    words = {"policy/unreachable", "policy/implied", "policy/duplicate"}
    for one in found:
        if one.rule not in words:
            continue
        others = [policy for policy in book.policies.values() if policy.name != one.name]
        if BuiltIn.ENVIRONMENTS in book.policies[one.name].relaxes:
            continue
        without = make_rule_book(
            0, book.roles.values(), book.resources.values(), others, book.segments.values()
        )
        question = data.draw(questions(book))
        now = data.draw(st.integers(0, 9000).map(lambda n: NOW + timedelta(minutes=n)))
        before = decide(book.index, question, now).allowed
        assert decide(without.index, question, now).allowed is before, one


def test_the_same_twice_and_what_another_permits_already() -> None:
    assert name(find(make_policy("a"), make_policy("b"))) == [("duplicate", "b")]
    assert name(find(make_policy("a"), make_policy("b", actions=("read", "write")))) == [
        ("implied", "a")
    ]
    when = {"trust.score": {"atLeast": 50}}
    assert name(find(make_policy("a", PERMIT, when), make_policy("b"))) == [("implied", "a")]
    assert name(find(make_policy("a", PERMIT, when), make_policy("b", PERMIT, when))) == [
        ("duplicate", "b")
    ]
    ends = NOW + timedelta(days=1)
    assert name(find(make_policy("a"), make_policy("b", expires_at=ends))) == [("implied", "b")]
    relaxing = make_policy("b", relaxes=(BuiltIn.ENVIRONMENTS,))
    assert name(find(make_policy("a", actions=()), relaxing)) == []


def test_wide_permits() -> None:
    everything = make_policy("p", actions=(), resources=())
    assert name(find(everything)) == [("wildcard", "p")]
    assert name(find(make_policy("p", subjects=EVERYBODY))) == [("anyone", "p")]
    assert name(find(make_policy("p", PERMIT, {"identity.kind": "job"}, subjects=EVERYBODY))) == []
    vault = replace(LEDGER, sensitivity="critical")
    assert name(find(make_policy("p"), resources=[vault])) == [("critical", "p")]
    assert name(find(make_policy("p", PERMIT, {"identity.kind": "job"}), resources=[vault])) == []
    assert name(find(make_policy("p", actions=()), resources=[vault])) == [
        ("critical", "p"),
        ("wildcard", "p"),
    ]
    assert name(find(make_policy("p", FORBID, actions=()), resources=[vault])) == []


def test_resources_that_are_taken_for_another() -> None:
    one, other = (replace(LEDGER, name=n, type="doc", pattern="a-*") for n in ("one", "two"))
    assert name(find(resources=[one, other])) == [("ambiguous", "two")]
    assert name(find(resources=[one, replace(other, pattern="b-*")])) == []
    odd = replace(LEDGER, instances=(Instance("plain"), Instance("lеdger")))
    (found,) = find(resources=[odd])
    assert (found.rule, found.path) == ("policy/look-alike", ("spec", "instances", 1))
    assert "\\u0435" in found.message


def test_what_nobody_uses() -> None:
    roles = {
        n: Role(n, {}, "o", "p", includes, ())
        for n, includes in (("a", ("b",)), ("b", ()), ("c", ("d",)), ("d", ()))
    }
    segments = [Segment(n, {}, "o", "p", ("10.0.0.0/8",)) for n in ("x", "y", "z")]
    policies = [
        make_policy("p", PERMIT, {"any": [{"request.segment": {"notIn": ["x"]}}]}),
        make_policy("q", subjects=Subjects(roles=("d", "e"))),
        make_policy("r", subjects=Subjects(roles=("d", "b"))),
    ]
    found = list(list_unused(roles, policies, segments, ["a", "clerk"]))
    assert name(found) == [
        ("unheld", "c"),
        ("unheld", "d"),
        ("unheld", "q"),
        ("unused-segment", "y"),
        ("unused-segment", "z"),
    ]


def test_a_role_for_grants_is_held_by_nobody() -> None:
    when = ({"grant.roles": {"contains": "migrator"}},)
    roles = {
        "migrator": Role("migrator", {}, "o", "p", (), (Permission("ledger", ("read",), when),)),
        "helper": Role("helper", {}, "o", "p", (), ()),
    }
    policies = [make_policy("p", PERMIT, {"grant.roles": {"contains": ["other"]}})]
    policies.append(make_policy("q", subjects=Subjects(roles=("other",))))
    assert name(list(list_unused(roles, policies, [], ["clerk"]))) == [("unheld", "helper")]


@pytest.mark.parametrize("alike", [True, False])
def test_very_many_are_looked_at_in_seconds(alike: bool) -> None:
    """All about one thing, or each about its own: rules are compared with few others."""
    many = [
        make_policy(
            f"p{n}",
            FORBID if n % 3 == 0 else PERMIT,
            {"trust.score": {"atLeast": n % 90 + 1}},
            resources=("ledger",) if alike else (f"r{n % 5000}",),
            subjects=CLERKS if alike else Subjects(roles=(f"r{n % 700}",)),
        )
        for n in range(20_000)
    ]
    book = make_rule_book(0, (), [LEDGER], many)
    start = time.process_time()
    list(list_findings(book, datetime(2026, 1, 1, tzinfo=UTC)))
    assert time.process_time() - start < 4
