from datetime import timedelta

import pytest

from tests.fakes.identities import NOW, make_identity
from troth.core.errors import Refused
from troth.identity.identity import State
from troth.identity.lifecycle import PAST, TRANSITIONS, may_hold_credentials, move_identity

LEGAL = {
    ("activate", State.PROPOSED): State.ACTIVE,
    ("suspend", State.ACTIVE): State.SUSPENDED,
    ("resume", State.SUSPENDED): State.ACTIVE,
    ("quarantine", State.ACTIVE): State.QUARANTINED,
    ("quarantine", State.SUSPENDED): State.QUARANTINED,
    ("release", State.QUARANTINED): State.ACTIVE,
    ("retire", State.PROPOSED): State.RETIRED,
    ("retire", State.ACTIVE): State.RETIRED,
    ("retire", State.SUSPENDED): State.RETIRED,
    ("retire", State.QUARANTINED): State.RETIRED,
}
"""Written out by hand, so that a slip in the table can't hide in the test."""

EVERY = [(verb, state) for verb in TRANSITIONS for state in State]
LATER = NOW + timedelta(days=1)


def test_the_cross_product_is_complete():
    assert len(EVERY) == 6 * 5
    assert set(LEGAL) < set(EVERY)
    assert set(PAST) == set(TRANSITIONS)


@pytest.mark.parametrize(("verb", "state"), EVERY)
def test_each_verb_from_each_state(verb, state):
    before = make_identity(state=state)
    if (verb, state) in LEGAL:
        after = move_identity(before, verb, "because", LATER)
        assert after.state is LEGAL[(verb, state)]
        assert after.state_reason == "because"
        assert after.revision == before.revision + 1
        assert after.updated_at == LATER
        assert after.created_at == before.created_at
    else:
        with pytest.raises(Refused) as caught:
            move_identity(before, verb, "because", LATER)
        assert state.value in caught.value.detail
        possible = [v for v, s in LEGAL if s is state]
        assert all(v in caught.value.detail for v in possible)
        if state is State.RETIRED:
            assert "nothing can follow" in caught.value.detail


@pytest.mark.parametrize("state", list(State))
def test_only_an_active_identity_may_hold_credentials(state):
    identity = make_identity(state=state)
    assert may_hold_credentials(identity, NOW) is (state is State.ACTIVE)


def test_expiry_is_exclusive():
    identity = make_identity(expires_at=LATER)
    assert may_hold_credentials(identity, LATER - timedelta(microseconds=1))
    assert not may_hold_credentials(identity, LATER)


@pytest.mark.parametrize("state", [State.ACTIVE, State.SUSPENDED])
def test_a_release_gives_back_no_more_than_the_quarantine_took(state):
    cut_off = move_identity(make_identity(state=state), "quarantine", "odd", LATER)
    assert cut_off.state_before is state
    released = move_identity(cut_off, "release", "cleared", LATER)
    assert released.state is state
    assert released.state_before is None
