"""Client secrets: off unless allowed, short, few, hashed, throttled, and told to everybody."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.clients import LEDGER, FakeClient, add_client, request_token
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.unit.operations.test_token_request import refuse, validate
from troth.core.errors import Limited, NotFound, Refused, TrothError
from troth.operations.call import ANONYMOUS
from troth.operations.client import UNKNOWN
from troth.operations.client_secret import SecretVerifier
from troth.operations.purge import PurgeRecords
from troth.operations.restoration import settle_restored
from troth.operations.throttle import BURST
from troth.wire.api.client_secrets import (
    ClientSecretCreated,
    ClientSecretPage,
    CreateClientSecret,
    ListClientSecrets,
    RevokeClientSecret,
)
from troth.wire.api.identities import MoveIdentity
from troth.wire.oauth.errors import name_error
from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import CLIENT_CREDENTIALS, JWT_BEARER
from troth.wire.oauth.request import OAuthRequest

CLIENT_ID = "spiffe://example.org/billing"
DAY = timedelta(days=1)
Test = Callable[[FakeHouse], Any]


def allowed(test: Test) -> Callable[[Path], None]:
    """Run a test where secrets are allowed."""
    return in_house(test, client_secrets=True)


def render_basic(secret: str, client_id: str = CLIENT_ID) -> str:
    return "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()


def ask(secret: str, client_id: str = CLIENT_ID, **fields: str) -> OAuthRequest:
    values = {"grant_type": CLIENT_CREDENTIALS, "resource": LEDGER, **fields}
    form = Form({n: (v,) for n, v in values.items()})
    return OAuthRequest(form, None, render_basic(secret, client_id), source="192.0.2.1:4711")


async def create(house: FakeHouse, name: str = "billing", **fields: int) -> ClientSecretCreated:
    made: ClientSecretCreated = await house.call(
        "client_secret.create", CreateClientSecret(identity=name, **fields), ADMIN
    )
    return made


async def listed(house: FakeHouse, **fields: Any) -> ClientSecretPage:
    page: ClientSecretPage = await house.call("client_secret.ls", ListClientSecrets(**fields))
    return page


async def revoke(house: FakeHouse, secret_id: str) -> Any:
    body = RevokeClientSecret(id=secret_id, reason="leaked")
    return await house.call("client_secret.revoke", body, ADMIN)


@allowed
async def test_a_secret_gets_a_token_that_is_bound_to_nothing(house: FakeHouse) -> None:
    await add_client(house)
    made = await create(house)
    assert re.fullmatch(r"troth-secret\.csec_[0-9a-f]+\.[A-Za-z0-9_-]{43}", made.secret)
    assert made.client_id == CLIENT_ID
    assert made.expires_at == house.clock.now() + 30 * DAY
    answer = await request_token(house, ask(made.secret))
    claims = await validate(house, answer.access_token)
    assert claims["sub"] == CLIENT_ID
    assert "cnf" not in claims
    (issued,) = await house.events("token.issued")
    assert issued.body["method"] == "client_secret_basic"


@allowed
async def test_the_end_of_the_secret_is_not_the_end_of_its_token(house: FakeHouse) -> None:
    await add_client(house)
    made = await create(house, ttl=60)
    assert (await request_token(house, ask(made.secret))).expires_in > 60
    house.clock.advance(timedelta(seconds=60))
    house.parts.snapshot.hear()
    assert (await refuse(house, ask(made.secret))).detail == UNKNOWN


@in_house
async def test_where_secrets_are_not_allowed_none_is_made_announced_or_taken(
    house: FakeHouse,
) -> None:
    await add_client(house)
    with pytest.raises(Refused, match="client_secrets = true"):
        await create(house)
    assert b"client_secret_basic" not in await house.parts.publication.show_metadata()
    refusal = await refuse(house, ask("troth-secret.csec_1." + "A" * 43))
    assert (name_error(refusal), refusal.detail) == ("invalid_client", UNKNOWN)


@allowed
async def test_once_they_are_forbidden_those_that_live_are_good_for_nothing(
    house: FakeHouse,
) -> None:
    await add_client(house)
    made = await create(house)
    parts = replace(house.parts, client_secrets=False)
    verifier = SecretVerifier(parts.store, house.clock, parts.trust_domain, allowed=False)
    from troth.wire.oauth.basic import Credentials

    holder = await verifier.verify(Credentials(CLIENT_ID, made.secret))
    assert not holder.proved
    assert (await listed(house)).items, "an operator must still see and end them"
    await revoke(house, made.id)


@allowed
async def test_discovery_names_the_method_where_it_is_allowed(house: FakeHouse) -> None:
    found = json.loads(await house.parts.publication.show_metadata())
    for endpoint in ("token", "introspection", "revocation"):
        assert "client_secret_basic" in found[f"{endpoint}_endpoint_auth_methods_supported"]


@allowed
async def test_an_identity_has_two_at_most_and_they_rotate(house: FakeHouse) -> None:
    await add_client(house)
    old, new = await create(house), await create(house)
    with pytest.raises(Refused, match="2 secrets already"):
        await create(house)
    for made in (old, new):
        await request_token(house, ask(made.secret))
    await revoke(house, old.id)
    assert (await refuse(house, ask(old.secret))).detail == UNKNOWN
    await request_token(house, ask(new.secret))
    await create(house)


@pytest.mark.parametrize("ttl", [59, 90 * 86_400 + 1, 0, -1])
def test_a_secret_always_ends(ttl: int) -> None:
    import msgspec

    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"identity": "billing", "ttl": ttl}, CreateClientSecret)


@allowed
async def test_it_never_outlives_the_registration(house: FakeHouse) -> None:
    await add_client(house, expires="5d")
    made = await create(house)
    assert made.expires_at <= house.clock.now() + 5 * DAY


@allowed
async def test_it_is_nowhere_to_be_found_afterwards(house: FakeHouse) -> None:
    await add_client(house)
    made = await create(house)
    core = made.secret.rpartition(".")[2]
    await request_token(house, ask(made.secret))
    await refuse(house, ask(made.secret[:-1] + ("A" if made.secret[-1] != "A" else "B")))
    await refuse(house, ask(CLIENT_ID, made.secret))  # the two the wrong way round
    await revoke(house, made.id)
    events = await house.events()
    assert core not in repr(events)
    assert core not in repr(await listed(house))
    stored = await house.parts.store.read(lambda tx: tx.client_secrets.get(made.id))
    assert core not in repr(stored)
    house.parts.store.close()
    for file in filter(Path.is_file, house.directory.rglob("*")):
        assert core.encode() not in file.read_bytes(), file


@allowed
async def test_its_life_is_told(house: FakeHouse) -> None:
    await add_client(house)
    made = await create(house)
    await revoke(house, made.id)
    view = await revoke(house, made.id)  # twice is once
    assert view.revoked_at == house.clock.now()
    created, revoked = await house.events("client_secret.")
    assert (created.type, created.subject) == ("client_secret.created", CLIENT_ID)
    assert created.body["id"] == revoked.body["id"] == made.id
    assert revoked.body["reason"] == "leaked"
    with pytest.raises(NotFound):
        await revoke(house, "csec_0")


def move(verb: str) -> Callable[[FakeHouse], Awaitable[None]]:
    async def run(house: FakeHouse) -> None:
        await house.call(f"identity.{verb}", MoveIdentity(name="billing", reason="x"), ADMIN)
        await house.settle()

    run.__name__ = verb
    return run


async def start_anew(house: FakeHouse) -> None:
    """Another identity of the same name and SPIFFE ID."""
    await move("retire")(house)
    await add_client(house)


async def restore(house: FakeHouse) -> None:
    now = house.clock.now()
    await house.parts.store.transact(lambda tx: settle_restored(tx, now, 0, now))


@pytest.mark.parametrize(
    "end", [move("suspend"), move("quarantine"), move("retire"), start_anew, restore]
)
def test_who_may_hold_no_token_gets_none(
    end: Callable[[FakeHouse], Awaitable[None]], tmp_path: Path
) -> None:
    @allowed
    async def test(house: FakeHouse) -> None:
        await add_client(house)
        made = await create(house)
        await request_token(house, ask(made.secret))
        await end(house)
        assert (await refuse(house, ask(made.secret))).detail == UNKNOWN

    test(tmp_path)


@allowed
async def test_who_may_hold_none_is_made_none(house: FakeHouse) -> None:
    await add_client(house)
    with pytest.raises(NotFound):
        await create(house, "nobody")
    await move("quarantine")(house)
    with pytest.raises(Refused, match="quarantined"):
        await create(house)


@allowed
async def test_every_wrong_try_has_one_answer(house: FakeHouse) -> None:
    await add_client(house)
    await add_client(house, "other", number=42)
    made = await create(house)
    tries = [
        ask(made.secret, "spiffe://example.org/other"),
        ask(made.secret, "spiffe://example.org/nobody"),
        ask(made.secret, "spiffe://elsewhere.org/billing"),
        ask(made.secret, "billing"),
        ask(made.secret + "A"),
        ask(made.secret.upper()),
        ask(made.id),
        ask("x"),
        ask("troth-secret.csec_0." + "A" * 43),
    ]
    for request in tries:
        refusal = await refuse(house, request)
        assert (name_error(refusal), refusal.detail) == ("invalid_client", UNKNOWN)


@allowed
async def test_a_known_client_takes_the_steps_of_an_unknown_one(house: FakeHouse) -> None:
    from tests.fakes.stores import CountingStore
    from troth.wire.oauth.basic import Credentials

    await add_client(house)
    made = await create(house)
    store = CountingStore(house.parts.store)
    verifier = SecretVerifier(store, house.clock, house.parts.trust_domain, allowed=True)
    for client_id, secret in (
        (CLIENT_ID, made.secret),
        (CLIENT_ID, "x"),
        ("spiffe://example.org/nobody", made.secret),
        ("nonsense", "x"),
    ):
        before = store.reads
        await verifier.verify(Credentials(client_id, secret))
        assert store.reads == before + 1


@allowed
async def test_one_way_to_prove_oneself_at_a_time(house: FakeHouse) -> None:
    client = await add_client(house)
    made = await create(house)
    basic = render_basic(made.secret)
    both = [
        replace(client.ask(), authorization=basic),
        ask(made.secret, client_secret=made.secret),
        client.ask(None, client_secret=made.secret),
        replace(ask(made.secret), certificate=b"der"),
        replace(ask(made.secret), authorization=None, certificate=b"der", form=Form({
            "grant_type": (CLIENT_CREDENTIALS,), "client_secret": (made.secret,),
        })),
    ]  # fmt: skip
    for request in both:
        refusal = await refuse(house, request)
        assert name_error(refusal) == "invalid_request"
        assert "one way" in refusal.detail
        assert made.secret not in refusal.detail
    refusal = await refuse(house, replace(ask(made.secret, client_secret="x"), authorization=None))
    assert name_error(refusal) == "invalid_client"
    assert "body" in refusal.detail
    refusal = await refuse(house, ask(made.secret, client_id="spiffe://example.org/other"))
    assert name_error(refusal) == "invalid_client"
    await request_token(house, ask(made.secret, client_id=CLIENT_ID))


@allowed
async def test_a_secret_beside_an_assertion_as_grant_must_be_of_the_same(house: FakeHouse) -> None:
    mine: FakeClient = await add_client(house)
    other: FakeClient = await add_client(house, "other", number=42)
    made = await create(house)

    def grant(client: FakeClient) -> OAuthRequest:
        return ask(made.secret, grant_type=JWT_BEARER, assertion=client.assert_identity())

    await request_token(house, grant(mine))
    assert name_error(await refuse(house, grant(other))) == "invalid_grant"
    wrong = replace(grant(mine), authorization=render_basic("x"))
    assert name_error(await refuse(house, wrong)) == "invalid_client"


@allowed
async def test_failed_tries_are_told_and_slowed_down(house: FakeHouse) -> None:
    await add_client(house)
    made = await create(house)
    for _ in range(BURST):
        await refuse(house, ask("x"))
    with pytest.raises(Limited):
        await house.call("token.request", ask(made.secret), ANONYMOUS)
    await house.call("token.request", replace(ask(made.secret), source="192.0.2.2:1"), ANONYMOUS)
    house.clock.advance(timedelta(minutes=1))
    house.parts.snapshot.hear()
    await request_token(house, ask(made.secret))
    refused = await house.events("token.refused")
    assert {(e.body["claimed"], e.body["reason"]) for e in refused} == {(CLIENT_ID, UNKNOWN)}


@allowed
async def test_malformed_tries_count_too(house: FakeHouse) -> None:
    await add_client(house)
    request = replace(ask("x"), authorization="Basic !")
    for _ in range(BURST):
        assert name_error(await refuse(house, request)) == "invalid_client"
    with pytest.raises(TrothError) as caught:
        await house.call("token.request", request, ANONYMOUS)
    assert caught.value.code == "rate_limited"


@allowed
async def test_what_lives_is_listed_with_what_to_use_instead(house: FakeHouse) -> None:
    await add_client(house)
    await add_client(house, "plain", number=42, client=None)
    first, second = await create(house), await create(house, "plain")
    page = await listed(house)
    found = {item.identity: item for item in page.items}
    assert found["billing"].instead.startswith("private_key_jwt")
    assert found["plain"].instead.startswith("spiffe_x509")
    assert found["billing"].owner == "team@example.org"
    assert found["billing"].expires_at == first.expires_at
    assert [item.id for item in (await listed(house, identity="plain")).items] == [second.id]
    one = await listed(house, limit=1)
    rest = await listed(house, limit=1, after=one.next)
    assert {one.items[0].id, rest.items[0].id} == {first.id, second.id}
    await revoke(house, second.id)
    await move("retire")(house)
    assert (await listed(house)).items == []


@allowed
async def test_what_has_expired_is_forgotten(house: FakeHouse) -> None:
    await add_client(house)
    made = await create(house, ttl=60)
    kept = await create(house)
    house.clock.advance(timedelta(seconds=60))
    parts = house.parts
    await PurgeRecords(parts.store, house.clock, parts.snapshot, "test")()
    gone, there = await parts.store.read(
        lambda tx: (tx.client_secrets.find(made.id), tx.client_secrets.find(kept.id))
    )
    assert gone is None
    assert there is not None
