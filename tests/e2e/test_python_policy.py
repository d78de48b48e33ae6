"""Local decisions as a service makes them: against real servers, while they are there and away."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Server, wait_for
from tests.fakes.town import identity, policy, resource, role
from troth.archive.log import DecisionLog
from troth.archive.record import DecisionRecord
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy
from troth.core.errors import Unavailable
from troth.sdk.access import AccessDenied
from troth.sdk.enforcer import Enforcer
from troth.sdk.guard import PeerGuard
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.api.trust import AddEvidence

pytestmark = pytest.mark.e2e

BOUND = 1.0
CUT_OFF_BOUND = 0.25
ROUNDS = 5
"""How often it is measured anew: other tests keep the same two cores busy meanwhile."""

TILL = "spiffe://troth.local/till"


def apply(troth: Server, *documents: ManifestDocument) -> None:
    troth.call("manifest.apply", SubmitManifests(documents=list(documents)))


def declare(troth: Server) -> None:
    """This process serves a ledger and a vault; a till may read the one, and isn't known there."""
    selectors = [f"unix:uid:{os.getuid()}", f"unix:path:{Path(sys.executable).resolve()}"]
    apply(
        troth,
        resource("ledger", "tests"),
        resource("vault", "tests"),
        role("clerk", "ledger", "read"),
        identity("tests", 0, selectors=selectors),
        identity("till", 12_345, "clerk"),
    )


@contextmanager
def enforce(troth: Server, **options: Any) -> Iterator[Enforcer]:
    guard = PeerGuard([troth.mutual], troth.endpoint, lease=options.get("lease"))
    with Enforcer(guard, **options) as enforcer:
        enforcer.wait_ready()
        yield enforcer


@pytest.fixture(scope="module")
def enforcer(troth: Server) -> Iterator[Enforcer]:
    declare(troth)
    with enforce(troth) as made:
        yield made


def may(enforcer: Enforcer, action: str = "read", of: str = "ledger", who: str = TILL) -> bool:
    return enforcer.decide(who, action, of).allowed


def measure(bound: float, attempt: Callable[[int], float]) -> None:
    """Succeed once one of several attempts is within the bound."""
    taken = []
    for number in range(ROUNDS):
        taken.append(attempt(number))
        if taken[-1] < bound:
            return
    raise AssertionError(f"never within {bound} s: {taken}")


def test_it_decides_by_what_is_declared_and_says_why(enforcer: Enforcer) -> None:
    assert may(enforcer)
    assert may(enforcer, who="till")
    assert not may(enforcer, "write")
    assert not may(enforcer, of="vault")
    denied = enforcer.decide(TILL, "read", "vault")
    assert denied.reason == "No rule permits it."
    assert not may(enforcer, who="spiffe://troth.local/nobody")


def test_a_changed_policy_takes_effect_within_a_second(troth: Server, enforcer: Enforcer) -> None:
    def change(number: int) -> float:
        effect = "forbid" if number % 2 == 0 else "permit"
        began = time.monotonic()
        apply(
            troth,
            policy(
                "hours",
                effect=effect,
                subjects={"identities": ["till"]},
                actions=["read"],
                resources=["ledger"],
            ),
        )
        wait_for(lambda: may(enforcer) is (effect == "permit"), "the policy")
        return time.monotonic() - began

    measure(BOUND, change)
    apply(
        troth,
        policy(
            "hours",
            effect="permit",
            subjects={"identities": ["till"]},
            actions=["read"],
            resources=["ledger"],
        ),
    )
    wait_for(lambda: may(enforcer), "the policy is harmless again")


def test_a_quarantine_is_known_at_once(troth: Server, enforcer: Enforcer) -> None:
    def cut_off(number: int) -> float:
        wait_for(lambda: may(enforcer), "it may")
        asked = troth.move("till", "quarantine")
        wait_for(lambda: not may(enforcer), "a denial")
        denied = time.monotonic()
        assert "quarantined" in enforcer.decide(TILL, "read", "ledger").reason
        troth.move("till", "release")
        return denied - asked

    measure(CUT_OFF_BOUND, cut_off)
    wait_for(lambda: may(enforcer), "the release")


def test_evidence_changes_what_is_permitted(troth: Server, enforcer: Enforcer) -> None:
    apply(
        troth,
        policy(
            "open-vault",
            effect="permit",
            subjects={"identities": ["till"]},
            actions=["read"],
            resources=["vault"],
            when=[{"trust.score": {"atLeast": 30}}],
        ),
    )
    wait_for(lambda: may(enforcer, of="vault"), "the vault is open")
    body = AddEvidence(
        name="till", weight=-60, half_life=3600, kind="odd", origin="test", reason="a test"
    )
    troth.call("trust.add", body)
    wait_for(lambda: not may(enforcer, of="vault"), "the vault is shut")
    decision = enforcer.decide(TILL, "read", "vault")
    assert [one.words for one in decision.explain().missing] == ["trust.score ≥ 30"]


def test_a_decorated_function_is_for_those_who_may(enforcer: Enforcer) -> None:
    @enforcer.permit("read", resource="ledger", subject=lambda args: args["who"])
    def read(who: str) -> str:
        return "the book"

    assert read(TILL) == "the book"
    with pytest.raises(AccessDenied, match="could permit"):
        read("spiffe://troth.local/tests")


def test_it_goes_on_without_a_server_until_the_lease_is_over(
    lone_troth: Server, tmp_path: Path
) -> None:
    lone_troth.start()
    declare(lone_troth)
    spool = tmp_path / "spool"
    with enforce(lone_troth, lease=6.0, spool=spool) as enforcer:
        wait_for(lambda: may(enforcer), "it may")
        began = datetime.now(UTC)
        lone_troth.daemon.kill()
        away = [enforcer.decide(TILL, "read", "ledger") for _ in range(700)]
        assert all(one.allowed for one in away)
        wait_for(lambda: not may(enforcer), "the end of the lease")
        denied = enforcer.decide(TILL, "read", "ledger")
        assert denied.unavailable
        assert "longer than the lease of 6 s" in denied.reason
        assert wait_for(lambda: list(spool.glob("*.jsonl")), "a file")
        lone_troth.start()
        wait_for(lambda: may(enforcer), "it is heard again")
        wanted = {one.id for one in (*away, denied)}
        wait_for(lambda: not enforcer.reporter.waiting, "all is in the spool")
        wait_for(lambda: enforcer.reporter.reported >= len(wanted), "the reports", 30)
    assert list(spool.iterdir()) == []
    lone_troth.stop()
    kept = read_log(lone_troth, began)
    assert wanted <= {one.id for one in kept}
    found = {one.id: one for one in kept}
    assert found[away[0].id].allowed
    assert found[away[0].id].point == "sdk"
    assert found[away[0].id].caller == "spiffe://troth.local/tests"
    assert found[denied.id].reason == denied.reason


def read_log(troth: Server, since: datetime) -> list[DecisionRecord]:
    folder = troth.folder / "data" / "decisions"
    if not folder.exists():
        folder = next(troth.folder.rglob("decisions"))
    log = DecisionLog(folder, SystemClock(), SystemEntropy(), "reader")
    try:
        return list(log.scan(since, datetime(9000, 1, 1, tzinfo=UTC)))
    finally:
        log.close()


def test_who_serves_nothing_is_never_ready_and_learns_why(lone_troth: Server) -> None:
    lone_troth.start()
    lone_troth.register("tests", f"unix:uid:{os.getuid()}")
    guard = PeerGuard([lone_troth.mutual], lone_troth.endpoint)
    with Enforcer(guard) as enforcer:
        with pytest.raises(Unavailable, match="`servers` of no resource"):
            enforcer.wait_ready(3.0)
        assert not may(enforcer)
