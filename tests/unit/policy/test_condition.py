"""Conditions: what manifests may write becomes Cedar that is understood, and mistakes are told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.rulesets import CONDITIONS, SEGMENTS
from troth.core.manifest.problem import Limits, Node, PlainDocument, Problem
from troth.policy import condition as conditions
from troth.policy.cedar import quote, render_rule
from troth.policy.condition import Condition, judge
from troth.policy.condition_manifest import MAX_DEPTH, MAX_PARTS, Scope, read_condition
from troth.policy.fact import VOCABULARY, FactKind, attribute_fact
from troth.policy.rule import EVERYBODY, Effect, Rule

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
SCOPE = Scope(
    {("resource", "status"): FactKind.TEXT, ("action", "soft"): FactKind.BOOLEAN},
    {segment.name: () for segment in SEGMENTS},
    open=True,
)


def read(value: Any, scope: Scope = SCOPE) -> tuple[Condition, list[Problem]]:
    problems: list[Problem] = []
    node = Node(value, (), PlainDocument(value), Limits(), NOW, problems)
    return read_condition(node, scope), problems


def parse_both(condition: Condition) -> None:
    """Cedar understands it as a permit's and as a forbid's."""
    for effect in Effect:
        cedarpy.PolicySet.from_str(render_rule(Rule("p", effect, EVERYBODY, condition=condition)))


@given(CONDITIONS)
@settings(max_examples=300)
def test_whatever_may_be_written_is_understood_by_cedar(value: Any) -> None:
    found, problems = read(value)
    assert problems == []
    parse_both(found)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ('"', "\\", "\\u{41}", "\\n", "*", "\\*", "';--", "é\u0301", "a\nb", "\x00", "}}", "\u2028")
)


@given(TEXTS, TEXTS)
@settings(max_examples=300)
def test_any_text_means_itself_in_cedar(text: str, other: str) -> None:
    """Whoever builds conditions otherwise than from manifests can't break out of a literal."""
    fact = attribute_fact("resource", "status", FactKind.TEXT)
    for operator in (conditions.Operator.IN, conditions.Operator.LIKE):
        test = conditions.Test(fact, operator, (text,))
        parse_both(test)
        for value in (text, other):
            found = cedarpy.is_authorized(
                {
                    "principal": {"type": "Identity", "id": "a"},
                    "action": {"type": "Action", "id": "a/b"},
                    "resource": {"type": "Resource", "id": "a"},
                    "context": {"resource": {"status": value}},
                },
                render_rule(Rule("p", Effect.PERMIT, EVERYBODY, condition=test)),
                [],
            )
            assert found.diagnostics.errors == []
            assert found.allowed is judge(test, {"resource": {"status": value}})


@given(TEXTS)
def test_a_name_is_one_literal(text: str) -> None:
    rule = Rule(text, Effect.PERMIT, EVERYBODY, resources=(text,), actions=(text,))
    assert cedarpy.policies_to_json_str(render_rule(rule)).count('"effect"') == 1
    assert quote(text).isascii()


SAMPLES: dict[FactKind, Any] = {
    FactKind.TEXT: "some",
    FactKind.NUMBER: 3,
    FactKind.BOOLEAN: True,
    FactKind.TEXTS: ["a", "b"],
    FactKind.ADDRESS: ["10.0.0.0/8", "2001:db8::/32"],
    FactKind.TIME: {"days": ["mon"], "from": "08:00", "to": "09:00"},
}


@pytest.mark.parametrize("fact", VOCABULARY, ids=lambda fact: fact.name)
def test_each_fact_can_be_compared_with_a_value_of_its_kind(fact: Any) -> None:
    found, problems = read({fact.name: fact.order[0] if fact.order else SAMPLES[fact.kind]})
    assert problems == []
    parse_both(found)
    wrong = 3 if fact.kind is not FactKind.NUMBER else "three"
    assert read({fact.name: wrong})[1] != []


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        (3, "", "a mapping of facts"),
        ({}, "", "1 to 64 facts"),
        ([[]], "[0]", "1 to 64 entries"),
        ({"any": []}, "any", "at least one"),
        ({"identity.enviroment": "prod"}, "identity.enviroment", "identity.environment"),
        ({"trust.score": {"atleast": 3}}, "trust.score", "atLeast"),
        ({"trust.score": {"atLeast": "60"}}, "trust.score.atLeast", "whole number"),
        ({"trust.score": {"is": True}}, "trust.score.is", "whole number"),
        ({"trust.score": 2**70}, "trust.score", "whole number"),
        ({"trust.tier": "hi"}, "trust.tier", "unknown"),
        ({"identity.kind": {"atLeast": "a"}}, "identity.kind.atLeast", "has no order"),
        ({"identity.kind": {"startsWith": "a*"}}, "identity.kind.startsWith", "like"),
        ({"identity.kind": {"sameAs": "identity.kind"}}, "identity.kind.sameAs", "with itself"),
        ({"request.ip": "10.0.0.1/8"}, "request.ip", "is not a network"),
        ({"request.bound": "true"}, "request.bound", "true or false"),
        ({"request.time": {}}, "request.time", "a window of time"),
        ({"request.time": {"from": "08:00"}}, "request.time", "belong together"),
        ({"request.time": {"from": "8:00", "to": "09:00"}}, "request.time", "time of day"),
        ({"request.time": {"from": "08+01", "to": "09:00"}}, "request.time", "time of day"),
        ({"request.time": {"from": "T0800", "to": "09:00"}}, "request.time", "time of day"),
        ({"request.time": {"zone": "Mars/Olympus"}}, "request.time", "time zone"),
        ({"request.time": {"zone": "../../etc/passwd"}}, "request.time", "time zone"),
        ({"request.time": {"after": "2027-01-01"}}, "request.time", "is not a moment"),
        (
            {"request.time": {"after": "0001-01-01T00:00:00+23:59"}},
            "request.time",
            "is not a moment",
        ),
        (
            {"request.time": {"before": "9999-12-31T23:59:59-23:59"}},
            "request.time",
            "is not a moment",
        ),
        ({"resource.status": {"like": "a" * 600}}, "resource.status.like", "at most 512"),
        ({"identity.kind": "a\nb"}, "identity.kind", "one line"),
        ({"identity.kind": {"known": "yes"}}, "identity.kind.known", "true or false"),
        ({"request.segment": {"like": "a"}}, "request.segment", "takes 'in'"),
    ],
)
def test_a_mistake_is_told_at_its_place(value: Any, path: str, words: str) -> None:
    problems = read(value)[1]
    assert [one.path for one in problems] == [path]
    assert words in problems[0].message


def test_depth_and_width_are_bounded() -> None:
    deep: Any = {"identity.kind": "job"}
    for _ in range(MAX_DEPTH):
        deep = {"not": deep}
    found, problems = read(deep)
    assert problems == []
    parse_both(found)
    assert "nested" in read({"not": deep})[1][0].message
    assert read({"any": [{"identity.kind": "job"}] * (MAX_PARTS + 1)})[1]
    assert read([{"identity.kind": "job"}] * (MAX_PARTS + 1))[1]


def test_capitals_and_look_alikes_of_a_spiffe_id_are_others() -> None:
    found, _ = read({"identity.spiffe_id": "spiffe://example.org/pay"})
    for told, same in (
        ("spiffe://example.org/pay", True),
        ("spiffe://example.org/Pay", False),
        ("SPIFFE://example.org/pay", False),
        ("spiffe://example.org/pаy", False),  # with a Cyrillic letter
        ("spiffe://example.org/pay/", False),
        ("spiffe://example.org//pay", False),
        ("spiffe://example.org/p%61y", False),
    ):
        assert judge(found, {"identity": {"spiffe_id": told}}) is same
