"""Decisions inside a service: by what it was told, for as long as that may be relied on."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.enforcers import (
    LEASE,
    LEDGER,
    TILL,
    make_change,
    make_enforcer,
    make_party,
    make_rules,
    make_snapshot,
    tell_guard,
)
from tests.fakes.issuer import NOW
from troth.core.clock import VirtualClock
from troth.core.errors import Denied, Internal, Invalid
from troth.policy.rule import Effect, Rule, Subjects
from troth.sdk.access import ASKER, AccessDecision, AccessDenied, Asker, Subject
from troth.sdk.enforcer import Enforcer
from troth.wire.api.rules import EvidenceView, PolicyHeartbeat

MTLS = {"request": {"transport": "mtls"}}


def may(enforcer: Enforcer, action: str = "read", who: Any = TILL, told: Any = MTLS) -> bool:
    return enforcer.decide(who, action, "ledger", "b1", told).allowed


def test_it_decides_by_the_rules_and_denies_whom_nobody_knows() -> None:
    enforcer = make_enforcer()
    assert may(enforcer)
    assert may(enforcer, who="till")
    assert not may(enforcer, "write")
    assert not may(enforcer, told={})  # how it came isn't known, and plain is forbidden
    for stranger in ("spiffe://example.org/nobody", "", "spiffe://else.org/till", "TILL"):
        decision = enforcer.decide(stranger, "read", "ledger", "b1", MTLS)
        assert not decision.allowed
        assert "no identity" in decision.reason
    assert not may(enforcer, who=Subject("user", "till"))


def test_what_is_not_served_is_not_permitted() -> None:
    enforcer = make_enforcer()
    for type_, action in (("vault", "read"), ("ledger", "burn"), ("", "read")):
        assert not enforcer.decide(TILL, action, type_, "", MTLS).allowed
    told = make_snapshot(
        rules=make_rules(resources=(LEDGER,)),
    )
    enforcer = make_enforcer(told=told)
    enforcer._policies.known.served = frozenset()  # type: ignore[union-attr]
    decision = enforcer.decide(TILL, "read", "ledger", "", MTLS)
    assert "isn't served here" in decision.reason


def test_before_the_first_word_and_after_the_lease_nothing_is_permitted() -> None:
    clock = VirtualClock(NOW)
    silent = make_enforcer(clock, silent=True).decide(TILL, "read", "ledger")
    assert (silent.allowed, silent.unavailable) == (False, True)
    enforcer = make_enforcer(clock)
    clock.advance(timedelta(seconds=LEASE - 0.1))
    assert may(enforcer)
    clock.advance(timedelta(seconds=0.2))
    decision = enforcer.decide(TILL, "read", "ledger", "b1", MTLS)
    assert (decision.allowed, decision.unavailable) == (False, True)
    assert "longer than the lease of 15 s" in decision.reason
    enforcer._policies.take(PolicyHeartbeat(epoch=7, mark="m", as_of=LEASE), 0.0)
    tell_guard(enforcer.guard, clock)
    assert may(enforcer)


def test_a_service_may_shorten_the_lease_and_not_lengthen_it() -> None:
    clock = VirtualClock(NOW)
    short, long = make_enforcer(clock, lease=2.0), make_enforcer(clock, lease=3600.0)
    clock.advance(timedelta(seconds=3))
    assert not may(short)
    assert may(long)
    clock.advance(timedelta(seconds=LEASE))
    tell_guard(long.guard, clock)
    assert not may(long)
    with pytest.raises(Invalid):
        make_enforcer(clock, lease=0)


def test_who_is_cut_off_is_denied_whatever_the_rules_say() -> None:
    clock = VirtualClock(NOW)
    enforcer = make_enforcer(clock)
    assert may(enforcer)
    tell_guard(enforcer.guard, clock, till="quarantined")
    decision = enforcer.decide(TILL, "read", "ledger", "b1", MTLS)
    assert not decision.allowed
    assert decision.reason == f"{TILL} is quarantined."
    assert not decision.unavailable


def test_states_expiry_and_roles_of_a_party_count() -> None:
    clock = VirtualClock(NOW)
    for party in (
        make_party(state="suspended"),
        make_party(roles=[]),
        make_party(state="proposed"),
    ):
        assert not may(make_enforcer(clock, told=make_snapshot(parties=[party])))
    soon = make_party(expires_at=NOW + timedelta(seconds=5))
    enforcer = make_enforcer(clock, told=make_snapshot(parties=[soon]))
    assert may(enforcer)
    clock.advance(timedelta(seconds=5))
    assert not may(enforcer)
    assert "has expired" in enforcer.decide(TILL, "read", "ledger", "b1", MTLS).reason


def test_evidence_fades_here_too_and_new_evidence_counts() -> None:
    clock = VirtualClock(NOW)
    praise = EvidenceView(weight=30, half_life=3600.0, at=NOW)
    told = make_snapshot(parties=[make_party(evidence=[praise])])
    enforcer = make_enforcer(clock, told=told)
    assert may(enforcer, "write")
    clock.advance(timedelta(hours=2))
    enforcer._policies.take(PolicyHeartbeat(epoch=7, mark="m", as_of=clock.monotonic()), 0.0)
    tell_guard(enforcer.guard, clock)
    assert not may(enforcer, "write")
    missing = enforcer.decide(TILL, "write", "ledger", "b1", MTLS).explain().missing
    assert [one.words for one in missing] == ["trust.score ≥ 90"]


def test_changes_of_rules_and_parties_take_effect() -> None:
    clock = VirtualClock(NOW)
    enforcer = make_enforcer(clock)
    forbid = Rule("policy/no", Effect.FORBID, Subjects(anyone=True), (), ("ledger",))
    enforcer._policies.take(make_change(rules=make_rules(forbid)), clock.monotonic())
    assert enforcer.decide(TILL, "read", "ledger", "b1", MTLS).reason == "policy/no forbids it."
    enforcer._policies.take(
        make_change(since=8, epoch=9, rules=make_rules(), gone=["till"]), clock.monotonic()
    )
    assert not may(enforcer)
    enforcer._policies.take(
        make_change(since=9, epoch=10, parties=[make_party()]), clock.monotonic()
    )
    assert may(enforcer)
    with pytest.raises(Internal, match="goes on from 7"):
        enforcer._policies.take(make_change(), clock.monotonic())
    with pytest.raises(Internal, match="another journal"):
        enforcer._policies.take(PolicyHeartbeat(epoch=1, mark="", as_of=0.0), 0.0)


def test_what_is_not_understood_changes_nothing() -> None:
    enforcer = make_enforcer()
    rules = make_rules()
    odd = rules.rules[0].__class__(id="x", effect="maybe")
    with pytest.raises(Internal, match="newer version"):
        enforcer._policies.take(
            make_change(
                rules=rules.__class__(
                    **{**{f: getattr(rules, f) for f in rules.__struct_fields__}, "rules": [odd]}
                )
            ),
            0.0,
        )
    with pytest.raises(Internal, match="newer version"):
        enforcer._policies.take(make_change(parties=[make_party(kind="robot")]), 0.0)
    assert may(enforcer)


def test_a_decision_is_no_truth_value_and_is_reported() -> None:
    enforcer = make_enforcer()
    decision = enforcer.decide(TILL, "read", "ledger", "b1", MTLS)
    with pytest.raises(TypeError, match="allowed"):
        bool(decision)
    other = enforcer.decide(TILL, "write", "ledger", "b1", MTLS)
    assert decision.id != other.id
    assert enforcer.reporter.waiting == 2
    assert decision.policies == ("role/clerk/1",)
    assert (decision.reason, other.reason) == ("role/clerk/1 permits it.", "No rule permits it.")


def test_threads_may_ask_at_once() -> None:
    enforcer = make_enforcer()
    wrong: list[AccessDecision] = []

    def ask(number: int) -> None:
        for turn in range(200):
            action = ("read", "write")[(number + turn) % 2]
            found = enforcer.decide(TILL, action, "ledger", f"b{turn % 7}", MTLS)
            if found.allowed is not (action == "read"):
                wrong.append(found)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert enforcer.reporter.waiting == 1600


# The decorator


def test_functions_are_called_for_those_who_may() -> None:
    enforcer = make_enforcer()

    @enforcer.permit("read", "ledger", id=lambda args: str(args["book"]))
    def read(book: str, page: int = 1) -> str:
        """Read it."""
        return f"{book} {page}"

    @enforcer.permit("write", "ledger")
    async def write() -> str:
        return "written"

    with pytest.raises(AccessDenied, match="no identity"):
        read("b1")  # nobody asks
    before = ASKER.set(Asker(TILL, MTLS))
    try:
        assert read("b1", page=2) == "b1 2"
        assert read.__name__ == "read"
        with pytest.raises(Denied, match="No rule permits it") as caught:
            asyncio.run(write())
        assert isinstance(caught.value, AccessDenied)
        assert caught.value.decision.explain().missing
    finally:
        ASKER.reset(before)
    with pytest.raises(TypeError):
        read()  # type: ignore[call-arg]


def test_the_subject_may_be_found_from_the_arguments() -> None:
    enforcer = make_enforcer()

    @enforcer.permit("read", "ledger", subject=lambda args: str(args["who"]))
    def read(who: str) -> str:
        return who

    before = ASKER.set(Asker(TILL, MTLS))
    try:
        assert read(TILL) == TILL
        with pytest.raises(AccessDenied):
            read("spiffe://example.org/other")
    finally:
        ASKER.reset(before)
    with pytest.raises(AccessDenied):
        read(TILL)  # how the request came is unknown now, and plain is forbidden
    with pytest.raises(Invalid, match="generator"):

        @enforcer.permit("read", "ledger")
        def many() -> Any:
            yield 1
