"""The end of what templates made: put off while it is seen, told, and final in the end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.fakes.identities import NOW, make_identity
from troth.core.ids import IdentityId, NodeId
from troth.identity.attendance import Phase, Sighting, Step, look_after
from troth.identity.identity import State

DAY = timedelta(days=1)
SPAN = 8 * DAY
ENDS = NOW + 100 * DAY
IDENTITY = make_identity(template="batch", expires_at=NOW + SPAN, managed=False)
SIGHTING = Sighting(
    identity_id=IdentityId("idn_1"),
    template="batch",
    binding="0" * 64,
    node_id=NodeId("nod_1"),
    phase=Phase.ATTENDED,
    seen_at=NOW,
    due_at=NOW + SPAN / 2,
    ends_at=ENDS,
    span=SPAN,
    grace=2 * DAY,
    created_at=NOW,
)


def look(days: float, seen: float, phase=Phase.ATTENDED, covered=True, **changes):
    identity = replace(IDENTITY, **changes)
    sighting = replace(SIGHTING, phase=phase)
    return look_after(identity, sighting, NOW + seen * DAY, covered=covered, now=NOW + days * DAY)


def test_what_is_seen_is_put_off():
    made = look(4, seen=4)
    assert (made.step, made.phase) == (Step.EXTEND, Phase.ATTENDED)
    assert made.expires_at == NOW + 12 * DAY
    assert made.due_at == NOW + 8 * DAY


def test_nothing_is_put_off_beyond_the_last_end():
    made = look(96, seen=96, expires_at=NOW + 99 * DAY)
    assert made.expires_at == ENDS
    assert look(97, seen=97, expires_at=ENDS).step is Step.NOTHING


def test_half_a_span_away_is_told_once():
    first = look(4, seen=0)
    assert (first.step, first.phase) == (Step.WARN, Phase.UNATTENDED)
    assert first.due_at == NOW + 5 * DAY
    again = look(5, seen=0, phase=Phase.UNATTENDED)
    assert again.step is Step.NOTHING
    assert look(7.5, seen=0, phase=Phase.UNATTENDED).due_at == NOW + SPAN


def test_who_comes_back_in_time_is_put_off_again():
    made = look(6, seen=5, phase=Phase.UNATTENDED)
    assert (made.step, made.expires_at) == (Step.EXTEND, NOW + 13 * DAY)


def test_a_whole_span_away_expires_and_then_is_retired():
    expired = look(8, seen=0, phase=Phase.UNATTENDED)
    assert (expired.step, expired.phase) == (Step.EXPIRE, Phase.EXPIRED)
    assert expired.due_at == NOW + 10 * DAY
    retired = look(10, seen=0, phase=Phase.EXPIRED)
    assert (retired.step, retired.phase) == (Step.RETIRE, Phase.RETIRED)
    assert "seen last at 2026-01-01" in retired.reason


def test_a_late_look_leaves_the_whole_grace():
    made = look(50, seen=0)
    assert (made.step, made.due_at) == (Step.EXPIRE, NOW + 52 * DAY)


def test_without_its_template_nothing_is_put_off():
    made = look(4, seen=4, covered=False)
    assert (made.step, made.phase) == (Step.WARN, Phase.UNATTENDED)
    assert "no template covers it" in made.reason
    assert look(8, seen=8, covered=False, phase=Phase.UNATTENDED).step is Step.EXPIRE


@pytest.mark.parametrize("state", [State.SUSPENDED, State.QUARANTINED])
def test_what_an_operator_holds_is_neither_expired_nor_put_off(state):
    for days in (4, 8, 50):
        assert look(days, seen=0, state=state).step is Step.NOTHING
    ended = look(100, seen=0, state=state)
    assert (ended.step, ended.phase) == (Step.RETIRE, Phase.ENDED)


def test_at_its_last_end_it_is_retired_even_if_seen():
    made = look(100, seen=100, expires_at=ENDS)
    assert (made.step, made.phase) == (Step.RETIRE, Phase.RETIRED)


def test_what_somebody_else_ended_or_took_over_is_let_go():
    assert look(8, seen=0, state=State.RETIRED).phase is Phase.ENDED
    assert look(8, seen=0, template="").phase is Phase.ENDED


def test_a_sign_of_life_from_the_future_counts_as_now():
    made = look(4, seen=4_000)
    assert made.expires_at == NOW + 12 * DAY
