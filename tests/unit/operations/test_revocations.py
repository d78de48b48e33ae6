"""``revocation.follow``: a complete value, then what changes, and where it goes on from."""

from __future__ import annotations

from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.house import ADMIN, FakeHouse, call_of, in_house
from troth.core.errors import Denied, Unauthenticated, Unavailable
from troth.core.ids import RequestId
from troth.live.revocations import Revocations
from troth.operations.call import ANONYMOUS, Caller
from troth.operations.feed import read_seed
from troth.policy.permissions import decide_operation
from troth.wire.api.authorities import ForceAuthority, ListAuthorities, PrepareAuthority
from troth.wire.api.certificates import ListCertificates
from troth.wire.api.identities import ListInstances, MoveIdentity, MoveInstance
from troth.wire.api.journal import TailJournal
from troth.wire.api.nodes import EvictNode, SyncNode
from troth.wire.api.revocations import FollowRevocations, RevocationChange, RevocationSnapshot

PAYMENTS = "spiffe://example.org/payments"
WORKLOAD = Caller("spiffe://example.org/ledger", frozenset({"workload"}))


def follow(house: FakeHouse, last: Any = None, caller: Caller = WORKLOAD) -> Any:
    body = FollowRevocations()
    if last is not None:
        body = FollowRevocations(after=last.epoch, mark=last.mark)
    return aclosing(house.dispatcher.open("revocation.follow", caller, RequestId("r"), body))


async def move(house: FakeHouse, verb: str, name: str = "payments") -> None:
    await house.call(f"identity.{verb}", MoveIdentity(name=name, reason="a test"))
    await house.settle()


async def register(house: FakeHouse) -> str:
    """An identity with one certificate, which is told by its serial."""
    view = await house.register()
    node = await house.join()
    await house.issue(node, view.id)
    page = await house.call("certificate.ls", ListCertificates(name="payments"))
    await house.settle()
    return str(page.items[0].serial)


@in_house
async def test_a_quarantine_comes_as_a_change_and_so_does_the_release(house: FakeHouse) -> None:
    serial = await register(house)
    async with follow(house) as values:
        first = await anext(values)
        assert isinstance(first, RevocationSnapshot)
        assert (first.trust_domain, first.lease) == ("example.org", 15.0)
        assert (first.cut_off, first.revoked, first.distrusted) == ({}, {}, {})

        await move(house, "quarantine")
        change = await anext(values)
        assert isinstance(change, RevocationChange)
        assert (change.since, change.epoch) == (first.epoch, house.parts.snapshot.epoch)
        assert change.cut_off == {PAYMENTS: "quarantined"}
        assert list(change.revoked) == [serial]
        assert change.revoked[serial] > house.clock.now().timestamp()

        await move(house, "release")
        freed = await anext(values)
        assert (freed.restored, freed.cut_off, freed.revoked) == ([PAYMENTS], {}, {})
        assert freed.since == change.epoch


@in_house
async def test_who_starts_late_gets_everything_at_once(house: FakeHouse) -> None:
    serial = await register(house)
    await move(house, "quarantine")
    async with follow(house) as values:
        first = await anext(values)
        assert first.cut_off == {PAYMENTS: "quarantined"}
        assert list(first.revoked) == [serial]


@in_house
async def test_of_several_changes_the_last_counts(house: FakeHouse) -> None:
    await register(house)
    async with follow(house) as values:
        await anext(values)
        for verb in ("quarantine", "release", "suspend"):
            await move(house, verb)
        change = await anext(values)
        assert (change.cut_off, change.restored) == ({PAYMENTS: "suspended"}, [])


@in_house
async def test_a_retired_identity_is_refused_while_its_tokens_may_live(house: FakeHouse) -> None:
    await register(house)
    async with follow(house) as values:
        await anext(values)
        await move(house, "retire")
        assert (await anext(values)).cut_off == {PAYMENTS: "retired"}
    async with follow(house) as values:
        assert (await anext(values)).cut_off == {PAYMENTS: "retired"}
    house.clock.advance(timedelta(hours=1, seconds=1))
    house.parts.snapshot.drop_expired()
    await house.settle()
    async with follow(house) as values:
        assert (await anext(values)).cut_off == {}


@in_house
async def test_a_new_identity_of_a_retired_name_is_told_to_who_heard_of_its_end(
    house: FakeHouse,
) -> None:
    await register(house)
    async with follow(house) as values:
        known = Revocations(house.clock)
        known.take(await anext(values), house.clock.monotonic())
        await move(house, "retire")
        change = await anext(values)
        known.take(change, house.clock.monotonic())
        assert known.find_objections(PAYMENTS)

        house.clock.advance(timedelta(hours=1, seconds=1))
        house.parts.snapshot.drop_expired()
        house.parts.snapshot.hear()
        await house.register("payments")
        await house.settle()
        change = await anext(values)
        assert change.restored == [PAYMENTS]
        known.take(change, house.clock.monotonic())
        assert known.find_objections(PAYMENTS) == []


@in_house
async def test_what_concerns_nobody_wakes_nobody(house: FakeHouse) -> None:
    async with follow(house) as values:
        first = await anext(values)
        await house.join()
        await house.settle()
        assert house.parts.snapshot.epoch > first.epoch
        assert house.parts.snapshot.recent.since(first.epoch) == []
        await house.register("another")
        await move(house, "quarantine", "another")
        change = await anext(values)
        assert list(change.cut_off) == ["spiffe://example.org/another"]


@in_house
async def test_it_goes_on_from_where_the_caller_left_off(house: FakeHouse) -> None:
    await register(house)
    async with follow(house) as values:
        first = await anext(values)
    await move(house, "quarantine")
    async with follow(house, first) as values:
        change = await anext(values)
        assert isinstance(change, RevocationChange)
        assert (change.since, change.cut_off) == (first.epoch, {PAYMENTS: "quarantined"})
    async with follow(house, change) as values:
        nothing = await anext(values)
        assert (nothing.since, nothing.epoch, nothing.cut_off) == (change.epoch, change.epoch, {})
        await move(house, "release")
        assert (await anext(values)).restored == [PAYMENTS]


@in_house
async def test_a_place_in_another_journal_is_none(house: FakeHouse) -> None:
    await register(house)
    async with follow(house) as values:
        first = await anext(values)
    for after, mark in (
        (first.epoch, "0" * 32),
        (first.epoch, ""),
        (first.epoch - 1, first.mark),
        (first.epoch + 1000, first.mark),
    ):
        body = FollowRevocations(after=after, mark=mark)
        opened = house.dispatcher.open("revocation.follow", WORKLOAD, RequestId("r"), body)
        async with aclosing(opened) as values:  # type: ignore[type-var]
            assert isinstance(await anext(values), RevocationSnapshot)


@in_house
async def test_a_reader_too_slow_for_the_memory_gets_everything(house: FakeHouse) -> None:
    await register(house)
    async with follow(house) as values:
        first = await anext(values)
        await move(house, "quarantine")
        house.parts.snapshot.recent.clear(house.parts.snapshot.epoch)
        second = await anext(values)
        assert isinstance(second, RevocationSnapshot)
        assert second.epoch > first.epoch
        assert second.cut_off == {PAYMENTS: "quarantined"}


@in_house
async def test_a_lock_an_eviction_and_an_authority_reach_it_too(house: FakeHouse) -> None:
    serial = await register(house)
    async with follow(house) as values:
        await anext(values)
        (instance,) = (await house.call("instance.ls", ListInstances(name="payments"))).items
        await house.call("instance.lock", MoveInstance(id=instance.id, reason="odd"))
        await house.settle()
        assert list((await anext(values)).revoked) == [serial]

        await house.call("node.evict", EvictNode(name="local", reason="gone"))
        await house.settle()
        assert (await anext(values)).revoked  # the node's own

        listed = await house.call("authority.ls", ListAuthorities())
        old = next(a for a in listed.items if (a.use, a.state) == ("x509-svid", "active"))
        made = await house.call(
            "authority.prepare", PrepareAuthority(use="x509-svid", reason="a test")
        )
        await house.publish()
        for name, id_ in (("activate", made.id), ("revoke", old.id)):
            body = ForceAuthority(id=id_, reason="a test", force=True)
            await house.call(f"authority.{name}", body)
        await house.settle()
        assert list((await anext(values)).distrusted) == [old.key_id]
    async with follow(house) as values:
        assert list((await anext(values)).distrusted) == [old.key_id]


@in_house
async def test_a_lock_and_an_eviction_reach_certificates_and_no_token(house: FakeHouse) -> None:
    """What revocation-reach.md says: whoever checks a JWT-SVID's identity asks for no instance and
    no node."""
    serial = await register(house)
    known = Revocations(house.clock)
    async with follow(house) as values:
        known.take(await anext(values), house.clock.monotonic())
        (instance,) = (await house.call("instance.ls", ListInstances(name="payments"))).items
        await house.call("instance.lock", MoveInstance(id=instance.id, reason="odd"))
        await house.settle()
        known.take(await anext(values), house.clock.monotonic())
        await house.call("node.evict", EvictNode(name="local", reason="gone"))
        await house.settle()
        known.take(await anext(values), house.clock.monotonic())
    assert known.find_objections(PAYMENTS, serial)
    assert not known.find_objections(PAYMENTS)
    other = await house.join("edge")
    stream = house.dispatcher.subscriptions["node.sync"](call_of(SyncNode(), other))
    assert (await anext(stream)).cut_off == []
    await stream.aclose()  # type: ignore[attr-defined]


@in_house
async def test_a_stale_server_says_so_and_a_value_tells_its_age(house: FakeHouse) -> None:
    house.clock.advance(timedelta(seconds=4))
    async with follow(house) as values:
        first = await anext(values)
        assert first.as_of == pytest.approx(-4)
        await house.register()
        await move(house, "quarantine")
        house.clock.advance(timedelta(seconds=3))
        change = await anext(values)
        # Opened 3 s ago, and heard at that moment.
        assert change.as_of == pytest.approx(0)
        house.clock.advance(timedelta(seconds=13))
        house.parts.snapshot.refusals_epoch += 1
        await house.parts.snapshot.announce()
        with pytest.raises(Unavailable):
            await anext(values)


@in_house
async def test_whoever_has_an_identity_may_follow_and_nobody_else(house: FakeHouse) -> None:
    for caller in (ADMIN, WORKLOAD):
        async with follow(house, caller=caller) as values:
            assert await anext(values)
    with pytest.raises(Unauthenticated):
        async with follow(house, caller=ANONYMOUS) as values:
            await anext(values)
    with pytest.raises(Denied):
        async with follow(house, caller=Caller("spiffe://example.org/x", frozenset())) as values:
            await anext(values)
    assert not decide_operation(["workload"], "journal.tail").allowed


@in_house
async def test_every_stream_ends_when_the_database_was_set_back(house: FakeHouse) -> None:
    await register(house)
    node = await house.join()
    await house.settle()
    request = RequestId("r")
    tail = house.dispatcher.open("journal.tail", ADMIN, request, TailJournal())
    sync = house.dispatcher.open("node.sync", node, request, SyncNode())
    async with follow(house) as refusals:
        for values in (refusals, tail, sync):
            await anext(values)
        snapshot = house.parts.snapshot
        snapshot.reload(await read_seed(house.parts.store, house.clock.now()))
        for values in (refusals, sync, tail):
            with pytest.raises(Unavailable, match="set back"):
                await anext(values)


@in_house
async def test_what_many_are_told_is_put_together_once(house: FakeHouse) -> None:
    await register(house)
    await move(house, "quarantine")
    async with follow(house) as one, follow(house) as two, follow(house) as three:
        first, second = await anext(one), await anext(two)
        assert first.revoked
        for name in ("cut_off", "revoked", "distrusted"):
            assert getattr(first, name) is getattr(second, name)
        await house.join("another")  # no news of whom to refuse
        await house.settle()
        third = await anext(three)
        assert third.epoch > first.epoch
        assert third.revoked is first.revoked

        await move(house, "release")
        changes = [await anext(values) for values in (one, two, three)]
        assert [c.since for c in changes] == [first.epoch, second.epoch, third.epoch]
        assert all(c.restored is changes[0].restored for c in changes)
    async with follow(house) as values:
        late = await anext(values)
        assert late.cut_off == {}
        assert late.revoked == first.revoked
