"""Points that enforce and come with an access token: whose tokens count at the decision point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.clients import LEDGER, ORIGIN, FakeClient, add_client, apply, render_manifest
from tests.fakes.clients import request_token as request
from tests.fakes.house import DOMAIN, FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from tests.fakes.proofs import make_proof
from troth.core.errors import Unauthenticated
from troth.operations.bearer import TokenJudge
from troth.operations.call import ANONYMOUS
from troth.operations.dpop import DpopVerifier
from troth.operations.pointcaller import PointCallers, Shown
from troth.operations.sealing import TokenSealer
from troth.wire.api.identities import MoveIdentity
from troth.wire.oauth.errors import InvalidDpopProof, UseDpopNonce

URL = f"{ORIGIN}/access/v1/evaluation"
TOKEN_URL = f"{ORIGIN}/oauth/token"
HOLDER = make_private_key(77)


def open_callers(house: FakeHouse, **roles: str) -> PointCallers:
    """What the public listener asks, with these roles for identities."""
    p = house.parts
    sealer = TokenSealer(p.keystore, p.entropy)
    judge = TokenJudge(p.store, p.snapshot, p.clock, DOMAIN, ORIGIN, sealer)
    dpop = DpopVerifier(p.store, p.clock, p.entropy, [URL])
    named = {f"spiffe://example.org/{name}": role for name, role in roles.items()}
    return PointCallers(p.store, judge, dpop, named, [ORIGIN, URL])


async def add_point(house: FakeHouse) -> FakeClient:
    """A client that may get tokens for the decision point and for the ledger."""
    client = await add_client(house)
    await apply(
        house,
        render_manifest(
            "Resource", "decisions", identifiers=[ORIGIN], servers=[], actions={"ask": "Ask"}
        ),
        render_manifest(
            "Role",
            "clerk",
            permissions=[
                {"resource": "decisions", "actions": ["ask"]},
                {"resource": "ledger", "actions": ["read"]},
            ],
        ),
    )
    return client


def show(token: str, scheme: str = "Bearer", proof: str | None = None) -> Shown:
    return Shown(f"{scheme} {token}", proof, "POST", URL, "192.0.2.1:4711")


async def refuse(callers: PointCallers, shown: Shown) -> str:
    with pytest.raises(Unauthenticated) as refused:
        await callers.identify(shown)
    return refused.value.detail


@in_house
async def test_a_token_for_this_server_tells_who_asks(house: FakeHouse) -> None:
    client = await add_point(house)
    token = (await request(house, client.ask(resource=ORIGIN))).access_token
    for scheme in ("Bearer", "bearer"):
        caller = await open_callers(house).identify(show(token, scheme))
        assert caller.principal == client.spiffe_id
        assert caller.roles == {"workload"}
        assert caller.source == "192.0.2.1:4711"
    assert (await open_callers(house, billing="auditor").identify(show(token))).roles == {"auditor"}


@in_house
async def test_tokens_that_do_not_count(house: FakeHouse) -> None:
    client = await add_point(house)
    callers = open_callers(house)
    token = (await request(house, client.ask(resource=ORIGIN))).access_token
    other = (await request(house, client.ask(resource=LEDGER))).access_token
    assert "somebody else" in await refuse(callers, show(other))
    assert "bound to no key" in await refuse(callers, show(token, "DPoP"))
    for odd in ("", "a.b.c", token[:-4], token + "A", "x" * 20_000):
        assert await refuse(callers, show(odd))
    for scheme in ("Basic", "Negotiate", ""):
        assert "Authorization header" in await refuse(callers, show(token, scheme))
    body = MoveIdentity(name="billing", reason="odd")
    await house.call("identity.quarantine", body)
    await house.settle()
    words = await refuse(callers, show(token))
    assert "quarantined" not in words, "what became of it is not for who shows it"


async def bind(house: FakeHouse, client: FakeClient) -> str:
    """A token that is bound to the holder's key."""
    nonce = ""
    for _ in range(2):
        proof = make_proof(HOLDER, "POST", TOKEN_URL, house.clock.now(), "", nonce=nonce, jti="t")
        asked = replace(client.ask(resource=ORIGIN), dpop=proof, url=TOKEN_URL)
        try:
            answer: Any = await house.call("token.request", asked, ANONYMOUS)
        except UseDpopNonce as error:
            nonce = error.nonce
            continue
        return str(answer.access_token)
    raise AssertionError("no token was given")


@in_house
async def test_a_bound_token_needs_its_proof(house: FakeHouse) -> None:
    client = await add_point(house)
    callers = open_callers(house)
    token, now = await bind(house, client), house.clock.now()
    assert "bound to a key" in await refuse(callers, show(token))
    assert "bound to a key" in await refuse(callers, show(token, "DPoP"))
    bare = make_proof(HOLDER, "POST", URL, now, token)
    with pytest.raises(UseDpopNonce) as wanted:
        await callers.identify(show(token, "DPoP", bare))
    nonce = wanted.value.nonce
    good = make_proof(HOLDER, "POST", URL, now, token, nonce=nonce, jti="1")
    assert (await callers.identify(show(token, "DPoP", good))).principal == client.spiffe_id
    assert "used before" in await refuse(callers, show(token, "DPoP", good))
    thief = make_proof(make_private_key(78), "POST", URL, now, token, nonce=nonce, jti="2")
    assert "another key" in await refuse(callers, show(token, "DPoP", thief))
    for odd in (
        make_proof(HOLDER, "POST", URL, now, "another", nonce=nonce, jti="3"),
        make_proof(HOLDER, "GET", URL, now, token, nonce=nonce, jti="4"),
        make_proof(HOLDER, "POST", f"{URL}s", now, token, nonce=nonce, jti="5"),
    ):
        with pytest.raises(InvalidDpopProof):
            await callers.identify(show(token, "DPoP", odd))
    elsewhere = replace(show(token, "DPoP", good), url="https://evil.example/access/v1/evaluation")
    with pytest.raises(InvalidDpopProof):
        await callers.identify(elsewhere)
