"""`token.request`: who gets an access token, for what, and what stands in it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.clients import (
    LEDGER,
    ORIGIN,
    FakeClient,
    add_client,
    apply,
    render_identity,
    request_token,
)
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from troth.core.errors import TrothError, Unavailable
from troth.core.jose.jwk import load_jwk
from troth.issuance.accesstoken import validate_access_token
from troth.wire.api.identities import MoveIdentity
from troth.wire.oauth.errors import name_error


async def validate(house: FakeHouse, text: str, audience: str = LEDGER) -> dict[str, Any]:
    import msgspec

    jwks = msgspec.json.decode(await house.parts.publication.show_token_keys())["keys"]
    return dict(
        validate_access_token(
            text,
            issuer_url=ORIGIN,
            audiences=[audience],
            keys={jwk["kid"]: (load_jwk(jwk), jwk["alg"]) for jwk in jwks},
            now=house.clock.now(),
        )
    )


async def refuse(house: FakeHouse, request: Any) -> TrothError:
    with pytest.raises(TrothError) as caught:
        await request_token(house, request)
    return caught.value


@in_house
async def test_a_client_gets_a_token_for_itself(house: FakeHouse) -> None:
    client = await add_client(house)
    answer = await request_token(house, client.ask())
    assert (answer.token_type, answer.expires_in, answer.scope) == ("Bearer", 300, "read write")
    claims = await validate(house, answer.access_token)
    now = int(house.clock.now().timestamp())
    assert claims.pop("jti").startswith("tok_")
    assert claims == {
        "iss": ORIGIN,
        "sub": client.spiffe_id,
        "aud": LEDGER,
        "client_id": client.spiffe_id,
        "iat": now,
        "exp": now + 300,
        "scope": "read write",
        "troth_tier": "medium",
    }
    (issued,) = await house.events("token.issued")
    assert issued.actor == issued.subject == client.spiffe_id
    assert issued.body["resource"] == "ledger"
    assert answer.access_token not in str(issued)


@in_house
async def test_a_scope_narrows_and_never_widens(house: FakeHouse) -> None:
    client = await add_client(house, roles=["reader"])
    assert (await request_token(house, client.ask())).scope == "read"
    assert (await request_token(house, client.ask(scope="read write admin"))).scope == "read"
    assert name_error(await refuse(house, client.ask(scope="write"))) == "invalid_scope"
    assert name_error(await refuse(house, client.ask(scope="*"))) == "invalid_scope"


@in_house
async def test_an_assertion_is_taken_once(house: FakeHouse) -> None:
    client = await add_client(house)
    request = client.ask()
    await request_token(house, request)
    refusal = await refuse(house, request)
    assert name_error(refusal) == "invalid_client"
    assert "used before" in refusal.detail
    assert len(await house.events("token.issued")) == 1


@in_house
async def test_of_many_at_once_each_gets_its_own_and_a_replay_nothing(house: FakeHouse) -> None:
    import asyncio

    client = await add_client(house)
    requests = [client.ask() for _ in range(20)]
    outcomes = await asyncio.gather(
        *(request_token(house, request) for request in (*requests, *requests[:5])),
        return_exceptions=True,
    )
    tokens = [one.access_token for one in outcomes if not isinstance(one, BaseException)]
    assert len(set(tokens)) == 20
    assert sum(isinstance(one, TrothError) for one in outcomes) == 5
    assert len(await house.events("token.issued")) == 20


@in_house
async def test_two_clients_may_use_the_same_jti(house: FakeHouse) -> None:
    one = await add_client(house)
    two = await add_client(house, "shipping", 42)
    await request_token(house, one.ask(one.assert_identity(jti="same")))
    await request_token(house, two.ask(two.assert_identity(jti="same")))


WRONG_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"iss": "spiffe://example.org/other"}, "iss and sub"),
    ({"sub": None}, "iss and sub"),
    ({"sub": 5, "iss": 5}, "iss and sub"),
    ({"aud": "https://elsewhere.example"}, "meant for this server"),
    ({"aud": [ORIGIN, "https://elsewhere.example"]}, "meant for this server"),
    ({"aud": []}, "no aud"),
    ({"aud": None}, "no aud"),
    ({"exp": None}, "no exp"),
    ({"exp": 1}, "has expired"),
    ({"exp": 1 << 60}, "number of seconds"),
    ({"exp": 1 << 40}, "lives too long"),
    ({"iat": 1 << 40}, "in the future"),
    ({"nbf": 1 << 40}, "in the future"),
    ({"jti": None}, "needs a jti"),
    ({"jti": ""}, "needs a jti"),
    ({"jti": "x" * 257}, "needs a jti"),
    ({"jti": 7}, "needs a jti"),
]


@pytest.mark.parametrize(("claims", "sentence"), WRONG_CLAIMS)
def test_an_unsound_assertion_is_refused_with_its_reason(
    claims: dict[str, Any], sentence: str, tmp_path: Any
) -> None:
    async def run(house: FakeHouse) -> None:
        client = await add_client(house)
        refusal = await refuse(house, client.ask(client.assert_identity(**claims)))
        assert name_error(refusal) == "invalid_client"
        assert sentence in refusal.detail

    in_house(run)(tmp_path)


@in_house
async def test_an_outsider_never_learns_who_is_registered(house: FakeHouse) -> None:
    """Whatever depends on the registration has one answer."""
    client = await add_client(house)
    stranger = FakeClient("spiffe://example.org/nobody", make_private_key(5), house.clock.now)
    forger = FakeClient(client.spiffe_id, make_private_key(6), house.clock.now)
    foreign = FakeClient("spiffe://example.net/billing", make_private_key(5), house.clock.now)
    noname = FakeClient("billing", make_private_key(5), house.clock.now)
    no_keys = render_identity("plain", make_private_key(7))
    del no_keys["spec"]["client"]
    await apply(house, no_keys)
    plain = FakeClient("spiffe://example.org/plain", make_private_key(7), house.clock.now)
    details = set()
    for one in (stranger, forger, foreign, noname, plain):
        refusal = await refuse(house, one.ask())
        assert name_error(refusal) == "invalid_client"
        details.add(refusal.detail)
    kid = client.ask(client.assert_identity(header={"kid": "another"}))
    details.add((await refuse(house, kid)).detail)
    assert len(details) == 1


@pytest.mark.parametrize("verb", ["suspend", "quarantine", "retire"])
def test_who_is_cut_off_gets_no_token(verb: str, tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        client = await add_client(house)
        await request_token(house, client.ask())
        await house.call(f"identity.{verb}", MoveIdentity(name="billing", reason="test"), ADMIN)
        await house.settle()
        assert name_error(await refuse(house, client.ask())) == "invalid_client"

    in_house(run)(tmp_path)


@in_house
async def test_an_expired_identity_gets_no_token_and_none_outlives_it(house: FakeHouse) -> None:
    client = await add_client(house, expires="1d")
    house.clock.advance(timedelta(days=1) - timedelta(minutes=2))
    house.parts.snapshot.hear()
    answer = await request_token(house, client.ask())
    assert answer.expires_in == 120
    house.clock.advance(timedelta(minutes=2))
    house.parts.snapshot.hear()
    assert name_error(await refuse(house, client.ask())) == "invalid_client"


@in_house
async def test_a_role_that_is_taken_away_is_gone_at_once(house: FakeHouse) -> None:
    client = await add_client(house)
    assert (await request_token(house, client.ask())).scope == "read write"
    await add_client(house, roles=["reader"])
    assert (await request_token(house, client.ask())).scope == "read"
    await add_client(house, roles=["unheard-of"])
    assert name_error(await refuse(house, client.ask())) == "invalid_target"


@in_house
async def test_the_resource_must_be_known_and_reached(house: FakeHouse) -> None:
    client = await add_client(house)
    unknown = await refuse(house, client.ask(resource="https://unknown.example"))
    assert name_error(unknown) == "invalid_target"
    other = await add_client(house, "idle", 43, roles=[])
    unreached = await refuse(house, other.ask())
    assert unreached.detail == unknown.detail
    answer = await request_token(house, client.ask(resource="urn:example:ledger"))
    assert (await validate(house, answer.access_token))["aud"] == LEDGER


@in_house
async def test_without_a_resource_the_only_one_is_meant(house: FakeHouse) -> None:
    client = await add_client(house)
    answer = await request_token(house, client.ask(resource=None))
    assert (await validate(house, answer.access_token))["aud"] == LEDGER


@in_house
async def test_a_stale_server_issues_nothing(house: FakeHouse) -> None:
    client = await add_client(house)
    house.clock.advance(timedelta(seconds=16))
    with pytest.raises(Unavailable):
        await request_token(house, client.ask())


@in_house
async def test_another_grant_is_not_offered(house: FakeHouse) -> None:
    client = await add_client(house)
    refusal = await refuse(house, client.ask(grant_type="password"))
    assert name_error(refusal) == "unsupported_grant_type"
    assert name_error(await refuse(house, client.ask(grant_type=None))) == "invalid_request"


@in_house
async def test_a_refusal_is_told_to_the_journal_with_what_was_claimed(house: FakeHouse) -> None:
    client = await add_client(house)
    stranger = FakeClient("spiffe://example.org/nobody", make_private_key(5), house.clock.now)
    await refuse(house, stranger.ask())
    await refuse(house, client.ask(scope="everything"))
    first, second = await house.events("token.refused")
    assert first.body["error"] == "invalid_client"
    assert first.body["claimed"] == stranger.spiffe_id
    assert (second.body["error"], second.body["grant"]) == ("invalid_scope", "client_credentials")


@in_house
async def test_strangers_don_t_fill_the_journal(house: FakeHouse) -> None:
    stranger = FakeClient("spiffe://example.org/nobody", make_private_key(5), house.clock.now)
    for _ in range(50):
        await refuse(house, stranger.ask())
    assert len(await house.events("token.refused")) == 20
    house.clock.advance(timedelta(seconds=10))
    await house.settle()
    await refuse(house, stranger.ask())
    assert (await house.events("token.refused"))[-1].body["untold"] == 30
