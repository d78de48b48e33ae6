"""Access tokens in the algorithm that their resource wants, with a key of its own each."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.fakes.clients import (
    LEDGER,
    ORIGIN,
    FakeClient,
    add_client,
    apply,
    render_manifest,
    request_token,
)
from tests.fakes.house import LEASE, FakeHouse, in_house
from troth.core.errors import Internal, Invalid, Unavailable
from troth.core.jose.jwk import load_jwk
from troth.core.jose.jws import parse_token
from troth.issuance.accesstoken import validate_access_token
from troth.issuance.authorities import AuthorityState, Use
from troth.live.recent import About
from troth.live.snapshot import Snapshot
from troth.operations.bearer import Bearer, Rejected
from troth.operations.feed import read_seed
from troth.wire.api.authorities import ForceAuthority, MoveAuthority, PrepareAuthority

URI = "https://other.example.org"
USES = {"EdDSA": Use.TOKEN_EDDSA, "RS256": Use.TOKEN_RS256}


async def add_resource(house: FakeHouse, algorithm: str) -> FakeClient:
    """A client of a resource that wants `algorithm`."""
    client = await add_client(house, roles=["clerk", "other"])
    await apply(
        house,
        render_manifest(
            "Resource",
            "other",
            identifiers=[URI],
            actions={"read": "See it"},
            token={"algorithm": algorithm},
        ),
        render_manifest("Role", "other", permissions=[{"resource": "other", "actions": ["read"]}]),
    )
    return client


async def read_keys(house: FakeHouse) -> dict[str, dict[str, Any]]:
    document = msgspec.json.decode(await house.parts.publication.show_token_keys())
    return {jwk["kid"]: jwk for jwk in document["keys"]}


async def validate(house: FakeHouse, text: str, algorithm: str | None = None) -> Any:
    keys = await read_keys(house)
    return validate_access_token(
        text,
        issuer_url=ORIGIN,
        audiences=[URI],
        keys={kid: (load_jwk(jwk), algorithm or jwk["alg"]) for kid, jwk in keys.items()},
        now=house.clock.now(),
    )


def find_judge(house: FakeHouse) -> Any:
    journaled: Any = house.dispatcher.operations["token.introspect"]
    return journaled.operation.judge


@in_house
async def test_a_server_makes_the_keys_alone_that_somebody_wants(house: FakeHouse) -> None:
    assert [jwk["alg"] for jwk in (await read_keys(house)).values()] == ["ES256"]
    await house.prepare()
    assert len(await read_keys(house)) == 1
    assert len(house.keystore.list_keys()) == 3 + 2  # and the log's


@pytest.mark.parametrize("algorithm", USES)
def test_a_resource_gets_tokens_in_its_algorithm(algorithm: str, tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        client = await add_resource(house, algorithm)
        with pytest.raises(Unavailable, match=f"with {algorithm} yet"):
            await request_token(house, client.ask(resource=URI))
        await house.prepare()
        await house.settle()
        published = [jwk["alg"] for jwk in (await read_keys(house)).values()]
        assert sorted(published) == sorted(["ES256", algorithm])
        text = (await request_token(house, client.ask(resource=URI))).access_token
        header = parse_token(text).header
        assert header["alg"] == algorithm
        assert (await read_keys(house))[header["kid"]]["alg"] == algorithm
        assert (await validate(house, text))["aud"] == URI
        ledger = (await request_token(house, client.ask(resource=LEDGER))).access_token
        assert parse_token(ledger).header["alg"] == "ES256"

    in_house(run)(tmp_path)


@pytest.mark.parametrize("algorithm", USES)
def test_a_key_signs_in_its_own_algorithm_alone(algorithm: str, tmp_path: Any) -> None:
    """Confusion: the verifier expects another algorithm of the very key, or a kid is borrowed."""

    async def run(house: FakeHouse) -> None:
        client = await add_resource(house, algorithm)
        await house.prepare()
        await house.settle()
        text = (await request_token(house, client.ask(resource=URI))).access_token
        for other in ("ES256", "EdDSA", "RS256", "PS256"):
            if other != algorithm:
                with pytest.raises(Invalid):
                    await validate(house, text, other)

    in_house(run)(tmp_path)


@pytest.mark.parametrize("algorithm", USES)
def test_what_doesnt_verify_is_not_given_out(algorithm: str, tmp_path: Any) -> None:
    async def run(house: FakeHouse) -> None:
        client = await add_resource(house, algorithm)
        await house.prepare()
        await house.settle()
        keystore = house.keystore
        sign_all = keystore.sign_all

        def break_all(key_ref: str, batch: Any) -> list[bytes]:
            return [bytes([one[0] ^ 1]) + one[1:] for one in sign_all(key_ref, batch)]

        keystore.sign_all = break_all  # type: ignore[method-assign]
        with pytest.raises(Internal):
            await request_token(house, client.ask(resource=URI))

    in_house(run)(tmp_path)


@in_house
async def test_a_key_that_no_resource_wants_any_more_is_kept_on(house: FakeHouse) -> None:
    await add_resource(house, "EdDSA")
    await house.prepare()
    await house.settle()
    await add_resource(house, "ES256")
    await house.prepare()
    await house.settle()
    kept = await house.parts.store.read(lambda tx: tx.authorities.list(Use.TOKEN_EDDSA))
    assert [one.state for one in kept] == [AuthorityState.ACTIVE]


@pytest.mark.parametrize("algorithm", USES)
def test_a_tainted_authority_s_tokens_end_at_once(algorithm: str, tmp_path: Any) -> None:
    """At introspection, at whoever follows revocations, and at a server that starts after it."""

    async def run(house: FakeHouse) -> None:
        client = await add_resource(house, algorithm)
        await house.prepare()
        await house.settle()
        text = (await request_token(house, client.ask(resource=URI))).access_token
        ledger = (await request_token(house, client.ask())).access_token
        (old,) = await house.parts.store.read(lambda tx: tx.authorities.list(USES[algorithm]))
        body = PrepareAuthority(use=USES[algorithm].value, reason="a test")
        made = await house.call("authority.prepare", body)
        await house.call("authority.activate", ForceAuthority(id=made.id, reason="t", force=True))
        await house.settle()
        judge = find_judge(house)
        assert isinstance(await judge.judge(text, await judge.read_bundle()), Bearer)
        epoch = house.parts.snapshot.epoch
        await house.call("authority.taint", MoveAuthority(id=old.id, reason="was copied"))
        await house.settle()
        found = await judge.judge(text, await judge.read_bundle())
        assert isinstance(found, Rejected)
        assert "trusted no more" in found.reason
        assert isinstance(await judge.judge(ledger, await judge.read_bundle()), Bearer)
        kid = parse_token(text).header["kid"]
        change = (house.parts.snapshot.recent.since(epoch) or [])[-1]
        assert (change.about, change.key) == (About.AUTHORITY, kid)
        anew = Snapshot(house.clock, LEASE)
        anew.load(await read_seed(house.parts.store, house.clock.now()))
        for snapshot in (house.parts.snapshot, anew):
            assert list(snapshot.list_refused().distrusted) == [kid]

    in_house(run)(tmp_path)
