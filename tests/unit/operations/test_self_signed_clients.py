"""Clients that show a self-signed certificate which is registered (RFC 8705, section 2.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.certificates import Made, make_certificate
from tests.fakes.clients import add_client, request_token
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.unit.operations.test_svid_clients import ask
from tests.unit.operations.test_token_request import refuse, validate
from troth.core.jose.jwk import encode_base64url
from troth.operations.anchor import RefreshAnchors
from troth.operations.client import UNKNOWN
from troth.wire.api.identities import MoveIdentity
from troth.wire.oauth.errors import name_error

CLIENT_ID = "spiffe://example.org/billing"


async def add(house: FakeHouse, *made: Made, name: str = "billing", **spec: Any) -> None:
    await add_client(house, name, client={"certificates": [one.pem for one in made]}, **spec)


def make(house: FakeHouse, common: str = "billing", **options: Any) -> Made:
    return make_certificate(common, now=house.clock.now(), **options)


@in_house
async def test_the_very_certificate_is_proof_and_binds_the_token(house: FakeHouse) -> None:
    old, new = make(house), make(house)
    await add(house, old, new)
    for made in (old, new):
        answer = await request_token(house, ask(made.der, client_id=CLIENT_ID))
        claims = await validate(house, answer.access_token)
        thumbprint = encode_base64url(hashlib.sha256(made.der).digest())
        assert claims["cnf"] == {"x5t#S256": thumbprint}
        assert claims["sub"] == CLIENT_ID
    issued = await house.events("token.issued")
    assert {event.body["method"] for event in issued} == {"self_signed_tls_client_auth"}


@in_house
async def test_a_token_never_outlives_the_certificate(house: FakeHouse) -> None:
    made = make(house, life=timedelta(seconds=90))
    await add(house, made)
    assert (await request_token(house, ask(made.der, client_id=CLIENT_ID))).expires_in == 90
    house.clock.advance(timedelta(seconds=90))
    house.parts.snapshot.hear()
    assert (await refuse(house, ask(made.der, client_id=CLIENT_ID))).detail == UNKNOWN


@in_house
async def test_one_that_holds_only_later_is_no_proof_yet(house: FakeHouse) -> None:
    made = make(house, age=timedelta(minutes=-5))
    await add(house, made)
    assert (await refuse(house, ask(made.der, client_id=CLIENT_ID))).detail == UNKNOWN


Other = Callable[[FakeHouse, Made], bytes]


def make_twin(house: FakeHouse, made: Made) -> bytes:
    """The same key and name, another certificate."""
    return make(house, key=made.key).der


def make_stranger(house: FakeHouse, made: Made) -> bytes:
    return make(house).der


def make_named(house: FakeHouse, made: Made) -> bytes:
    return make(house, names=[CLIENT_ID]).der


def make_self_issued_leaf(house: FakeHouse, made: Made) -> bytes:
    """Names the registered one as its issuer, and itself alike."""
    return make(house, issuer=made).der


@pytest.mark.parametrize("other", [make_twin, make_stranger, make_named, make_self_issued_leaf])
def test_another_certificate_is_no_proof(other: Other, tmp_path: Any) -> None:
    @in_house
    async def test(house: FakeHouse) -> None:
        made = make(house)
        await add(house, made)
        refusal = await refuse(house, ask(other(house, made), client_id=CLIENT_ID))
        assert name_error(refusal) == "invalid_client"
        assert refusal.detail == UNKNOWN

    test(tmp_path)


@in_house
async def test_a_leaf_of_a_registered_ca_is_no_registered_certificate(house: FakeHouse) -> None:
    ca = make(house, "our own CA", ca=True)
    await add(house, ca)
    await request_token(house, ask(ca.der, client_id=CLIENT_ID))
    for names in ([], [CLIENT_ID], ["spiffe://example.org/other"]):
        leaf = make(house, "x", issuer=ca, names=names)
        refusal = await refuse(house, ask(leaf.der, client_id=CLIENT_ID))
        assert name_error(refusal) == "invalid_client"


@in_house
async def test_a_certificate_is_proof_for_whoever_registered_it_alone(house: FakeHouse) -> None:
    made = make(house)
    await add(house, made)
    await add_client(house, "other", number=42)
    for client_id in (
        "spiffe://example.org/other",
        "spiffe://example.org/nobody",
        "spiffe://elsewhere.org/billing",
        "billing",
    ):
        assert (await refuse(house, ask(made.der, client_id=client_id))).detail == UNKNOWN
    refusal = await refuse(house, ask(made.der))
    assert name_error(refusal) == "invalid_request"
    assert "client_id" in refusal.detail


async def deregister(house: FakeHouse) -> None:
    await add_client(house)


def move(verb: str) -> Callable[[FakeHouse], Awaitable[None]]:
    async def run(house: FakeHouse) -> None:
        await house.call(f"identity.{verb}", MoveIdentity(name="billing", reason="x"), ADMIN)
        await house.settle()

    run.__name__ = verb
    return run


@pytest.mark.parametrize("end", [deregister, move("suspend"), move("quarantine"), move("retire")])
def test_who_may_hold_no_token_gets_none(
    end: Callable[[FakeHouse], Awaitable[None]], tmp_path: Any
) -> None:
    @in_house
    async def test(house: FakeHouse) -> None:
        made = make(house)
        await add(house, made)
        await request_token(house, ask(made.der, client_id=CLIENT_ID))
        await end(house)
        assert (await refuse(house, ask(made.der, client_id=CLIENT_ID))).detail == UNKNOWN

    test(tmp_path)


@in_house
async def test_the_listener_is_told_when_the_registered_ones_change(house: FakeHouse) -> None:
    told: list[frozenset[bytes]] = []

    async def install(certificates: frozenset[bytes]) -> None:
        told.append(certificates)

    refresh = RefreshAnchors(house.parts.store, house.clock, install)
    await refresh()
    assert told == []
    old, new = make(house, life=timedelta(days=5)), make(house)
    await add(house, old, new)
    await add(house, new, name="twin", number=42)
    await refresh()
    assert told == [{old.der, new.der}]
    await refresh()
    assert len(told) == 1
    house.clock.advance(timedelta(days=6))
    await refresh()
    assert told[-1] == {new.der}
    for name in ("billing", "twin"):
        await house.call("identity.retire", MoveIdentity(name=name, reason="x"), ADMIN)
        await refresh()
    assert told[-1] == frozenset()
    assert len(told) == 3


@in_house
async def test_what_the_listener_refused_is_told_again(house: FakeHouse) -> None:
    tries = []

    async def install(certificates: frozenset[bytes]) -> None:
        tries.append(certificates)
        if len(tries) == 1:
            raise OSError("no memory file")

    await add(house, make(house))
    refresh = RefreshAnchors(house.parts.store, house.clock, install)
    with pytest.raises(OSError, match="no memory"):
        await refresh()
    await refresh()
    await refresh()
    assert len(tries) == 2


@in_house
async def test_discovery_names_the_method(house: FakeHouse) -> None:
    text = await house.parts.publication.show_metadata()
    assert b'"self_signed_tls_client_auth"' in text
    assert b'"client_secret_basic"' not in text
