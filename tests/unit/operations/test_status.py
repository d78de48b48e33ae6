"""What `troth top` asks each second, at ten thousand identities: bounded, and the right ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import msgspec

from tests.fakes.house import FakeHouse, call_of, in_house
from troth.core.clock import VirtualClock
from troth.core.ids import IdentityId, SpiffeId
from troth.identity.identity import State
from troth.operations.status import KEPT_FOR, About, ShowStatus
from troth.server.metrics import BUCKETS, Metrics
from troth.store.transaction import Transaction
from troth.wire.api.identities import ListIdentities, MoveIdentity
from troth.wire.api.status import GetStatus

MANY = 10_000


async def fill(house: FakeHouse) -> None:
    """Many identities like one that was registered."""
    made = await house.register("model")
    found = await house.parts.store.read(lambda tx: tx.identities.get(IdentityId(made.id)))

    def add(tx: Transaction) -> None:
        for number in range(MANY):
            path = f"/many/{number}"
            tx.identities.add(
                replace(
                    found,
                    id=IdentityId(f"idn_{number}"),
                    name=f"many-{number:05}",
                    spiffe_id=SpiffeId(found.spiffe_id.trust_domain, path),
                )
            )

    await house.parts.store.transact(add)


@in_house
async def test_a_look_is_small_and_shows_who_needs_attention(house: FakeHouse):
    await fill(house)
    busy = await house.register("zz-busy")
    node = await house.join()
    await house.issue(node, busy.id)
    for name, verb in (("many-09000", "quarantine"), ("many-09001", "suspend")):
        await house.call(f"identity.{verb}", MoveIdentity(name=name, reason="r"))
    await house.call("identity.retire", MoveIdentity(name="many-00000", reason="r"))
    page = await house.call("identity.ls", ListIdentities(order="attention", limit=20))
    names = [item.name for item in page.items]
    assert names[:3] == ["many-09000", "many-09001", "zz-busy"]
    assert len(names) == len(set(names)) == 20
    assert "many-00000" not in names
    assert page.items[2].instances == 1
    assert len(msgspec.json.encode(page)) < 40_000
    view = await house.call("status.show", GetStatus())
    assert view.identities[State.ACTIVE.value] == MANY - 1 + 2 - 2 + 1 - 1
    assert len(msgspec.json.encode(view)) < 400_000
    living = await house.call("identity.ls", ListIdentities(living=True, limit=1))
    assert [item.name for item in living.items] == ["many-00001"]


class SlowClock(VirtualClock):
    """Each look at it takes a tenth of a second, as a count of a million identities does."""

    def monotonic(self) -> float:
        self.advance(timedelta(seconds=0.1))
        return super().monotonic()


@in_house
async def test_what_is_costly_to_count_is_counted_seldom(house: FakeHouse):
    parts, clock = house.parts, SlowClock()
    about = About(parts.trust_domain, parts.started_at, parts.lease)
    show = ShowStatus(parts.store, parts.snapshot, parts.publication, clock, about)
    await house.register("one")
    assert (await show(call_of(GetStatus()))).identities["active"] == 1
    await house.register("two")
    assert (await show(call_of(GetStatus()))).identities["active"] == 1, "it is still good"
    clock.advance(timedelta(seconds=0.1 * KEPT_FOR))
    assert (await show(call_of(GetStatus()))).identities["active"] == 2


def test_metrics_tell_how_often_each_operation_was_called():
    metrics = Metrics()
    for outcome in ("ok", "ok", "not_found", "internal", "unavailable"):
        metrics.observe("identity.ls", outcome, 0.002)
    [use] = metrics.list_operations()
    assert (use.name, use.calls, use.refused, use.failed) == ("identity.ls", 5, 1, 2)
    assert metrics.bounds == list(BUCKETS)
    assert use.buckets == [0 if bound < 0.002 else 5 for bound in BUCKETS]
