"""What a verifier knows, for how long, and that nobody on the way can make it last."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from troth.core.clock import VirtualClock
from troth.core.errors import Internal
from troth.live.revocations import Revocations
from troth.wire.api.revocations import (
    RevocationChange,
    RevocationHeartbeat,
    RevocationSnapshot,
)

WEB = "spiffe://example.org/web"


def snapshot(epoch: int = 10, as_of: float = 0.0, **fields: Any) -> RevocationSnapshot:
    values = {"cut_off": {}, "revoked": {}, "distrusted": {}, "lease": 15.0, **fields}
    return RevocationSnapshot(
        epoch=epoch, mark="m", as_of=as_of, trust_domain="example.org", **values
    )


def change(since: int, epoch: int, **fields: Any) -> RevocationChange:
    return RevocationChange(
        since=since, epoch=epoch, mark="m", as_of=fields.pop("as_of", 0.0), lease=15.0, **fields
    )


def make(**fields: Any) -> tuple[VirtualClock, Revocations]:
    clock = VirtualClock()
    known = Revocations(clock)
    known.take(snapshot(**fields), clock.monotonic())
    return clock, known


def test_before_the_first_word_nobody_is_accepted() -> None:
    known = Revocations(VirtualClock())
    assert known.age == math.inf
    (reason,) = known.find_objections(WEB)
    assert "yet" in reason
    with pytest.raises(Internal):
        known.take(RevocationHeartbeat(epoch=0, mark="", as_of=0), 0.0)
    assert known.find_objections(WEB)


def test_what_speaks_against_a_peer() -> None:
    _, known = make(cut_off={WEB: "quarantined"}, revoked={"0a": 9**10}, distrusted={"ff": 9**10})
    assert known.find_objections("spiffe://example.org/other", "0b", "ee") == []
    assert known.find_objections(WEB) == [f"{WEB} is quarantined."]
    assert len(known.find_objections(WEB, "0a", "ff")) == 3


def test_changes_add_and_take_away_in_order() -> None:
    _, known = make()
    known.take(change(10, 12, cut_off={WEB: "suspended"}, revoked={"0a": 9**10}), 0.0)
    assert len(known.find_objections(WEB, "0a")) == 2
    known.take(change(12, 15, restored=[WEB]), 0.0)
    assert known.find_objections(WEB, "0a") == ["The certificate 0a was revoked."]
    with pytest.raises(Internal, match="goes on from 12 where 15"):
        known.take(change(12, 16), 0.0)
    known.take(snapshot(epoch=3), 0.0)  # a server restored from a backup decides
    assert known.find_objections(WEB, "0a") == []
    assert known.epoch == 3


def test_the_lease_runs_from_when_it_was_true_and_heartbeats_renew_it() -> None:
    clock, known = make(as_of=-5.0)
    clock.advance(timedelta(seconds=10))
    assert known.find_objections(WEB) == []
    clock.advance(timedelta(seconds=0.5))
    (reason,) = known.find_objections(WEB)
    assert "lease of 15 s" in reason
    known.take(RevocationHeartbeat(epoch=11, mark="n", as_of=10.5), 0.0)
    assert known.find_objections(WEB) == []
    assert (known.epoch, known.mark, known.age) == (11, "n", 0.0)


def test_a_message_that_was_held_back_is_as_old_as_it_is() -> None:
    clock, known = make()
    clock.advance(timedelta(seconds=20))
    # Sent 5 s after the stream was opened, and held back for 15 s by somebody on the way.
    known.take(RevocationHeartbeat(epoch=10, mark="m", as_of=5.0), 0.0)
    assert known.age == pytest.approx(15)
    clock.advance(timedelta(seconds=0.1))
    assert known.find_objections(WEB)


def test_a_server_with_a_fast_clock_lends_itself_no_time() -> None:
    clock, known = make(as_of=1000.0)
    assert known.age == 0
    clock.advance(timedelta(seconds=16))
    assert known.find_objections(WEB)


def test_leases_are_bounded_and_an_own_one_counts() -> None:
    _, known = make(lease=1e9)
    assert known.lease == 3600
    clock = VirtualClock()
    short = Revocations(clock, lease=2.0)
    short.take(snapshot(), 0.0)
    clock.advance(timedelta(seconds=3))
    assert short.find_objections(WEB)


def test_what_has_expired_is_forgotten_in_time() -> None:
    clock, known = make(revoked={"0a": int(VirtualClock().now().timestamp()) + 60})
    clock.advance(timedelta(seconds=400))
    known.take(RevocationHeartbeat(epoch=10, mark="m", as_of=400.0), 0.0)
    assert known.find_objections(WEB, "0a") == []


def test_it_can_be_asked_to_start_over_without_forgetting() -> None:
    _, known = make(cut_off={WEB: "quarantined"})
    known.forget_place()
    assert (known.epoch, known.mark) == (0, "")
    assert known.find_objections(WEB)


def test_who_was_retired_is_forgotten_once_no_token_can_live() -> None:
    clock, known = make(cut_off={WEB: "retired"})
    known.take(change(10, 11, cut_off={"a": "retired", "b": "retired", "c": "suspended"}), 0.0)
    clock.advance(timedelta(minutes=30))
    known.take(change(11, 12, cut_off={"b": "retired"}, restored=["a"]), 0.0)
    known.take(change(12, 13, cut_off={"a": "quarantined"}), 1800.0)
    clock.advance(timedelta(minutes=31))
    known.take(RevocationHeartbeat(epoch=13, mark="m", as_of=0.0), 3660.0)
    refused = [name for name in (WEB, "a", "b", "c") if known.find_objections(name)]
    assert refused == ["a", "b", "c"]
    clock.advance(timedelta(minutes=30))
    known.take(RevocationHeartbeat(epoch=13, mark="m", as_of=0.0), 5460.0)
    assert [name for name in ("a", "b", "c") if known.find_objections(name)] == ["a", "c"]


def test_a_place_keeps_its_mark_while_nothing_is_said_about_it() -> None:
    _, known = make()
    known.take(RevocationHeartbeat(epoch=10, mark="", as_of=0.0), 0.0)
    assert (known.epoch, known.mark) == (10, "m")
    known.take(RevocationHeartbeat(epoch=11, mark="", as_of=0.0), 0.0)
    assert (known.epoch, known.mark) == (11, "")
    known.take(RevocationHeartbeat(epoch=11, mark="n", as_of=0.0), 0.0)
    known.take(
        RevocationSnapshot(
            epoch=11,
            mark="",
            as_of=0.0,
            lease=15.0,
            trust_domain="example.org",
            cut_off={},
            revoked={},
            distrusted={},
        ),
        0.0,
    )
    assert known.mark == ""


def test_what_speaks_against_a_token() -> None:
    clock, known = make(
        cut_off={WEB: "quarantined"},
        distrusted={"kid": 9**10},
        tokens={"tok_1": 9**10},
        issued_until={"a": 100},
    )
    assert known.find_token_objections("tok_2", ["a", "b"], 101, "other") == []
    assert len(known.find_token_objections("tok_1", ["a", "b", WEB], 100, "kid")) == 4
    assert known.find_token_objections("tok_2", ["b", "a"], 100, "") == [
        "Tokens of a from before count no more; it must ask anew."
    ]
    known.take(change(10, 11, restored=[WEB], issued_until={WEB: 200}, tokens={"tok_3": 1}), 0.0)
    assert known.find_token_objections("tok_3", [], 0, "") == ["The token was revoked."]
    assert len(known.find_token_objections("", [WEB], 200, "")) == 1
    assert known.find_token_objections("", [WEB], 201, "") == []
    clock.advance(timedelta(seconds=16))
    (reason,) = known.find_token_objections("", [], 0, "")
    assert "lease" in reason
    assert Revocations(clock).find_token_objections("", [], 0, "")


def test_ends_of_tokens_are_forgotten_when_they_are_over_anyway() -> None:
    now = int(VirtualClock().now().timestamp())
    clock, known = make(tokens={"tok_1": now + 60}, issued_until={WEB: now})
    clock.advance(timedelta(seconds=3600))
    known.take(RevocationHeartbeat(epoch=10, mark="m", as_of=3600.0), 0.0)
    assert known.find_token_objections("tok_1", [], now, "") == []
    assert known.find_token_objections("", [WEB], now, "")
    clock.advance(timedelta(seconds=301))
    known.take(RevocationHeartbeat(epoch=10, mark="m", as_of=3901.0), 0.0)
    assert known.find_token_objections("", [WEB], now, "") == []
