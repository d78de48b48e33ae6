"""The snapshot follows the journal, goes stale, and wakes those who wait."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fakes.identities import make_identity
from troth.core.clock import VirtualClock
from troth.core.errors import Unavailable
from troth.core.events import Event, SealedEvent
from troth.core.ids import IdentityId
from troth.identity.identity import State
from troth.issuance.profiles import JWT_TTL_CEILING
from troth.live.facts import Facts
from troth.live.snapshot import Seed, Snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB = "spiffe://example.org/web"


def sealed(position: int, kind: str, body: Mapping[str, Any]) -> SealedEvent:
    return SealedEvent(position, Event(kind, WEB, "uid:0", NOW, "req_1", body))


def moved(position: int, state: State) -> SealedEvent:
    body = {"id": "idn_1", "spiffe_id": WEB, "state": state.value}
    return sealed(position, "identity.moved", body)


def make_snapshot(clock: VirtualClock | None = None) -> Snapshot:
    snapshot = Snapshot(clock or VirtualClock(), timedelta(seconds=15))
    snapshot.load(Seed(10, {}, {}))
    return snapshot


def test_nothing_is_permitted_before_loading_and_after_the_lease() -> None:
    clock = VirtualClock()
    snapshot = Snapshot(clock, timedelta(seconds=15))
    with pytest.raises(Unavailable, match="loading"):
        snapshot.check_fresh()
    snapshot.load(Seed(0, {}, {}))
    clock.advance(timedelta(seconds=15))
    snapshot.check_fresh()
    clock.advance(timedelta(seconds=1))
    with pytest.raises(Unavailable, match="lease of 15 s"):
        snapshot.check_fresh()
    snapshot.apply([])
    with pytest.raises(Unavailable):
        snapshot.check_fresh()
    snapshot.hear()
    snapshot.check_fresh()


def test_a_jumping_wall_clock_neither_renews_nor_ends_the_lease() -> None:
    clock = VirtualClock()
    snapshot = make_snapshot(clock)
    clock.jump(NOW + timedelta(days=400))
    snapshot.check_fresh()
    clock.advance(timedelta(seconds=16))
    clock.jump(NOW - timedelta(days=400))
    with pytest.raises(Unavailable):
        snapshot.check_fresh()


def test_states_that_cut_off() -> None:
    clock = VirtualClock(NOW)
    snapshot = make_snapshot(clock)
    snapshot.apply([moved(11, State.QUARANTINED)])
    assert snapshot.find_cut_off(WEB) is State.QUARANTINED
    snapshot.apply([moved(12, State.ACTIVE)])
    assert snapshot.find_cut_off(WEB) is None
    snapshot.apply([moved(13, State.SUSPENDED)])
    assert snapshot.find_cut_off(WEB) is State.SUSPENDED
    snapshot.apply([moved(14, State.RETIRED)])
    assert snapshot.find_cut_off(WEB) is State.RETIRED
    clock.advance(JWT_TTL_CEILING)
    assert snapshot.find_cut_off(WEB) is None
    assert snapshot.epoch == snapshot.nodes_epoch == 14


def test_events_up_to_the_epoch_are_passed_over() -> None:
    snapshot = make_snapshot()
    snapshot.apply([moved(10, State.QUARANTINED), moved(9, State.QUARANTINED)])
    assert snapshot.find_cut_off(WEB) is None
    assert snapshot.epoch == 10


def test_revocations_until_they_expire() -> None:
    clock = VirtualClock()
    snapshot = make_snapshot(clock)
    end = (clock.now() + timedelta(hours=1)).isoformat()
    snapshot.apply([sealed(11, "certificate.revoked", {"serial": "0a", "not_after": end})])
    assert snapshot.is_revoked("0a")
    assert not snapshot.is_revoked("0b")
    assert snapshot.nodes_epoch == 10  # nodes learn of it by the list that follows
    clock.advance(timedelta(hours=1))
    snapshot.drop_expired()
    assert not snapshot.is_revoked("0a")


def test_waiting_ends_by_news_or_by_time() -> None:
    async def main() -> None:
        snapshot = make_snapshot()
        assert await snapshot.wait_beyond(9, 30) == 10
        waiter = asyncio.create_task(snapshot.wait_beyond(10, 30))
        node = asyncio.create_task(snapshot.wait_beyond(10, 30, node="local"))
        await asyncio.sleep(0)
        snapshot.apply([sealed(11, "token.created", {})])
        await snapshot.announce()
        assert await waiter == 11
        assert not node.done()
        snapshot.apply([moved(12, State.ACTIVE)])
        await snapshot.announce()
        assert await node == 12
        assert await snapshot.wait_beyond(12, 0) == 12

    asyncio.run(main())


def test_facts_are_dropped_when_they_change_and_bounded() -> None:
    identity = make_identity()
    snapshot = make_snapshot()
    assert snapshot.facts.find(identity.id) is None
    snapshot.facts.remember(identity, snapshot.epoch)
    assert snapshot.facts.find(identity.id) is identity
    body = {"id": identity.id, "spiffe_id": WEB, "state": "active"}
    snapshot.apply([sealed(11, "identity.changed", body)])
    assert snapshot.facts.find(identity.id) is None
    snapshot.facts.remember(identity, 10)  # read before the change was journaled
    assert snapshot.facts.find(identity.id) is None
    snapshot.facts.remember(identity, 11)
    assert snapshot.facts.find(identity.id) is identity


def test_facts_keep_the_latest_asked_for() -> None:
    facts = Facts(capacity=2)
    one, two, three = (
        dataclasses.replace(make_identity(), id=IdentityId(f"idn_{i}")) for i in range(3)
    )
    facts.remember(one, 1)
    facts.remember(two, 1)
    assert facts.find(one.id)
    facts.remember(three, 1)
    assert facts.find(two.id) is None
    for position, identity in enumerate((one, two, three), start=2):
        facts.drop(identity.id, position)
    facts.remember(one, 1)  # its own change is forgotten, but not that there was one
    assert facts.find(one.id) is None


def test_starting_again_wakes_who_waits_and_ends_what_went_on_from_before() -> None:
    async def main() -> None:
        snapshot = make_snapshot()
        loads = snapshot.loads
        waiter = asyncio.create_task(snapshot.wait_beyond(10, 30))
        await asyncio.sleep(0)
        snapshot.check_same(loads)
        snapshot.reload(Seed(7, {}, {}))
        await snapshot.announce()
        assert await waiter == 7
        with pytest.raises(Unavailable, match="set back"):
            snapshot.check_same(loads)

    asyncio.run(main())


def test_starting_again_and_an_answer_that_took_long_renew_nothing() -> None:
    clock = VirtualClock()
    snapshot = make_snapshot(clock)
    clock.advance(timedelta(seconds=9))
    snapshot.reload(Seed(7, {}, {}))
    assert snapshot.age == 9
    snapshot.hear(clock.monotonic() - 2)
    assert snapshot.age == 2
    snapshot.hear(clock.monotonic() - 5)
    assert snapshot.age == 2


def changed(position: int, *nodes: str, state: State = State.ACTIVE) -> SealedEvent:
    body = {"id": "idn_1", "spiffe_id": WEB, "state": state.value, "nodes": list(nodes)}
    return sealed(position, "identity.changed", body)


def test_an_identity_concerns_the_nodes_that_hold_it() -> None:
    snapshot = make_snapshot()
    snapshot.apply([changed(11, "one", "two")])
    assert [snapshot.find_change(name) for name in ("one", "two", "three")] == [11, 11, 10]
    snapshot.apply([changed(12, "three", "*")])
    assert [snapshot.find_change(name) for name in ("one", "four")] == [12, 12]
    snapshot.apply([moved(13, State.ACTIVE)])  # as an earlier version tells it
    assert snapshot.find_change("four") == 13


def test_who_is_cut_off_or_no_longer_concerns_every_node() -> None:
    snapshot = make_snapshot()
    for position, state in enumerate((State.SUSPENDED, State.ACTIVE, State.RETIRED), 11):
        snapshot.apply([changed(position, "one", state=state)])
        assert snapshot.find_change("two") == position


def test_a_node_that_is_forgotten_counts_as_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troth.live.snapshot.NODES", 2)
    snapshot = make_snapshot()
    snapshot.apply([changed(11, "one"), changed(12, "two"), changed(13, "three")])
    assert [snapshot.find_change(n) for n in ("one", "two", "three", "four")] == [11, 12, 13, 11]


def test_whom_to_refuse_is_made_once_for_each_change() -> None:
    clock = VirtualClock()
    snapshot = make_snapshot(clock)
    snapshot.apply([moved(11, State.QUARANTINED)])
    known = snapshot.list_refused()
    assert known.cut_off == {WEB: "quarantined"}
    snapshot.apply([sealed(12, "token.created", {})])
    assert snapshot.list_refused() is known
    end = clock.now() + timedelta(hours=2)
    body = {"serial": "0a", "not_after": end.isoformat()}
    snapshot.apply([sealed(13, "certificate.revoked", body)])
    assert snapshot.list_refused().revoked == {"0a": int(end.timestamp()) + 1}
    snapshot.apply([moved(14, State.RETIRED)])
    assert snapshot.list_refused().cut_off == {WEB: "retired"}
    clock.jump(NOW + timedelta(hours=1, seconds=1))  # no token of it can live any more
    assert snapshot.list_refused().cut_off == {}
    clock.jump(end)
    snapshot.drop_expired()
    assert snapshot.list_refused().revoked == {}
    snapshot.reload(Seed(5, {WEB: State.SUSPENDED}, {}))
    assert snapshot.list_refused().cut_off == {WEB: "suspended"}
