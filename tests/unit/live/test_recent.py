"""A bounded memory of changes answers for what it has seen, and says so when it hasn't."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from troth.core.events import Event, SealedEvent
from troth.identity.identity import State
from troth.issuance.authorities import TOKEN_ALGORITHMS, Use
from troth.live.recent import About, Change, RecentChanges, mark_event, read_change, sum_up

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB = "spiffe://example.org/web"


def sealed(position: int, kind: str, request: str = "req_1", **body: str) -> SealedEvent:
    return SealedEvent(position, Event(kind, WEB, "uid:0", NOW, request, body))


@pytest.mark.parametrize(
    ("state", "refused", "ends"),
    [
        (State.QUARANTINED, True, False),
        (State.SUSPENDED, True, False),
        (State.ACTIVE, False, False),
        (State.PROPOSED, False, False),
        (State.RETIRED, True, True),
    ],
)
def test_which_states_are_refused(state: State, refused: bool, ends: bool) -> None:
    change = read_change(sealed(3, "identity.moved", id="idn_1", spiffe_id=WEB, state=state.value))
    assert change is not None
    assert (change.about, change.key, change.refused) == (About.IDENTITY, WEB, refused)
    assert change.until == (NOW + timedelta(hours=1) if ends else None)


def test_certificates_and_authorities() -> None:
    end = NOW + timedelta(days=1)
    one = read_change(sealed(3, "certificate.revoked", serial="0a", not_after=end.isoformat()))
    two = read_change(sealed(4, "authority.revoked", key_id="ff", not_after=end.isoformat()))
    assert one == Change(3, About.CERTIFICATE, "0a", end)
    assert two == Change(4, About.AUTHORITY, "ff", end)
    assert read_change(sealed(5, "certificate.issued", serial="0a")) is None


def test_tokens_that_ended() -> None:
    end, moment = NOW + timedelta(minutes=5), NOW + timedelta(seconds=1)
    one = read_change(sealed(3, "token.revoked", jti="tok_1", expires_at=end.isoformat()))
    assert one == Change(3, About.TOKEN, "tok_1", end)
    fields = {"spiffe_id": WEB, "issued_until": moment.isoformat(), "expires_at": end.isoformat()}
    assert read_change(sealed(4, "token.revoked", **fields)) == Change(
        4, About.BEARER, WEB, end, None, moment
    )
    copy = {"instance": "ins_1", "issued_until": moment.isoformat(), "expires_at": end.isoformat()}
    change = read_change(sealed(5, "token.revoked", **copy))
    assert change == Change(5, About.BEARER, "ins_1", end, None, moment)
    assert sum_up([change]).issued_until == {"ins_1": int(moment.timestamp())}


@pytest.mark.parametrize("use", Use)
def test_of_a_tainted_authority_tokens_are_refused_at_once(use: Use) -> None:
    end = NOW + timedelta(minutes=5)
    fields = {"key_id": "k", "use": use.value, "not_after": end.isoformat()}
    change = read_change(sealed(5, "authority.tainted", **fields))
    assert change == (Change(5, About.AUTHORITY, "k", end) if use in TOKEN_ALGORITHMS else None)


def test_an_end_of_tokens_is_told_whatever_comes_after_it() -> None:
    fields = {"id": "idn_1", "spiffe_id": WEB}
    events = [
        sealed(3, "identity.quarantined", **fields, state="quarantined"),
        sealed(4, "identity.released", **fields, state="active"),
        sealed(5, "identity.changed", **fields, state="active"),
    ]
    found = sum_up(change for event in events if (change := read_change(event)))
    assert (found.cut_off, found.restored) == ({}, [WEB])
    assert found.issued_until == {WEB: int(NOW.timestamp())}
    retired = read_change(sealed(6, "identity.retired", **fields, state="retired"))
    assert retired is not None
    assert retired.since == NOW


def test_it_answers_for_what_it_remembers_alone() -> None:
    recent = RecentChanges(capacity=3)
    recent.clear(10)
    assert recent.since(9) is None
    assert recent.since(10) == []
    made = [Change(position, About.IDENTITY, WEB) for position in (11, 13, 17, 20)]
    for change in made:
        recent.note(change)
    assert recent.since(10) is None
    assert recent.since(11) == made[1:]
    assert recent.since(12) == made[1:]
    assert recent.since(17) == made[3:]
    assert recent.since(99) == []


def test_another_journal_has_another_mark() -> None:
    first = mark_event(sealed(7, "identity.moved"))
    assert first == mark_event(sealed(7, "identity.moved"))
    assert first != mark_event(sealed(8, "identity.moved"))
    assert first != mark_event(sealed(7, "identity.moved", request="req_2"))
