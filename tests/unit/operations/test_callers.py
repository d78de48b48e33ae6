"""Who is calling, again and again: from memory, and as strictly as from the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tests.fakes.house import DOMAIN, FakeHouse, in_house
from tests.fakes.stores import CountingStore
from troth.core.errors import TrothError, Unauthenticated, Unavailable
from troth.operations.callers import CallerRegistry
from troth.operations.feed import read_seed
from troth.operations.peer import PeerReader
from troth.wire.api.authorities import ForceAuthority, ListAuthorities, PrepareAuthority
from troth.wire.api.certificates import RevokeCertificate
from troth.wire.api.identities import ListInstances, MoveIdentity, MoveInstance
from troth.wire.api.nodes import EvictNode


def open_registry(house: FakeHouse) -> tuple[CallerRegistry, CountingStore]:
    parts, store = house.parts, CountingStore(house.parts.store)
    peers = PeerReader(store, parts.snapshot, parts.clock, DOMAIN)
    return CallerRegistry(store, parts.snapshot, peers, DOMAIN, {}, {}), store


async def show_certificates(house: FakeHouse) -> dict[str, bytes]:
    """The certificates of a node and of a workload on another node."""
    identity = await house.register(nodes=["*"])
    node, other = await house.join(), await house.join("other")
    (issued,) = await house.issue(other, identity.id)
    await house.settle()
    record = await house.parts.store.read(lambda tx: tx.certificates.get(node.serial))
    assert record.der is not None
    return {"node": record.der, "workload": issued.chain[0]}


@in_house
async def test_who_was_read_once_is_confirmed_from_memory(house: FakeHouse) -> None:
    shown = await show_certificates(house)
    registry, store = open_registry(house)
    for der in shown.values():
        assert registry.confirm_certificate(der, "a") is None
        read = await registry.by_certificate(der, "a")
        before = store.reads
        for _ in range(100):
            assert registry.confirm_certificate(der, "a") == read
        elsewhere = registry.confirm_certificate(der, "b")
        assert elsewhere is not None
        assert elsewhere.source == "b"
        assert store.reads == before


async def quarantine(house: FakeHouse) -> None:
    await house.call("identity.quarantine", MoveIdentity(name="payments", reason="x"))


async def suspend(house: FakeHouse) -> None:
    await house.call("identity.suspend", MoveIdentity(name="payments", reason="x"))


async def retire(house: FakeHouse) -> None:
    await house.call("identity.retire", MoveIdentity(name="payments", reason="x"))


async def lock(house: FakeHouse) -> None:
    (one,) = (await house.call("instance.ls", ListInstances(name="payments"))).items
    await house.call("instance.lock", MoveInstance(id=one.id, reason="x"))


async def revoke(house: FakeHouse) -> None:
    identity = await house.parts.store.read(lambda tx: tx.identities.get_named("payments"))
    now = house.clock.now()
    (one,) = await house.parts.store.read(lambda tx: tx.certificates.of_identity(identity.id, now))
    await house.call("certificate.revoke", RevokeCertificate(serial=one.serial, reason="x"))


async def evict(house: FakeHouse) -> None:
    await house.call("node.evict", EvictNode(name="local", reason="x"))


async def evict_host(house: FakeHouse) -> None:
    await house.call("node.evict", EvictNode(name="other", reason="x"))


async def join_anew(house: FakeHouse) -> None:
    await house.join()


async def outlive(house: FakeHouse) -> None:
    house.clock.advance(timedelta(hours=25))
    house.parts.snapshot.hear()


async def distrust(house: FakeHouse) -> None:
    listed = await house.call("authority.ls", ListAuthorities())
    old = next(a for a in listed.items if (a.use, a.state) == ("x509-svid", "active"))
    made = await house.call("authority.prepare", PrepareAuthority(use="x509-svid", reason="x"))
    await house.publish()
    for verb, id_ in (("activate", made.id), ("revoke", old.id)):
        await house.call(f"authority.{verb}", ForceAuthority(id=id_, reason="x", force=True))


async def fall_silent(house: FakeHouse) -> None:
    house.clock.advance(timedelta(seconds=16))


Cut = Callable[[FakeHouse], Awaitable[None]]


@pytest.mark.parametrize(
    ("whose", "cut", "error"),
    [
        ("workload", quarantine, Unauthenticated),
        ("workload", suspend, Unauthenticated),
        ("workload", retire, Unauthenticated),
        ("workload", lock, Unauthenticated),
        ("workload", revoke, Unauthenticated),
        ("workload", evict_host, Unauthenticated),
        ("workload", outlive, Unauthenticated),
        ("workload", distrust, Unauthenticated),
        ("node", evict, Unauthenticated),
        ("node", join_anew, Unauthenticated),
        ("node", outlive, Unauthenticated),
        ("node", distrust, Unauthenticated),
        ("node", fall_silent, Unavailable),
    ],
)
def test_memory_refuses_whoever_may_no_longer_call(
    whose: str, cut: Cut, error: type[TrothError], tmp_path: Path
) -> None:
    @in_house
    async def test(house: FakeHouse) -> None:
        der = (await show_certificates(house))[whose]
        registry, store = open_registry(house)
        await registry.by_certificate(der, "")
        await cut(house)
        if cut is not fall_silent:
            await house.settle()
        before = store.reads
        with pytest.raises(error):
            registry.confirm_certificate(der, "")
        assert store.reads == before
        with pytest.raises(error):
            await registry.by_certificate(der, "")

    test(tmp_path)


@in_house
async def test_after_the_database_was_set_back_everybody_is_read_again(house: FakeHouse) -> None:
    shown = await show_certificates(house)
    registry, _ = open_registry(house)
    for der in shown.values():
        await registry.by_certificate(der, "")
        house.parts.snapshot.reload(await read_seed(house.parts.store, house.clock.now()))
        assert registry.confirm_certificate(der, "") is None
        await registry.by_certificate(der, "")
        assert registry.confirm_certificate(der, "") is not None
