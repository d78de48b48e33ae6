"""Replays: what they say of a recorded decision is what it would be, or that nobody can tell."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.rulesets import NOW, TERMS, books, facts
from troth.policy.comparison import Side
from troth.policy.decision import decide
from troth.policy.fact import Fact, FactKind, render_value
from troth.policy.inquiry import Inquiry, Party, make_question
from troth.policy.replay import Outcome, Recorded, Replayer, read_facts
from troth.policy.residue import is_open
from troth.policy.resource import Resource
from troth.policy.rule import Principal
from troth.policy.rulebook import RuleBook, make_rule_book

ROLES = st.lists(st.sampled_from(("reader", "writer", "boss")), max_size=2, unique=True)
TOLD = ("request", "task", "delegation", "resource", "action")


def make_party(book: RuleBook, known: dict[str, dict[str, Any]], roles: list[str]) -> Party:
    identity = {"name": "app", "state": "active", **known.get("identity", {})}
    groups: dict[str, dict[str, Any]] = {
        "identity": identity,
        "subject": {"type": "identity", "id": "app"},
        "grant": {"roles": ()},
    }
    if "trust" in known:
        groups["trust"] = known["trust"]
    return Party(Principal("identity", "app", book.expand(roles)), groups)


def ask(book: RuleBook, party: Party, inquiry: Inquiry, at: Any) -> Any:
    resource = book.match(inquiry.resource_type, inquiry.resource_id)
    assert resource is not None
    return decide(book.index, make_question(book, resource, inquiry, party), at)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_a_replay_never_guesses(data: st.DataObject) -> None:
    present, proposed = data.draw(books()), data.draw(books())
    known, roles = data.draw(facts()), data.draw(ROLES)
    at = NOW + timedelta(minutes=data.draw(st.integers(0, 3000)))
    inquiry = Inquiry(
        data.draw(st.sampled_from(("read", "write", "burn"))),
        "thing",
        data.draw(st.sampled_from(("ledger-7", "till-7", "ledger-1"))),
        {group: known[group] for group in TOLD if group in known},
    )
    parties = [make_party(book, known, roles) for book in (proposed, present)]
    recorded_decision = ask(present, parties[1], inquiry, at)
    recorded = Recorded(
        id="dec_1",
        at=at,
        subject_type="identity",
        subject="app",
        action=inquiry.action,
        resource_type=inquiry.resource_type,
        resource_id=inquiry.resource_id,
        allowed=recorded_decision.allowed,
        facts={name: render_value(value) for name, value in recorded_decision.read.items()},
        reads_all=data.draw(st.booleans()),
    )
    # Of whom a replay knows only what is declared: how much is relied on them is what was read.
    declared = [
        Party(
            party.principal,
            {
                group: {
                    key: value
                    for key, value in values.items()
                    if not is_open(Fact(group, key, FactKind.TEXT))
                }
                for group, values in party.facts.items()
                if group != "trust"
            },
        )
        for party in parties
    ]
    sides = [
        Side(book, {("identity", "app"): party})
        for book, party in zip((proposed, present), declared, strict=True)
    ]
    verdict = Replayer(*sides).replay(recorded)
    truth = ask(proposed, parties[0], inquiry, at).allowed
    if verdict.outcome is Outcome.UNKNOWN:
        assert verdict.words
        return
    wanted = {
        (True, True): Outcome.SAME,
        (False, False): Outcome.SAME,
        (True, False): Outcome.DENIED,
        (False, True): Outcome.PERMITTED,
    }
    audience = "audience" in known.get("request", {})
    if not (audience and "request.audience" not in recorded.facts):
        assert verdict.outcome is wanted[recorded.allowed, truth]
    unchanged = Replayer(sides[1], sides[1]).replay(
        Recorded(**{**{n: getattr(recorded, n) for n in Recorded.__slots__}, "reads_all": True})
    )
    assert unchanged.outcome is Outcome.SAME


RESOURCE = Resource(
    "ledger",
    {},
    "o",
    "p",
    (),
    (),
    {"read": "Read"},
    (),
    TERMS,
    attributes={"level": FactKind.NUMBER, "tags": FactKind.TEXTS},
)


def test_facts_that_dont_fit_any_more_are_left_out() -> None:
    found = read_facts(
        {
            "trust.score": "many",
            "trust.tier": "low",
            "request.ip": "nowhere",
            "request.bound": 1,
            "request.scopes": ["a", 1],
            "resource.level": True,
            "resource.tags": ["a"],
            "resource.gone": "x",
            "identity.labels.team": "a",
            "delegation.depth": 2,
        },
        RESOURCE,
    )
    assert found == {
        "trust": {"tier": "low"},
        "resource": {"tags": ("a",)},
        "identity": {"labels.team": "a"},
        "delegation": {"depth": 2},
    }


def test_who_was_cut_off_or_is_gone_isnt_a_matter_of_rules() -> None:
    book = make_rule_book(0, (), ())
    values: dict[str, Any] = {
        "id": "dec_1",
        "at": NOW,
        "subject_type": "identity",
        "subject": "app",
        "action": "read",
        "resource_type": "thing",
        "resource_id": "x",
        "allowed": False,
    }
    party = Party(Principal("identity", "app"), {"identity": {"name": "app"}})
    side = Side(book, {("identity", "app"): party})
    replayer = Replayer(side, side)
    cut = Recorded(**values, refusal="spiffe://example.org/app is suspended.")
    assert replayer.replay(cut).outcome is Outcome.SAME
    gone = Recorded(**{**values, "subject": "other"})
    assert replayer.replay(gone).outcome is Outcome.SKIPPED
    undeclared = Recorded(**{**values, "allowed": True})
    assert replayer.replay(undeclared).outcome is Outcome.DENIED
