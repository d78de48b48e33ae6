"""The token endpoint over real mutual TLS: whose certificate proves a client, and whose doesn't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.clients import LEDGER, add_client
from tests.fakes.house import FakeHouse, open_house
from tests.unit.server.http.stage import Authority, in_loop, open_stage
from troth.core.ids import AuthorityId
from troth.issuance.authorities import Authority as Known
from troth.issuance.authorities import AuthorityState, Use
from troth.operations.call import Call
from troth.wire.oauth.metadata import CLIENT_CREDENTIALS

FORM = {"grant_type": CLIENT_CREDENTIALS, "resource": LEDGER}
BILLING = "spiffe://example.org/billing"


async def trust_authority(house: FakeHouse, authority: Authority) -> None:
    """Have the house know the authority whose certificates the listener lets in."""
    certificate = authority.certificate
    known = Known(
        id=AuthorityId("aut_of_the_stage"),
        use=Use.X509,
        state=AuthorityState.RETIRED,
        key_ref="elsewhere",
        public_key=authority.spki,
        certificate=authority.der,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        created_at=house.clock.now(),
        retired_at=house.clock.now(),
    )
    await house.parts.store.transact(lambda tx: tx.authorities.add(known))
    house.parts.snapshot.bundle = None  # it was read before


@in_loop
async def test_a_certificate_of_another_trust_domain_proves_nobody(tmp_path: Path) -> None:
    """One whose chain doesn't end here never comes in; one that names another domain is told."""
    async with open_house(tmp_path) as house, open_stage(tmp_path) as stage:
        await trust_authority(house, stage.authority)
        await add_client(house)

        async def answer(call: Call[Any]) -> Any:
            return await house.dispatcher.operations["token.request"](call)

        stage.operations.answer = answer
        client = await stage.node_client(stage.authority.issue(BILLING), tmp_path)
        good = await client.post("/oauth/token", data=FORM)
        assert good.status_code == 200, good.text
        for name in ("spiffe://example.net/billing", "spiffe://example.org.evil/billing"):
            client = await stage.node_client(stage.authority.issue(name), tmp_path)
            refused = await client.post("/oauth/token", data=FORM)
            assert refused.status_code == 401
            assert refused.json()["error"] == "invalid_client"
            assert refused.json()["error_description"]
        foreign = Authority("another root").issue(BILLING)
        client = await stage.node_client(foreign, tmp_path)
        with pytest.raises(httpx.TransportError):
            await client.post("/oauth/token", data=FORM)
        told = await house.events("token.refused")
        assert [one.body["error"] for one in told] == ["invalid_client"] * 2


@in_loop
async def test_on_the_public_listener_there_is_no_certificate(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, open_stage(tmp_path) as stage:
        await add_client(house)

        async def answer(call: Call[Any]) -> Any:
            return await house.dispatcher.operations["token.request"](call)

        stage.operations.answer = answer
        pair = stage.authority.issue(BILLING).write(tmp_path, "client")
        client = await stage._tls_client(stage.public.port, pair)
        refused = await client.post("/oauth/token", data=FORM)
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
