"""Opaque access tokens: for a resource that wants them, they do all that others do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.clients import (
    FakeClient,
    add_client,
    apply,
    introspect,
    render_identity,
    render_manifest,
    request_token,
    surrender,
)
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from troth.core.errors import Invalid
from troth.core.jose.jws import parse_token
from troth.issuance.authorities import Use
from troth.operations.call import ANONYMOUS
from troth.operations.sealing import TokenSealer
from troth.wire.api.authorities import ForceAuthority, MoveAuthority, PrepareAuthority
from troth.wire.api.identities import MoveIdentity
from troth.wire.oauth.metadata import TOKEN_EXCHANGE

VAULT = "https://vault.example.org"
INACTIVE = {"active": False}


async def meet(house: FakeHouse) -> tuple[FakeClient, FakeClient, str]:
    """A client, the API that wants opaque tokens, and one for it."""
    client = await add_client(house, roles=["clerk", "opener"])
    key = make_private_key(52)
    await apply(
        house,
        render_manifest(
            "Resource",
            "vault",
            identifiers=[VAULT],
            servers=["vault-api"],
            actions={"open": "Open it"},
            token={"format": "opaque"},
        ),
        render_manifest("Role", "opener", permissions=[{"resource": "vault", "actions": ["open"]}]),
        render_identity("vault-api", key, roles=["opener"]),
    )
    server = FakeClient("spiffe://example.org/vault-api", key, house.clock.now)
    answer = await request_token(house, client.ask(resource=VAULT))
    assert answer.token_type == "Bearer"
    return client, server, answer.access_token


@in_house
async def test_nobody_but_the_issuer_reads_it(house: FakeHouse) -> None:
    client, server, token = await meet(house)
    assert token.startswith("troth_")
    with pytest.raises(Invalid):
        parse_token(token)
    answer = await introspect(house, server, token)
    assert answer["active"] is True
    assert (answer["sub"], answer["aud"]) == (client.spiffe_id, VAULT)
    assert answer["permitted_actions"] == ["open"]


@in_house
async def test_a_server_that_shares_the_keys_reads_it_too(house: FakeHouse) -> None:
    _, _, token = await meet(house)
    other = TokenSealer(house.keystore, house.parts.entropy)
    jwt = other.open(token, house.clock.now())
    assert parse_token(jwt).header["typ"] == "at+jwt"


@in_house
async def test_it_ends_with_its_holder(house: FakeHouse) -> None:
    _, server, token = await meet(house)
    await house.call("identity.quarantine", MoveIdentity(name="billing", reason="test"), ADMIN)
    await house.settle()
    assert await introspect(house, server, token) == INACTIVE


@in_house
async def test_it_ends_when_it_is_given_up(house: FakeHouse) -> None:
    client, server, token = await meet(house)
    await surrender(house, client, token)
    assert await introspect(house, server, token) == INACTIVE


@in_house
async def test_it_ends_with_the_key_that_signed_it(house: FakeHouse) -> None:
    _, server, token = await meet(house)
    (old,) = await house.parts.store.read(lambda tx: tx.authorities.list(Use.TOKEN))
    made = await house.call("authority.prepare", PrepareAuthority(use="access-token", reason="t"))
    await house.call("authority.activate", ForceAuthority(id=made.id, reason="t", force=True))
    await house.settle()
    assert (await introspect(house, server, token))["active"] is True
    await house.call("authority.taint", MoveAuthority(id=old.id, reason="test"), ADMIN)
    await house.settle()
    assert await introspect(house, server, token) == INACTIVE


@in_house
async def test_it_is_exchanged_for_another(house: FakeHouse) -> None:
    client, server, token = await meet(house)
    values: dict[str, Any] = {
        "grant_type": TOKEN_EXCHANGE,
        "resource": VAULT,
        "subject_token": token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }
    answer = await house.call("token.exchange", server.ask(**values), ANONYMOUS)
    assert answer.access_token.startswith("troth_")
    told = await introspect(house, server, answer.access_token)
    assert told["sub"] == client.spiffe_id
    assert told["act"] == {"sub": server.spiffe_id}


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_damaged_one_is_inactive_and_the_journal_says_why(cut: int, tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        _, server, token = await meet(house)
        assert await introspect(house, server, token[:-cut]) == INACTIVE
        found = [e for e in await house.events() if e.type == "token.rejected"]
        assert len(found) == 1
        assert found[0].body["reason"]

    in_house(run)(tmp_path)
