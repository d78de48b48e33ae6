"""`token.introspect`: what a resource learns of a token, and what of it nobody learns."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from tests.fakes.clients import (
    LEDGER,
    ORIGIN,
    FakeClient,
    add_client,
    apply,
    introspect,
    render_identity,
    render_manifest,
    request_token,
)
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from troth.core.errors import TrothError, Unavailable
from troth.core.jose.jwk import load_jwk
from troth.core.jose.jws import parse_token, verify_token
from troth.issuance.authorities import Use
from troth.issuance.introspection import MEDIA_TYPE
from troth.operations.introspection import accepts
from troth.operations.purge import PurgeRecords
from troth.wire.api.authorities import (
    ForceAuthority,
    ListAuthorities,
    MoveAuthority,
    PrepareAuthority,
)
from troth.wire.api.identities import MoveIdentity
from troth.wire.oauth.errors import name_error
from troth.wire.oauth.introspection import Signed

INACTIVE = {"active": False}


async def meet(house: FakeHouse, **spec: Any) -> tuple[FakeClient, FakeClient, str]:
    """A client, the API that it calls, and a token of the first for the second."""
    client = await add_client(house, **spec)
    key = make_private_key(51)
    await apply(house, render_identity("ledger-api", key, roles=[]))
    server = FakeClient("spiffe://example.org/ledger-api", key, house.clock.now)
    token = (await request_token(house, client.ask())).access_token
    await house.settle()
    return client, server, token


async def move(house: FakeHouse, verb: str, name: str = "billing") -> None:
    await house.call(f"identity.{verb}", MoveIdentity(name=name, reason="test"), ADMIN)
    await house.settle()


async def wait(house: FakeHouse, seconds: float) -> None:
    house.clock.advance(timedelta(seconds=seconds))
    await house.settle()


async def reasons(house: FakeHouse) -> list[str]:
    return [event.body["reason"] for event in await house.events("token.rejected")]


@in_house
async def test_a_live_token_says_who_it_is_and_what_it_may(house: FakeHouse) -> None:
    client, server, token = await meet(house)
    answer = await introspect(house, server, token)
    now = int(house.clock.now().timestamp())
    assert answer.pop("jti").startswith("tok_")
    assert answer == {
        "active": True,
        "scope": "read write",
        "client_id": client.spiffe_id,
        "token_type": "Bearer",
        "exp": now + 300,
        "iat": now,
        "sub": client.spiffe_id,
        "aud": LEDGER,
        "iss": ORIGIN,
        "roles": ["clerk"],
        "permitted_actions": ["read", "write"],
        "trust_tier": "medium",
        "cache_until": now + 1,
    }
    assert not await house.events("token.rejected")


@in_house
async def test_what_is_permitted_is_what_roles_say_now_and_never_more_than_the_scope(
    house: FakeHouse,
) -> None:
    client, server, _ = await meet(house)
    narrow = (await request_token(house, client.ask(scope="write"))).access_token
    assert (await introspect(house, server, narrow))["permitted_actions"] == ["write"]
    wide = (await request_token(house, client.ask())).access_token
    await add_client(house, roles=["reader"])
    answer = await introspect(house, server, wide)
    assert (answer["scope"], answer["permitted_actions"]) == ("read write", ["read"])
    assert answer["roles"] == ["reader"]
    assert (await introspect(house, server, narrow))["permitted_actions"] == []


@in_house
async def test_an_answer_is_never_kept_longer_than_the_token_lives(house: FakeHouse) -> None:
    _, server, token = await meet(house)
    await wait(house, 299.5)
    answer = await introspect(house, server, token)
    assert answer["cache_until"] == answer["exp"]
    await wait(house, 0.5)
    assert await introspect(house, server, token) == INACTIVE
    assert await reasons(house) == ["The token has expired; get a fresh one."]


@in_house
async def test_only_a_server_of_the_resource_learns_anything(house: FakeHouse) -> None:
    client, server, token = await meet(house)
    key = make_private_key(52)
    await apply(
        house,
        render_identity("other-api", key, roles=["clerk"]),
        render_manifest(
            "Resource",
            "other",
            identifiers=["https://other.example"],
            servers=["other-api"],
            actions={"read": "See"},
        ),
    )
    other = FakeClient("spiffe://example.org/other-api", key, house.clock.now)
    assert await introspect(house, other, token) == INACTIVE
    assert await introspect(house, client, token) == INACTIVE
    assert set(await reasons(house)) == {"The token is meant for no resource of who asks."}
    (first, _) = await house.events("token.rejected")
    assert (first.actor, first.subject) == (other.spiffe_id, client.spiffe_id)
    assert token not in str(first)
    assert (await introspect(house, server, token))["active"]


@in_house
async def test_who_asks_may_say_for_which_resource(house: FakeHouse) -> None:
    _, server, token = await meet(house)
    assert (await introspect(house, server, token, resource="urn:example:ledger"))["active"]
    assert await introspect(house, server, token, resource="https://other.example") == INACTIVE


@in_house
async def test_who_proves_nothing_is_told_nothing(house: FakeHouse) -> None:
    _, server, token = await meet(house)
    stranger = FakeClient("spiffe://example.org/nobody", make_private_key(5), house.clock.now)
    forger = FakeClient(server.spiffe_id, make_private_key(6), house.clock.now)
    for one in (stranger, forger):
        with pytest.raises(TrothError) as caught:
            await introspect(house, one, token)
        assert name_error(caught.value) == "invalid_client"
    assertion = server.assert_identity()
    assert (await introspect(house, server, token, client_assertion=assertion))["active"]
    with pytest.raises(TrothError, match="used before") as caught:
        await introspect(house, server, token, client_assertion=assertion)
    assert name_error(caught.value) == "invalid_client"
    with pytest.raises(TrothError, match="token is missing"):
        await introspect(house, server, "")
    assert not await house.events("token.rejected")


def forge(token: str, key: Any, header: dict[str, Any], **claims: Any) -> str:
    """The same token, signed by somebody else or saying something else."""
    parsed = parse_token(token)
    protected = {**parsed.header, **header}
    payload = msgspec.json.encode({**parsed.claims, **claims})
    return jws.serialize_compact(protected, payload, ECKey.import_key(key))


@in_house
async def test_what_is_no_token_of_ours_is_inactive(house: FakeHouse) -> None:
    client, server, token = await meet(house)
    head, body, signature = token.split(".")
    key = make_private_key(7)
    for wrong in (
        "opaque",
        "a.b.c",
        "x" * 20_000,
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-4]}AAAA",
        client.assert_identity(),
        forge(token, key, {}),
        forge(token, key, {"kid": "another"}),
        forge(token, key, {"jwk": ECKey.import_key(key).as_dict(private=False)}),
        forge(token, key, {"typ": "JWT"}),
    ):
        assert await introspect(house, server, wrong) == INACTIVE
    for event in await house.events("token.rejected"):
        assert "jti" not in event.body
        assert event.subject == server.spiffe_id


@pytest.mark.parametrize("claim", ["typ", "iss", "exp"])
def test_of_our_own_key_only_access_tokens_count(claim: str, tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        _, server, token = await meet(house)
        (authority,) = await house.parts.store.read(lambda tx: tx.authorities.list(Use.TOKEN))
        key = house.keystore._find(authority.key_ref)
        wrong: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
            "typ": ({"typ": "token-introspection+jwt"}, {}),
            "iss": ({}, {"iss": "https://elsewhere.example"}),
            "exp": ({}, {"exp": int(house.clock.now().timestamp())}),
        }
        header, claims = wrong[claim]
        assert (await introspect(house, server, forge(token, key, {})))["active"]
        assert await introspect(house, server, forge(token, key, header, **claims)) == INACTIVE

    in_house(run)(tmp_path)


@pytest.mark.parametrize("role", ["sub", "client_id", "act"])
@pytest.mark.parametrize("verb", ["suspend", "quarantine", "retire"])
def test_whoever_takes_part_and_is_cut_off_ends_it(role: str, verb: str, tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        _, server, token = await meet(house)
        await add_client(house, "agent", 44)
        (authority,) = await house.parts.store.read(lambda tx: tx.authorities.list(Use.TOKEN))
        key = house.keystore._find(authority.key_ref)
        agent = "spiffe://example.org/agent"
        nested = {"sub": "spiffe://example.org/billing", "act": {"sub": agent}}
        made = forge(token, key, {}, **{role: nested if role == "act" else agent})
        answer = await introspect(house, server, made)
        assert answer["active"]
        assert answer.get("act") == (nested if role == "act" else None)
        await move(house, verb, "agent")
        assert await introspect(house, server, made) == INACTIVE
        assert (await introspect(house, server, token))["active"]
        (reason,) = await reasons(house)
        assert reason.startswith(f"{agent} is ")

    in_house(run)(tmp_path)


@pytest.mark.parametrize(("cut", "free"), [("quarantine", "release"), ("suspend", "resume")])
def test_tokens_from_before_stay_dead_and_new_ones_live(cut: str, free: str, tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        client, server, token = await meet(house)
        await move(house, cut)
        assert await introspect(house, server, token) == INACTIVE
        await wait(house, 5)
        await move(house, free)
        assert await introspect(house, server, token) == INACTIVE
        with pytest.raises(Unavailable):  # it would be dead at once
            await request_token(house, client.ask())
        await wait(house, 1)
        fresh = (await request_token(house, client.ask())).access_token
        assert (await introspect(house, server, fresh))["active"]
        assert await introspect(house, server, token) == INACTIVE

    in_house(run)(tmp_path)


@in_house
async def test_who_gets_a_retired_name_does_not_get_its_tokens(house: FakeHouse) -> None:
    _, server, token = await meet(house)
    await move(house, "retire")
    await wait(house, 2)
    client = await add_client(house, number=45)
    client.count = 10  # its assertions are none that the retired one sent
    assert house.parts.snapshot.find_cut_off(client.spiffe_id) is None
    assert await introspect(house, server, token) == INACTIVE
    fresh = (await request_token(house, client.ask())).access_token
    assert (await introspect(house, server, fresh))["active"]


@in_house
async def test_an_identity_whose_time_is_over_has_no_token(house: FakeHouse) -> None:
    client, server, token = await meet(house, expires="1d")
    (authority,) = await house.parts.store.read(lambda tx: tx.authorities.list(Use.TOKEN))
    key = house.keystore._find(authority.key_ref)
    await wait(house, 86_400)
    now = int(house.clock.now().timestamp())
    late = forge(token, key, {}, iat=now - 10, exp=now + 300)
    assert await introspect(house, server, late) == INACTIVE
    assert await reasons(house) == [f"{client.spiffe_id} is expired."]


@in_house
async def test_a_key_that_is_replaced_still_counts_and_a_tainted_one_does_not(
    house: FakeHouse,
) -> None:
    client, server, token = await meet(house)
    await house.call("authority.prepare", PrepareAuthority(use="access-token", reason="a test"))
    await wait(house, 1)
    listed = (await house.call("authority.ls", ListAuthorities())).items
    mine = {one.state: one for one in listed if one.use == "access-token"}
    old, new = mine["active"], mine["prepared"]
    await house.call("authority.activate", ForceAuthority(id=new.id, reason="now", force=True))
    await house.settle()
    assert (await introspect(house, server, token))["active"]
    fresh = (await request_token(house, client.ask())).access_token
    assert parse_token(fresh).header["kid"] == new.key_id
    await house.call("authority.taint", MoveAuthority(id=old.id, reason="was copied"))
    await house.settle()
    assert await introspect(house, server, token) == INACTIVE
    assert (await introspect(house, server, fresh))["active"]
    await house.call("authority.revoke", ForceAuthority(id=old.id, reason="gone", force=True))
    await house.settle()
    assert await introspect(house, server, token) == INACTIVE
    assert len(await reasons(house)) == 2


@in_house
async def test_a_stale_server_says_nothing(house: FakeHouse) -> None:
    _, server, token = await meet(house)
    house.clock.advance(timedelta(seconds=16))
    with pytest.raises(Unavailable):
        await introspect(house, server, token)


@in_house
async def test_an_asker_can_not_fill_the_journal(house: FakeHouse) -> None:
    client, server, token = await meet(house)
    for _ in range(100):
        assert await introspect(house, server, "nonsense") == INACTIVE
    assert len(await house.events("token.rejected")) == 20
    await introspect(house, client, token)  # another asker has its own share
    assert (await house.events("token.rejected"))[-1].body["left_out"] == 80
    await wait(house, 2)
    await introspect(house, server, "x" * 1000)
    await introspect(house, server, "nonsense")
    assert len(await house.events("token.rejected")) == 22


@in_house
async def test_the_signed_form_says_the_same_to_one_asker(house: FakeHouse) -> None:
    _, server, token = await meet(house)
    plain = await introspect(house, server, token)
    signed = await introspect(house, server, token, accept=f"text/html, {MEDIA_TYPE};q=0.9")
    assert isinstance(signed, Signed)
    assert signed.media_type == "application/token-introspection+jwt"
    jwt = parse_token(signed.text)
    (jwk,) = msgspec.json.decode(await house.parts.publication.show_token_keys())["keys"]
    verify_token(jwt, load_jwk(jwk), ["ES256"])
    assert jwt.header == {"alg": "ES256", "kid": jwk["kid"], "typ": "token-introspection+jwt"}
    assert jwt.claims == {
        "iss": ORIGIN,
        "aud": server.spiffe_id,
        "iat": int(house.clock.now().timestamp()),
        "token_introspection": plain,
    }
    # It is no token itself.
    assert await introspect(house, server, signed.text) == INACTIVE
    dead = await introspect(house, server, "nonsense", accept=MEDIA_TYPE)
    assert isinstance(dead, Signed)
    assert parse_token(dead.text).claims["token_introspection"] == INACTIVE


def test_the_signed_form_comes_to_who_asks_for_it() -> None:
    assert accepts(MEDIA_TYPE, MEDIA_TYPE)
    assert accepts(f"application/json;q=0.1,{MEDIA_TYPE.upper()} ; q=1", MEDIA_TYPE)
    for header in (
        None,
        "",
        "*/*",
        "application/json",
        f"{MEDIA_TYPE};q=0",
        f"{MEDIA_TYPE}; q=0.00",
    ):
        assert not accepts(header, MEDIA_TYPE)


@in_house
async def test_many_at_once_get_each_its_own_answer(house: FakeHouse) -> None:
    client, server, _ = await meet(house)
    answers = [await request_token(house, client.ask()) for _ in range(10)]
    tokens = [one.access_token for one in answers]
    found = await asyncio.gather(*(introspect(house, server, token) for token in tokens))
    assert [one["jti"] for one in found] == [parse_token(t).claims["jti"] for t in tokens]


@in_house
async def test_nothing_is_kept_of_what_has_expired(house: FakeHouse) -> None:
    client, server, token = await meet(house)
    await introspect(house, server, token)
    await move(house, "quarantine")
    await move(house, "release")
    purge = PurgeRecords(house.parts.store, house.clock, house.parts.snapshot, "test")
    await purge()
    assert house.parts.snapshot.list_refused().issued_until.keys() == {client.spiffe_id}
    await wait(house, 3600 + 31)
    await purge()
    assert not house.parts.snapshot.list_refused().issued_until
    now = house.clock.now() - timedelta(days=1)
    assert not await house.parts.store.read(lambda tx: tx.token_revocations.list_issued_until(now))
