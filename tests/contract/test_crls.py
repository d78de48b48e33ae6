"""Several servers and one revocation: one of them makes the list, the others pick it up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.fakes.house import FakeHouse, open_house
from tests.fakes.stores import ENGINES, make_url
from troth.core.errors import Unavailable
from troth.issuance.authorities import Use
from troth.issuance.crl import list_serials
from troth.issuance.drafter import Drafter
from troth.operations.call import Caller
from troth.operations.crl import LEASE_TTL, PublishCrls
from troth.wire.api.certificates import RevokeCertificate


class CountingDrafter(Drafter):
    """Counts the lists that it drafts."""

    drafted = 0

    def sign_crl(
        self, builder: x509.CertificateRevocationListBuilder
    ) -> x509.CertificateRevocationList:
        self.drafted += 1
        return super().sign_crl(builder)


@dataclass
class Servers:
    """A house, and two servers on its database that publish lists with its keys."""

    house: FakeHouse
    one: PublishCrls
    two: PublishCrls
    identity: str
    node: Caller
    signed: int = 0

    def count(self) -> None:
        self.signed += 1

    async def revoke(self) -> int:
        """Issue a certificate and revoke it; its serial. Counting starts anew."""
        self.house.keystore.before_sign = None
        (leaf,) = await self.house.issue(self.node, self.identity)
        body = RevokeCertificate(serial=leaf.serial, reason="lost")
        await self.house.call("certificate.revoke", body)
        self.signed = 0
        self.house.keystore.before_sign = self.count
        return int(leaf.serial, 16)

    async def list(self) -> frozenset[int]:
        """The serials on the list that is served."""
        store = self.house.parts.store
        (authority,) = await store.read(lambda tx: tx.authorities.list(Use.X509))
        latest = await store.read(lambda tx: tx.crls.latest(authority.id))
        assert latest is not None
        assert latest.der is not None
        return list_serials(latest.der)


def drafted(publish: PublishCrls) -> int:
    assert isinstance(publish.drafter, CountingDrafter)
    return publish.drafter.drafted


def with_servers(test: Callable[[Servers], Coroutine[Any, Any, None]]) -> Any:
    @pytest.mark.parametrize("engine", ENGINES)
    def run(engine: str, tmp_path: Path) -> None:
        async def main() -> None:
            async with open_house(tmp_path, url=make_url(engine, tmp_path)) as house:
                identity, node = await house.register(), await house.join()
                made = house.parts.store.holder
                await house.parts.store.transact(lambda tx: tx.leases.release("crl.publish", made))
                one, two = (
                    replace(house.publish, holder=name, drafter=CountingDrafter(), _listed={})
                    for name in ("one", "two")
                )
                await test(Servers(house, one, two, identity.id, node))

        asyncio.run(main())

    run.__doc__ = test.__doc__
    return run


@with_servers
async def test_one_revocation_makes_one_signature(servers: Servers) -> None:
    serial = await servers.revoke()
    await asyncio.gather(servers.one(), servers.two())
    await asyncio.gather(servers.one(), servers.two())
    assert servers.signed == 1
    assert serial in await servers.list()


@with_servers
async def test_who_comes_while_another_one_signs_doesnt_sign_too(servers: Servers) -> None:
    serial = await servers.revoke()
    loop = asyncio.get_running_loop()

    def come() -> None:
        servers.count()
        if servers.signed == 1:
            asyncio.run_coroutine_threadsafe(servers.two(), loop).result(30)

    servers.house.keystore.before_sign = come
    await servers.one()
    await servers.two()
    assert servers.signed == 1
    assert serial in await servers.list()


@with_servers
async def test_who_made_the_last_list_makes_the_next_one_and_nobody_else_drafts(
    servers: Servers,
) -> None:
    await servers.revoke()
    await servers.one()
    before = drafted(servers.one)
    for _ in range(3):
        serial = await servers.revoke()
        await servers.two()
        assert serial not in await servers.list()
        await asyncio.gather(servers.one(), servers.two())
        assert servers.signed == 1
        assert serial in await servers.list()
    assert (drafted(servers.one) - before, drafted(servers.two)) == (3, 0)


@with_servers
async def test_who_stands_still_is_replaced(servers: Servers) -> None:
    await servers.revoke()
    await servers.one()
    serial = await servers.revoke()
    servers.house.clock.advance(LEASE_TTL)
    await servers.two()
    assert serial in await servers.list()
    again = await servers.revoke()
    await servers.one()
    assert again not in await servers.list()
    await servers.two()
    assert again in await servers.list()


@with_servers
async def test_who_cannot_sign_leaves_it_to_another_one_at_once(servers: Servers) -> None:
    await servers.revoke()
    await servers.one()
    serial = await servers.revoke()

    def fail() -> None:
        raise Unavailable("The key is away.")

    servers.house.keystore.before_sign = fail
    with pytest.raises(Unavailable):
        await servers.one()
    servers.house.keystore.before_sign = None
    await servers.two()
    assert serial in await servers.list()
