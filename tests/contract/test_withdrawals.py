"""Somebody with very many certificates is cut off: the state first, the certificates in batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.house import DOMAIN, FakeHouse, open_house
from tests.fakes.stores import ENGINES, make_certificate, make_url
from troth.core.clock import VirtualClock
from troth.core.errors import Denied, Refused, Unauthenticated, Unavailable
from troth.core.ids import IdentityId, InstanceId, NodeId, RequestId, SpiffeId
from troth.identity.identity import State
from troth.issuance.authorities import Use
from troth.issuance.crl import list_serials
from troth.live.revocations import Revocations
from troth.operations.call import Caller
from troth.operations.callers import CallerRegistry
from troth.operations.withdrawal import BATCH, LEASE_TTL, FinishWithdrawals
from troth.store.engine import Store
from troth.wire.api.certificates import ListCertificates
from troth.wire.api.identities import MoveIdentity, NameIdentity
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.api.nodes import EvictNode, ListNodes, SyncNode
from troth.wire.api.revocations import FollowRevocations

PAYMENTS = "spiffe://example.org/payments"
MANY = 2 * BATCH + 100
LIFE = timedelta(hours=20)
DAY = 86_400
"""Seconds that the real certificate lives, which so is the last to be revoked."""


class Killed(BaseException):
    """What ends a server at once."""


class ShortLivedStore:
    """A store whose server is killed before its transaction number `most` + 1."""

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._left = most
        self.read = store.read

    async def transact(self, function: Callable[..., Any]) -> Any:
        if not self._left:
            raise Killed
        self._left -= 1
        return await self._store.transact(function)


def finish(house: FakeHouse, holder: str | None = None) -> FinishWithdrawals:
    store = house.parts.store
    return FinishWithdrawals(store, house.clock, holder or store.holder)


async def kill_after(house: FakeHouse, batches: int) -> None:
    """The background work of a server that is killed after so many batches."""
    store: Any = ShortLivedStore(house.parts.store, batches)
    with pytest.raises(Killed):
        await FinishWithdrawals(store, house.clock, house.parts.store.holder)()


async def fill(house: FakeHouse, identity: Any, node: Caller, number: int = MANY) -> Any:
    """Give the identity `number` living certificates on that node; the last, which is real."""
    (authority,) = await house.parts.store.read(lambda tx: tx.authorities.list(Use.X509))
    now = house.clock.now()
    records = [
        make_certificate(
            n,
            subject=SpiffeId.parse(identity.spiffe_id),
            identity_id=IdentityId(identity.id),
            instance_id=InstanceId(f"ins_{n}"),
            node_id=NodeId(str(node.node_id)),
            authority_id=authority.id,
            not_before=now,
            not_after=now + LIFE + timedelta(seconds=n // 400),
            created_at=now,
        )
        for n in range(1, number)
    ]

    def add(tx: Any) -> None:
        tx.certificates.add_all_intended(records)
        tx.certificates.mark_all_issued(dict.fromkeys([one.serial for one in records], b"\x30\x00"))

    await house.parts.store.transact(add)
    (issued,) = await house.issue(node, identity.id)
    return issued


async def move(house: FakeHouse, verb: str) -> Any:
    return await house.call(f"identity.{verb}", MoveIdentity(name="payments", reason="a test"))


async def count_revoked(house: FakeHouse) -> int:
    now = house.clock.now()
    return len(await house.parts.store.read(lambda tx: tx.certificates.list_revoked(now)))


async def arrive(house: FakeHouse, certificate: Any) -> Caller:
    """Come to the mutual-TLS listener with this certificate."""
    parts = house.parts
    registry = CallerRegistry(parts.store, parts.snapshot, parts.peers, DOMAIN, {}, {})
    return await registry.by_certificate(certificate.chain[0], "192.0.2.1:4711")


async def hear(house: FakeHouse) -> Revocations:
    """What an SDK knows that connects now."""
    known = Revocations(house.clock)
    worker = Caller("spiffe://example.org/ledger", frozenset({"workload"}))
    opened: Any = house.dispatcher.open(
        "revocation.follow", worker, RequestId("r"), FollowRevocations()
    )
    async with aclosing(opened) as values:
        known.take(await anext(values), house.clock.monotonic())
    return known


async def read_crl(house: FakeHouse) -> frozenset[int]:
    await house.publish()
    (authority,) = await house.parts.store.read(lambda tx: tx.authorities.list(Use.X509))
    latest = await house.parts.store.read(lambda tx: tx.crls.latest(authority.id))
    assert latest is not None
    assert latest.der is not None
    return list_serials(latest.der)


Test = Callable[[FakeHouse], Coroutine[Any, Any, None]]


def in_house(test: Test) -> Callable[[str, Path], None]:
    """Run an async test in a fresh house on either engine."""

    @pytest.mark.parametrize("engine", ENGINES)
    def run(engine: str, tmp_path: Path) -> None:
        async def main() -> None:
            async with open_house(tmp_path, url=make_url(engine, tmp_path)) as house:
                await test(house)

        asyncio.run(main())

    run.__doc__ = test.__doc__
    return run


@in_house
async def test_after_the_first_transaction_every_verifier_denies(house: FakeHouse) -> None:
    identity, node = await house.register(x509_ttl=DAY), await house.join()
    last = await fill(house, identity, node)
    sync: Any = house.dispatcher.open("node.sync", node, RequestId("r"), SyncNode())
    async with aclosing(sync) as values:
        await arrive(house, last)
        assert (await anext(values)).cut_off == []
        view = await move(house, "quarantine")
        assert (view.state, view.revoking, await count_revoked(house)) == ("quarantined", True, 0)
        await house.settle()
        with pytest.raises(Denied, match="quarantined"):
            await arrive(house, last)
        value = await anext(values)
        assert (value.cut_off, [e.state for e in value.entries]) == ([PAYMENTS], ["quarantined"])
    assert house.parts.snapshot.find_cut_off(PAYMENTS) == "quarantined"
    assert not house.parts.snapshot.is_revoked(last.serial)
    known = await hear(house)
    assert known.find_objections(PAYMENTS, last.serial) == [f"{PAYMENTS} is quarantined."]
    (refused,) = await house.issue(node, identity.id)
    assert "quarantined" in refused.error.detail


@in_house
async def test_the_certificates_follow_as_revoked_by_whoever_cut_off(house: FakeHouse) -> None:
    identity, node = await house.register(x509_ttl=DAY), await house.join()
    last = await fill(house, identity, node)
    await move(house, "quarantine")
    await finish(house)()
    assert await count_revoked(house) == MANY
    events = await house.events("certificate.revoked")
    told = {(e.actor, e.request_id, e.subject, e.body["reason"]) for e in events}
    assert told == {("uid:0", "req_test", PAYMENTS, "privilegeWithdrawn")}
    assert len({event.body["serial"] for event in events}) == len(events) == MANY
    listed = await read_crl(house)
    assert len(listed) == MANY
    assert int(last.serial, 16) in listed
    with pytest.raises(Unauthenticated):
        await arrive(house, last)
    shown = await house.call("identity.show", NameIdentity(name="payments"))
    assert not shown.revoking


@in_house
async def test_up_to_a_batch_is_revoked_with_the_state(house: FakeHouse) -> None:
    identity, node = await house.register(x509_ttl=DAY), await house.join()
    await fill(house, identity, node, BATCH)
    view = await move(house, "quarantine")
    assert (view.state, view.revoking, await count_revoked(house)) == ("quarantined", False, BATCH)
    await finish(house)()
    assert len(await house.events("certificate.revoked")) == BATCH


@in_house
async def test_a_release_waits_for_the_last_one(house: FakeHouse) -> None:
    identity, node = await house.register(x509_ttl=DAY), await house.join()
    last = await fill(house, identity, node)
    await move(house, "quarantine")
    await kill_after(house, 1)
    assert await count_revoked(house) == BATCH
    with pytest.raises(Unavailable, match="still being revoked") as refusal:
        await move(house, "release")
    assert refusal.value.retry_after
    shown = await house.call("identity.show", NameIdentity(name="payments"))
    assert (shown.state, shown.revoking) == ("quarantined", True)

    await finish(house)()
    assert (await move(house, "release")).state == "active"
    await house.settle()
    assert await count_revoked(house) == MANY
    with pytest.raises(Unauthenticated):
        await arrive(house, last)
    (fresh,) = await house.issue(node, identity.id)
    await arrive(house, fresh)


@in_house
async def test_a_suspension_does_as_a_quarantine_and_one_may_follow_the_other(
    house: FakeHouse,
) -> None:
    identity, node = await house.register(x509_ttl=DAY), await house.join()
    await fill(house, identity, node)
    assert (await move(house, "suspend")).revoking
    await kill_after(house, 1)
    with pytest.raises(Unavailable, match="still being revoked"):
        await move(house, "resume")
    assert (await move(house, "quarantine")).revoking
    await finish(house)()
    assert (await move(house, "release")).state == "suspended"
    assert not (await move(house, "resume")).revoking
    assert await count_revoked(house) == MANY
    assert len(await house.events("certificate.revoked")) == MANY


@in_house
async def test_a_certificate_that_was_being_signed_is_not_handed_out(house: FakeHouse) -> None:
    identity, node = await house.register(x509_ttl=DAY), await house.join()
    await fill(house, identity, node)
    await house.settle()
    loop = asyncio.get_running_loop()

    def cut_off() -> None:
        house.keystore.before_sign = None
        asyncio.run_coroutine_threadsafe(move(house, "quarantine"), loop).result(30)

    house.keystore.before_sign = cut_off
    (refused,) = await house.issue(node, identity.id)
    assert "quarantined" in refused.error.detail
    assert refused.chain == []
    await finish(house)()
    found = await house.call("certificate.ls", ListCertificates(name="payments"))
    assert {item.state for item in found.items} == {"revoked"}


@in_house
async def test_who_is_retired_is_denied_and_nobody_takes_the_place_before_the_last_one(
    house: FakeHouse,
) -> None:
    identity, node = await house.register(x509_ttl=DAY), await house.join()
    last = await fill(house, identity, node)
    view = await move(house, "retire")
    assert (view.state, view.revoking) == ("retired", True)
    await kill_after(house, 1)
    await house.settle()
    with pytest.raises(Denied, match="retired"):
        await arrive(house, last)
    assert (await hear(house)).find_objections(PAYMENTS) == [f"{PAYMENTS} is retired."]
    with pytest.raises(Unavailable, match="still being revoked"):
        await house.register()
    with pytest.raises(Unavailable, match="still being revoked"):
        await apply(house)

    await finish(house)()
    await apply(house)
    await house.settle()
    with pytest.raises(Unauthenticated):
        await arrive(house, last)
    reasons = {e.body["reason"] for e in await house.events("certificate.revoked")}
    assert reasons == {"cessationOfOperation"}


async def apply(house: FakeHouse) -> None:
    spec = {
        "kind": "service",
        "owner": "team@example.org",
        "purpose": "Takes payments",
        "selectors": ["unix:uid:1001"],
    }
    document = {
        "apiVersion": "troth/v1",
        "kind": "Identity",
        "metadata": {"name": "payments"},
        "spec": spec,
    }
    await house.call(
        "manifest.apply", SubmitManifests(documents=[ManifestDocument(value=document)])
    )


@in_house
async def test_an_evicted_nodes_own_certificate_never_waits(house: FakeHouse) -> None:
    identity, node = await house.register(x509_ttl=DAY), await house.join()
    other = await house.join("other")
    await fill(house, identity, node)
    view = await house.call("node.evict", EvictNode(name="local", reason="stolen"))
    assert (view.state, view.revoking, await count_revoked(house)) == ("evicted", True, 1)
    await house.settle()
    assert house.parts.snapshot.is_revoked(node.serial)
    await kill_after(house, 1)
    page = await house.call("node.ls", ListNodes())
    assert {item.name: item.revoking for item in page.items} == {"local": True, "other": False}
    back = await house.join()  # by its name, as a new node: nothing of the old one is good again
    await finish(house)()
    assert await count_revoked(house) == MANY + 1
    await house.settle()
    for standing in (back, other):
        assert not house.parts.snapshot.is_revoked(standing.serial)
    (fresh,) = await house.issue(back, identity.id)
    await arrive(house, fresh)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("verb", ["quarantine", "retire"])
def test_the_next_server_goes_on_where_a_killed_one_stopped(
    verb: str, engine: str, tmp_path: Path
) -> None:
    url = make_url(engine, tmp_path)
    clock = VirtualClock()

    async def main() -> None:
        async with open_house(tmp_path, url=url, clock=clock) as house:
            identity, node = await house.register(x509_ttl=DAY), await house.join()
            last = await fill(house, identity, node)
            await move(house, verb)
            await kill_after(house, 1)
            kept = house.keystore
        clock.advance(timedelta(hours=2))  # no token of a retired one lives any more
        async with open_house(tmp_path, seed=2, url=url, clock=clock, keystore=kept) as house:
            with pytest.raises(Denied, match=r"quarantined|retired"):
                await arrive(house, last)
            assert await count_revoked(house) == BATCH
            await finish(house)()
            assert await count_revoked(house) == MANY
            assert len(await house.events("certificate.revoked")) == MANY
            await finish(house)()
            assert len(await house.events("certificate.revoked")) == MANY

    asyncio.run(main())


@pytest.mark.parametrize("finished", [False, True])
def test_a_renewal_under_way_neither_collides_nor_escapes(finished: bool, tmp_path: Path) -> None:
    """Its transaction began before the quarantine, and ends after it, or after the last batch."""

    async def main() -> None:
        async with open_house(tmp_path, url=make_url("postgresql", tmp_path)) as house:
            identity, node = await house.register(x509_ttl=DAY), await house.join()
            await fill(house, identity, node)
            began, go = threading.Event(), threading.Event()
            tries = []

            def renew(tx: Any) -> None:
                tries.append(1)
                found = tx.identities.get(identity.id)
                if found.state is not State.ACTIVE:
                    raise Refused("It is cut off.")
                now = house.clock.now()
                late = make_certificate(MANY, identity_id=found.id, not_before=now)
                tx.certificates.add_intended(replace(late, not_after=now + LIFE, created_at=now))
                began.set()
                assert go.wait(30)

            renewal = asyncio.create_task(house.parts.store.transact(renew))
            assert await asyncio.to_thread(began.wait, 30)
            assert (await move(house, "quarantine")).revoking
            if finished:
                await finish(house)()
            go.set()
            (outcome,) = await asyncio.gather(renewal, return_exceptions=True)
            assert isinstance(outcome, Refused) == finished
            assert len(tries) == 1 + finished
            await finish(house)()
            assert await count_revoked(house) == MANY + (not finished)

    asyncio.run(main())


@in_house
async def test_two_servers_at_once_revoke_each_certificate_once(house: FakeHouse) -> None:
    identity, node = await house.register(x509_ttl=DAY), await house.join()
    await fill(house, identity, node)
    await move(house, "quarantine")
    await asyncio.gather(finish(house, "one")(), finish(house, "two")())
    for holder in ("one", "two"):
        await finish(house, holder)()
    assert await count_revoked(house) == MANY
    assert len(await house.events("certificate.revoked")) == MANY


@in_house
async def test_a_server_that_stands_still_is_replaced(house: FakeHouse) -> None:
    identity, node = await house.register(x509_ttl=DAY), await house.join()
    await fill(house, identity, node)
    await move(house, "quarantine")
    store: Any = ShortLivedStore(house.parts.store, 1)
    with pytest.raises(Killed):
        await FinishWithdrawals(store, house.clock, "still")()
    await finish(house, "next")()
    assert await count_revoked(house) == BATCH
    house.clock.advance(LEASE_TTL)
    await finish(house, "next")()
    assert await count_revoked(house) == MANY


@in_house
async def test_a_clock_that_runs_fast_leaves_nothing_out(house: FakeHouse) -> None:
    """What looks expired to the server that goes on may live for everybody else."""
    identity, node = await house.register(x509_ttl=DAY), await house.join()
    await fill(house, identity, node)
    await move(house, "quarantine")
    fast = VirtualClock(house.clock.now() + timedelta(days=30))
    await FinishWithdrawals(house.parts.store, fast, house.parts.store.holder)()
    assert await count_revoked(house) == MANY
