"""Rules as others write them: conditions, windows, policies in Cedar, and questions about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import cedarpy
from hypothesis import strategies as st

from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import JSON, mutated_json, mutated_text
from troth.core.manifest.problem import Limits, Node, PlainDocument, Problem
from troth.live.judge import Judge
from troth.policy.cedar import render_rule
from troth.policy.condition_manifest import Scope, read_condition
from troth.policy.explanation import explain
from troth.policy.fact import VOCABULARY, FactKind
from troth.policy.inquiry import Inquiry, make_outside_party
from troth.policy.policy import Policy, Segment
from troth.policy.raw import close_raw, read_raw
from troth.policy.resource import Binding, Instance, Resource, TokenFormat, TokenTerms
from troth.policy.rule import EVERYBODY, Effect, Rule
from troth.policy.rulebook import RuleBook, make_rule_book
from troth.policy.schema import find_raw_misfits
from troth.policy.truth import settle

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
CONDITION = {
    "identity.environment": {"in": ["prod", "dev"], "notIn": ["x"]},
    "trust.score": {"atLeast": 60, "below": 90, "above": 7, "atMost": 100},
    "trust.tier": {"atLeast": "medium"},
    "request.ip": {"in": ["10.0.0.0/8", "2001:db8::/32"]},
    "request.scopes": {"containsAny": ["a", "b"], "notContains": "c", "contains": "a"},
    "request.segment": {"notIn": ["shop"]},
    "request.path": {"like": ["/a*b", "*"], "startsWith": "/", "endsWith": "x"},
    "any": [{"identity.owner": {"sameAs": "resource.owner"}}, {"task.id": {"known": True}}],
    "not": [{"request.bound": False}],
    "request.time": [
        {"from": "08:00", "to": "18:00", "zone": "Europe/Zurich", "days": ["mon", "fri"]},
        {"after": "2026-01-01T00:00:00Z", "before": "2030-01-01T00:00:00+02:00"},
    ],
}
WINDOW = {
    "from": "22:00",
    "to": "06:00",
    "zone": "Australia/Lord_Howe",
    "days": ["sat"],
    "after": "2026-01-01T00:00:00Z",
    "before": "2030-01-01T00:00:00Z",
}
RAW = (
    """permit (principal in Role::"a", action in [Action::"ledger/read"], resource)
    when { context.request has ip && context.request.ip.isInRange(ip("10.0.0.0/8")) }
    unless { context.identity.labels["team"] like "a*\\u{2a}" };""",
    """forbid (principal is Identity, action, resource == Resource::"ledger")
    when { if context has trust.score then context.trust.score < 60 else true }; // no""",
    'permit (principal, action, resource) when { {a: [1, {"b": -2}]}.a.containsAny([!true]) };',
    """permit (principal, action, resource)
    when { context.request.time < datetime("2026-01-01") };""",
)
SCOPE = Scope({("resource", "status"): FactKind.TEXT}, {"shop": ()}, open=True)


def read(value: Any) -> tuple[Any, list[Problem]]:
    problems: list[Problem] = []
    node = Node(value, (), PlainDocument(value), Limits(), NOW, problems)
    return read_condition(node, SCOPE), problems


@fuzz(mutated_json(CONDITION), examples=200)
def fuzz_rule_condition(value: Any) -> None:
    """What is read is understood by Cedar, whichever way it is meant; else a mistake is told."""
    found, problems = read(value)
    if not problems:
        settle(found, NOW)
        for effect in Effect:
            rule = Rule("p", effect, EVERYBODY, condition=found)
            cedarpy.PolicySet.from_str(render_rule(rule))
    for one in problems:
        assert one.message.strip()
        assert len(str(one)) < 2_000


@fuzz(st.tuples(mutated_json(WINDOW), st.integers(-(10**6), 10**6)), examples=150)
def fuzz_window(given: tuple[Any, int]) -> None:
    """A window's answer holds until it says, and the moment that it names lies in it."""
    found, problems = read({"request.time": given[0]})
    if problems:
        return
    now = NOW + timedelta(seconds=given[1])
    for window in found.values:
        end = window.find_end(now)
        assert end > now
        assert window.contains(now) is window.contains(end - timedelta(microseconds=1))
        moment = window.find_moment(now)
        assert moment is None or window.contains(moment)


@fuzz(mutated_text(*RAW), examples=300)
def fuzz_cedar_policy(text: str) -> None:
    """Read or refused, and never the end of the process."""
    rule = answer(read_raw, "policy/p", text, None, lambda group, key: FactKind.TEXT)
    if rule is not None:
        cedarpy.PolicySet.from_str(render_rule(rule))
        find_raw_misfits(rule, {})
    close_raw("policy/p", text, None)


@contextmanager
def open_book() -> Iterator[RuleBook]:
    """Rules that ask about everything."""
    asked = [fact.name for fact in VOCABULARY if fact.kind is not FactKind.TIME]
    everything = ({"any": [{name: {"known": True}} for name in asked]},)
    shop = Segment("shop", {}, "o", "p", ("10.0.0.0/8",))
    ledger = Resource(
        *("ledger", {}, "o", "p", (), (), {"read": "Read"}, ()),
        TokenTerms(TokenFormat.JWT, "ES256", timedelta(minutes=5), Binding.NONE),
        type="doc",
        attributes={"status": FactKind.TEXT, "level": FactKind.NUMBER, "tags": FactKind.TEXTS},
        action_attributes={"soft": FactKind.BOOLEAN},
        instances=(Instance("one", {"status": "open"}, ("clerk",)),),
    )
    whens: tuple[tuple[Effect, Any], ...] = (
        (Effect.PERMIT, (CONDITION,)),
        (Effect.PERMIT, everything),
        (Effect.PERMIT, ({"resource.status": "open"}, {"resource.tags": "a"})),
        (Effect.FORBID, ({"request.ip": {"notIn": ["10.0.0.0/8"]}}, {"action.soft": True})),
        (Effect.FORBID, ({"resource.level": {"atLeast": 3}},)),
    )
    policies = [
        Policy(f"p{number}", {}, "o", "p", effect, EVERYBODY, when=when)
        for number, (effect, when) in enumerate(whens)
    ]
    book = make_rule_book(0, (), [ledger], policies, [shop])
    assert not book.mistakes
    yield book


TOLD = {
    "request": {
        "ip": "10.0.0.1",
        "country": "CH",
        "bound": True,
        "scopes": ["a"],
        "path": "/a",
        "time": "2026-01-01T00:00:00Z",
    },
    "task": {"id": "t", "purpose": "p"},
    "delegation": {"depth": 1, "actors": ["a"]},
    "resource": {"status": "open", "level": 3, "tags": ["a"], "owner": "me"},
    "action": {"soft": True, "name": "x"},
}
_MEMBERS = st.dictionaries(st.sampled_from(sorted(TOLD)), st.dictionaries(st.text(), JSON))


@fuzz(
    st.tuples(
        mutated_json(TOLD).filter(
            lambda told: (
                isinstance(told, dict) and all(isinstance(one, dict) for one in told.values())
            )
        )
        | _MEMBERS,
        st.sampled_from(("one", "two", "\ud800", "x" * 5_000, "\x00")),
        st.sampled_from(("one", "\udfff", "")),
    ),
    examples=150,
    stage=open_book,
)
def fuzz_inquiry(given: tuple[dict[str, Any], str, str], book: RuleBook) -> None:
    """Whatever a point tells, there is an answer, the same again, and a reason."""
    told, subject, thing = given
    judge = Judge(100)
    party = make_outside_party(book, "doc", subject, told.get("resource", {}))
    inquiry = Inquiry("read", "doc", thing, told)
    first = judge.judge(book, party, inquiry, NOW)
    again = judge.judge(book, party, inquiry, NOW)
    assert again.allowed is first.allowed
    explanation = explain(book, first.decision, NOW)
    assert explanation.reason
    assert not (first.allowed and explanation.missing)
