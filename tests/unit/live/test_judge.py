"""The judge remembers, and never gives an answer that isn't so any more."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.rulesets import ACTIONS, IDENTITIES, NOW, RESOURCES, ROLES, TERMS, VALUES, books
from troth.live.judge import MOST_CHARACTERS, Judge, Judgement
from troth.policy.fact import FactKind
from troth.policy.inquiry import Inquiry, Party, make_outside_party
from troth.policy.policy import Policy
from troth.policy.resource import Instance, Resource
from troth.policy.rule import EVERYBODY, IDENTITY, Effect, Principal
from troth.policy.rulebook import RuleBook, make_rule_book

TOLD = ("request", "task", "delegation", "resource", "action")
KNOWN = ("identity", "trust", "grant", "subject")


_odd = st.none() | st.sampled_from((1, 1.0, True, ["a", 1], [["a"]], {"a": 1}, "1", -(2**70)))
_often, _rarely = st.integers(0, 4), st.integers(0, 3)
_ends = st.none() | st.integers(-1, 6)
_ids = st.sampled_from(IDENTITIES)
_held = st.lists(st.sampled_from(ROLES), max_size=2, unique=True)
_refusals = st.sampled_from(("", "", "", "It is quarantined."))
_resources = st.sampled_from(RESOURCES)
_actions = st.sampled_from((*ACTIONS, "fly"))
_types = st.sampled_from(("thing", "thing", "nothing"))
_steps = st.sampled_from((0, 0, 0, 1, 20, 40, 60, 3600, -30, 12 * 3600, 86_400))


@st.composite
def parties(draw: st.DrawFn) -> Party:
    facts: dict[str, dict[str, Any]] = {}
    for (group, key), values in VALUES.items():
        if group in KNOWN and draw(_often):
            facts.setdefault(group, {})[key] = draw(values)
    ends = draw(_ends)
    return Party(
        Principal(
            IDENTITY,
            draw(_ids),
            tuple(draw(_held)),
        ),
        facts,
        None if ends is None else NOW + timedelta(seconds=30 * ends),
        draw(_refusals),
    )


@st.composite
def inquiries(draw: st.DrawFn) -> Inquiry:
    told: dict[str, dict[str, Any]] = {}
    for (group, key), values in VALUES.items():
        if group in TOLD and draw(_rarely) == 0:
            value = draw(values)
            # As it comes off the wire: lists, and now and then what is no such fact.
            value = list(value) if isinstance(value, tuple) else value
            odd = draw(_odd)
            told.setdefault(group, {})[key] = value if odd is None else odd
    resource = draw(_resources)
    return Inquiry(
        draw(_actions),
        draw(_types),
        f"{resource}-{draw(st.integers(1, 2))}",
        told,
    )


def view(judgement: Judgement) -> tuple[Any, ...]:
    """All of an answer but that it was remembered."""
    found = judgement.decision
    return (
        (found.allowed, found.determining, found.faults),
        dict(found.read),
        judgement.resource,
        judgement.refusal,
    )


@given(
    st.lists(books(), min_size=1, max_size=2),
    st.lists(parties(), min_size=1, max_size=2),
    st.lists(inquiries(), min_size=1, max_size=3),
    st.data(),
)
@settings(max_examples=80)
def test_what_is_remembered_is_what_would_be_decided_now(
    versions: list[RuleBook], known: list[Party], asked: list[Inquiry], data: st.DataObject
) -> None:
    """Time passes, and is set back; rules change, and what is known of the parties, and back."""
    judge, now = Judge(capacity=data.draw(st.sampled_from((3, 1000)))), NOW
    for _ in range(data.draw(st.integers(5, 20))):
        now += timedelta(seconds=data.draw(_steps))
        book = data.draw(st.sampled_from(versions))
        party = data.draw(st.sampled_from(known))
        inquiry = data.draw(st.sampled_from(asked))
        found = judge.judge(book, party, inquiry, now)
        fresh = make_rule_book(
            0,
            book.roles.values(),
            book.resources.values(),
            book.policies.values(),
            book.segments.values(),
        )
        assert view(found) == view(Judge(0).decide(fresh, party, inquiry, now))
        end = found.decision.valid_until
        assert end is None or party.valid_until is None or end <= party.valid_until


# One by one

LEDGER = Resource("ledger", {}, "o", "p", (), (), {"read": "Read"}, (), TERMS)
PARTY = Party(Principal(IDENTITY, "app"), {"trust": {"score": 50}})
ASKED = Inquiry("read", "ledger", "1")


def make_book(*when: Any, **changes: Any) -> RuleBook:
    policy = Policy("p", {}, "o", "p", Effect.PERMIT, EVERYBODY, when=when)
    return make_rule_book(0, (), [LEDGER], [replace(policy, **changes)])


def ask(judge: Judge, book: RuleBook, now: datetime = NOW, **told: Any) -> tuple[bool, bool]:
    found = judge.judge(book, PARTY, replace(ASKED, told=told), now)
    return found.allowed, found.cached


def test_the_same_again_is_remembered() -> None:
    judge, book = Judge(), make_book()
    assert ask(judge, book) == (True, False)
    assert ask(judge, book) == (True, True)


def test_facts_that_no_rule_reads_make_no_difference() -> None:
    judge, book = Judge(), make_book({"request.country": "CH"})
    assert ask(judge, book, request={"country": "CH", "path": "/a"}) == (True, False)
    assert ask(judge, book, request={"country": "CH", "path": "/b"}) == (True, True)
    assert ask(judge, book, request={"country": "DE", "path": "/a"}) == (False, False)


def test_one_and_true_are_two_facts() -> None:
    judge, book = Judge(), make_book({"request.bound": True})
    assert ask(judge, book, request={"bound": True}) == (True, False)
    assert ask(judge, book, request={"bound": 1}) == (False, False)


def test_lists_off_the_wire_are_texts_and_remembered() -> None:
    judge, book = Judge(), make_book({"request.scopes": "read"})
    assert ask(judge, book, request={"scopes": ["read"]}) == (True, False)
    assert ask(judge, book, request={"scopes": ["read"]}) == (True, True)
    assert ask(judge, book, request={"scopes": [["read"]]}) == (False, False)


def test_a_policy_that_ends_takes_its_answers_with_it() -> None:
    end = NOW + timedelta(seconds=5)
    judge, book = Judge(), make_book(expires_at=end)
    assert ask(judge, book) == (True, False)
    assert ask(judge, book, end - timedelta(microseconds=1)) == (True, True)
    assert ask(judge, book, end) == (False, False)
    assert ask(judge, book, NOW)[0]  # the clock was set back


def test_what_is_known_of_a_party_holds_until_it_says() -> None:
    judge, book, end = Judge(), make_book(), NOW + timedelta(seconds=5)
    party = replace(PARTY, valid_until=end)
    found = judge.judge(book, party, ASKED, NOW)
    assert (found.allowed, found.decision.valid_until) == (True, end)
    late = judge.judge(book, party, ASKED, end)
    assert (late.allowed, late.refusal) == (
        False,
        "What is known of the subject holds no longer; ask again.",
    )


def test_raw_cedar_that_reads_the_time_is_asked_each_time() -> None:
    text = """permit (principal, action, resource)
        when { context.request.time < datetime("2026-11-20T10:00:00Z") };"""
    judge, book = Judge(), make_book(cedar=text, effect=Effect.FORBID)
    assert book.mistakes == ()
    assert ask(judge, book) == (True, False)
    assert ask(judge, book) == (True, False)
    # What a point says the time is doesn't count.
    assert ask(judge, book, NOW + timedelta(hours=1), request={"time": NOW}) == (False, False)


def test_memory_is_bounded_by_answers() -> None:
    judge, book = Judge(capacity=10), make_book({"request.country": "CH"})
    for number in range(100):
        ask(judge, book, request={"country": str(number)})
    for number in range(100):
        judge.judge(book, PARTY, replace(ASKED, resource_id=str(number)), NOW)
    kept = sum(len(entry) for entry in judge._entries.values())
    assert kept == judge._count <= 10
    assert len(judge._entries) <= 10


def test_long_words_are_not_kept() -> None:
    judge, book = Judge(), make_book({"request.path": {"like": "/*"}})
    for told in ("/" * 100, "/" * (MOST_CHARACTERS + 1)):
        assert ask(judge, book, request={"path": told}) == (True, False)
    assert ask(judge, book, request={"path": "/" * 100}) == (True, True)
    assert ask(judge, book, request={"path": "/" * (MOST_CHARACTERS + 1)}) == (True, False)


def test_what_a_point_says_of_a_subject_does_not_count_where_it_is_declared() -> None:
    """Another resource of the type, which doesn't know this one, lets nobody talk over it."""
    kinds = {"admin": FactKind.BOOLEAN, "age": FactKind.NUMBER}
    knows = replace(LEDGER, type="user", attributes=kinds)
    knows = replace(knows, instances=(Instance("alice", {"admin": False}, ("reader",)),))
    other = replace(LEDGER, name="other", type="user", attributes=kinds)
    for resources in ([knows, other], [other, knows]):
        book = make_rule_book(0, (), resources)
        party = make_outside_party(book, "user", "alice", {"admin": True, "age": 7, "x": 1})
        assert party.facts["subject"] == {"admin": False, "age": 7, "type": "user", "id": "alice"}
        assert party.principal.roles == ("reader",)


@pytest.mark.parametrize("told", ["::ffff:10.1.2.3", "10.1.2.3"])
def test_an_address_in_disguise_is_the_address(told: str) -> None:
    book = make_book({"request.ip": {"notIn": ["10.0.0.0/8"]}})
    assert ask(Judge(), book, request={"ip": told}) == (False, False)
    assert ask(Judge(), book, request={"ip": "fe80::1%eth0"}) == (True, False)
    assert ask(Judge(), book, request={"ip": "somewhere"}) == (False, False)


def test_actions_that_a_resource_has_no_more_are_nobodys() -> None:
    """Whoever may do everything may do what there is."""
    book = make_book()
    found = Judge().judge(book, PARTY, replace(ASKED, action="fly"), NOW)
    assert (found.allowed, found.refusal) == (False, "Resource ledger has no action 'fly'.")
