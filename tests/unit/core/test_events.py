from datetime import UTC, datetime

import pytest

from troth.core.events import Event, SealedEvent

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ["identity.quarantined", "join_token.used", "a1.b2"])
def test_types_are_noun_verbed(name):
    event = Event(name, "spiffe://example.org/x", "admin", NOW, "req_1")
    assert event.version == 1
    assert event.body == {}
    assert SealedEvent(1, event).event is event


@pytest.mark.parametrize(
    "name",
    ["", "identity", "Identity.made", "identity.", ".made", "a.b.c", "a b.c", "a.b\n", "a-b.c"],
)
def test_other_types_are_a_broken_promise(name):
    with pytest.raises(ValueError, match=r"not noun\.verbed"):
        Event(name, "s", "a", NOW, "r")
