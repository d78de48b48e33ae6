"""Two servers on one database whose clocks disagree: the one that is ahead takes what the other is
issuing at this moment for left open by a crash. Whatever it closes is never given out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.house import FakeHouse, make_csr, open_house
from tests.fakes.stores import ENGINES, make_url
from troth.core.clock import VirtualClock
from troth.core.errors import Conflict
from troth.operations.leaf import STRANDED_AFTER, ReconcileIssuance
from troth.store.certificates import CertificateGateway
from troth.store.engine import open_store
from troth.store.records import CertificateRecord, IssuanceState
from troth.wire.api.authorities import PrepareAuthority
from troth.wire.api.certificates import CertificateRequest, InstanceClaim, IssueCertificates
from troth.wire.api.jwt_svids import IssueJwtSvids, JwtSvidRequest

AHEAD = STRANDED_AFTER + timedelta(seconds=1)
CLAIM = InstanceClaim(key="ab" * 16, pid=7, selectors=["unix:uid:1001"])


@dataclass
class Pair:
    """A server, and how to run the reconciler of the other one, which is `AHEAD`."""

    house: FakeHouse
    reconcile: Callable[[], None]


@asynccontextmanager
async def open_pair(engine: str, folder: Path) -> AsyncIterator[Pair]:
    url = make_url(engine, folder)
    async with open_house(folder, url=url) as house:
        other = await asyncio.to_thread(
            open_store, url, clock=VirtualClock(house.clock.now() + AHEAD)
        )
        try:
            yield Pair(
                house,
                lambda: asyncio.run(ReconcileIssuance(other, other.clock, other.holder)()),
            )
        finally:
            other.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_certificate_whose_intent_was_closed_is_never_given_out(
    engine: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with open_pair(engine, tmp_path) as pair:
            identity, node = await pair.house.register(), await pair.house.join()
            pair.house.keystore.before_sign = pair.reconcile
            (refused,) = await pair.house.issue(node, identity.id)
            pair.house.keystore.before_sign = None
            assert (refused.error.code, refused.chain) == (Conflict.code, [])
            (given,) = await pair.house.issue(node, identity.id)
            mine = await pair.house.events("certificate.")
            told = [(e.type, e.body["serial"]) for e in mine if e.subject == identity.spiffe_id]
            closed = told[0][1]
            assert told == [
                ("certificate.intended", closed),
                ("certificate.abandoned", closed),
                ("certificate.revoked", closed),
                ("certificate.intended", given.serial),
                ("certificate.issued", given.serial),
            ]
            record = await pair.house.parts.store.read(lambda tx: tx.certificates.get(closed))
            assert (record.state, record.der) == (IssuanceState.ABANDONED, None)
            assert record.revoked_at is not None

    asyncio.run(main())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_token_whose_intent_was_closed_is_never_given_out(engine: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_pair(engine, tmp_path) as pair:
            identity, node = await pair.house.register(), await pair.house.join()
            await pair.house.settle()
            wish = JwtSvidRequest(identity_id=identity.id, audiences=["a"], instance=CLAIM)
            body = IssueJwtSvids(requests=[wish])
            pair.house.keystore.before_sign = pair.reconcile
            (refused,) = (await pair.house.call("jwtsvid.issue", body, node)).results
            pair.house.keystore.before_sign = None
            assert (refused.error.code, refused.token) == (Conflict.code, "")
            (given,) = (await pair.house.call("jwtsvid.issue", body, node)).results
            assert given.token
            told = [event.type for event in await pair.house.events("jwtsvid.")]
            once = ["jwtsvid.intended", "jwtsvid.abandoned"]
            assert told == [*once, "jwtsvid.intended", "jwtsvid.issued"]

    asyncio.run(main())


@pytest.mark.parametrize("engine", ENGINES)
def test_an_authority_whose_certificate_was_closed_is_never_published(
    engine: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with open_pair(engine, tmp_path) as pair:
            house, body = pair.house, PrepareAuthority(use="x509-svid", reason="drill")
            before = await house.parts.store.read(lambda tx: tx.authorities.list())
            house.keystore.before_sign = pair.reconcile
            with pytest.raises(Conflict):
                await house.call("authority.prepare", body)
            house.keystore.before_sign = None
            assert await house.parts.store.read(lambda tx: tx.authorities.list()) == before
            assert (await house.call("authority.prepare", body)).state == "prepared"

    asyncio.run(main())


def test_what_was_given_out_while_another_server_judged_it_stays_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reconciler has seen the intent, and the result is committed before it closes it."""
    judged, given = threading.Event(), threading.Event()
    look = CertificateGateway.interrupted

    def wait(gateway: CertificateGateway, *how: Any) -> list[CertificateRecord]:
        found = look(gateway, *how)
        if found and not judged.is_set():
            judged.set()
            assert given.wait(30)
        return found

    async def main() -> None:
        async with open_pair("postgresql", tmp_path) as pair:
            house = pair.house
            identity, node = await house.register(), await house.join()
            reconciling: list[asyncio.Future[None]] = []
            loop = asyncio.get_running_loop()

            def begin() -> None:
                reconciling.append(loop.run_in_executor(None, pair.reconcile))
                assert judged.wait(30)

            house.keystore.before_sign = begin
            await house.settle()
            request = CertificateRequest(identity_id=identity.id, csr=make_csr(), instance=CLAIM)
            body = IssueCertificates(requests=[request])
            (answer,) = (await house.call("certificate.issue", body, node)).results
            given.set()
            await asyncio.gather(*reconciling)
            assert answer.chain
            record = await house.parts.store.read(lambda tx: tx.certificates.get(answer.serial))
            assert (record.state, record.revoked_at) == (IssuanceState.ISSUED, None)
            assert not await house.events("certificate.abandoned")

    monkeypatch.setattr(CertificateGateway, "interrupted", wait)
    asyncio.run(main())
