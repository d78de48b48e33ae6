"""DPoP at the token endpoint: whose key, for which request, with which nonce, and once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.jwk import ECKey

from tests.fakes.clients import FakeClient, add_client, request_token
from tests.fakes.house import FakeHouse, in_house
from tests.fakes.issuer import make_private_key
from tests.unit.operations.test_token_request import refuse, validate
from troth.core.clock import VirtualClock
from troth.core.errors import Invalid
from troth.core.jose.dpop import read_proof
from troth.core.jose.jwk import encode_base64url
from troth.operations.dpop import DpopVerifier
from troth.wire.oauth.errors import UseDpopNonce, name_error
from troth.wire.oauth.request import OAuthRequest

URL = "https://localhost:8443/oauth/token"
KEY = make_private_key(99)


def prove(
    now: Any,
    key: ec.EllipticCurvePrivateKey = KEY,
    header: dict[str, Any] | None = None,
    **claims: Any,
) -> str:
    """A proof for a token request; None leaves a claim out."""
    jwk = ECKey.import_key(key).as_dict(private=False)
    values = {
        "jti": encode_base64url(json.dumps([str(now), str(claims)]).encode()[:40]),
        "htm": "POST",
        "htu": URL,
        "iat": int(now.timestamp()),
        **claims,
    }
    values = {name: value for name, value in values.items() if value is not None}
    protected = {"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk, **(header or {})}
    protected = {name: value for name, value in protected.items() if value is not None}
    return jws.serialize_compact(protected, json.dumps(values), ECKey.import_key(key))


async def learn_nonce(house: FakeHouse, client: FakeClient) -> str:
    refusal = await refuse(house, with_proof(client, prove(house.clock.now())))
    assert isinstance(refusal, UseDpopNonce)
    assert name_error(refusal) == "use_dpop_nonce"
    return refusal.nonce


def with_proof(client: FakeClient, proof: str, **fields: Any) -> OAuthRequest:
    return replace(client.ask(**fields), dpop=proof, url=URL)


@in_house
async def test_a_proof_with_our_nonce_binds_the_token(house: FakeHouse) -> None:
    client = await add_client(house)
    nonce = await learn_nonce(house, client)
    proof = prove(house.clock.now(), nonce=nonce)
    answer = await request_token(house, with_proof(client, proof))
    assert answer.token_type == "DPoP"
    claims = await validate(house, answer.access_token)
    assert claims["cnf"] == {"jkt": ECKey.import_key(KEY).thumbprint()}


@in_house
async def test_a_proof_is_taken_once_and_is_blamed_itself(house: FakeHouse) -> None:
    client = await add_client(house)
    nonce = await learn_nonce(house, client)
    proof = prove(house.clock.now(), nonce=nonce)
    request = with_proof(client, proof)
    await request_token(house, request)
    assert name_error(await refuse(house, with_proof(client, proof))) == "invalid_dpop_proof"
    other = prove(house.clock.now(), nonce=nonce, jti="another")
    again = replace(request, dpop=other)
    assert name_error(await refuse(house, again)) == "invalid_client"


@in_house
async def test_a_nonce_ends_and_a_foreign_one_is_none(house: FakeHouse) -> None:
    client = await add_client(house)
    nonce = await learn_nonce(house, client)
    house.clock.advance(timedelta(minutes=4))
    house.parts.snapshot.hear()
    await request_token(house, with_proof(client, prove(house.clock.now(), nonce=nonce)))
    house.clock.advance(timedelta(minutes=2))
    house.parts.snapshot.hear()
    for wrong in (nonce, "", "x" * 100, "1.2"):
        refusal = await refuse(
            house, with_proof(client, prove(house.clock.now(), nonce=wrong, jti=f"j{wrong[:9]}"))
        )
        assert isinstance(refusal, UseDpopNonce)


@in_house
async def test_two_servers_take_each_other_s_nonces(house: FakeHouse) -> None:
    parts = house.parts
    one, two = (DpopVerifier(parts.store, parts.clock, parts.entropy, [URL]) for _ in range(2))
    nonce = await one.make_nonce()
    assert await two.make_nonce() == nonce
    three = DpopVerifier(parts.store, parts.clock, parts.entropy, [URL])
    bound = await three.verify(prove(house.clock.now(), nonce=nonce), "POST", URL)
    assert bound.confirmation["jkt"]


WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"typ": "JWT"}, {}, "typ must be"),
    ({"jwk": None}, {}, "no jwk"),
    ({"jwk": {"kty": "oct", "k": "AA"}}, {}, "private or symmetric"),
    ({"jwk": ECKey.import_key(KEY).as_dict(private=True)}, {}, "private"),
    ({"jwk": ECKey.import_key(make_private_key(3)).as_dict(private=False)}, {}, "is wrong"),
    ({}, {"jti": None}, "needs a jti"),
    ({}, {"jti": "x" * 257}, "needs a jti"),
    ({}, {"htm": "GET"}, "htm"),
    ({}, {"htm": None}, "htm"),
    ({}, {"htu": "https://localhost:8443/oauth/introspect"}, "htu"),
    ({}, {"htu": "https://elsewhere:8443/oauth/token"}, "htu"),
    ({}, {"htu": "http://localhost:8443/oauth/token"}, "htu"),
    ({}, {"htu": None}, "htu"),
    ({}, {"htu": "https://[bad/oauth/token"}, "htu"),
    ({}, {"iat": None}, "no iat"),
    ({}, {"iat": 1}, "too far"),
    ({}, {"iat": 1 << 40}, "too far"),
    ({}, {"iat": True}, "no iat"),
    ({}, {"nonce": 5}, "nonce must be a text"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "claims", "sentence"), WRONG)
def test_a_proof_for_something_else_is_refused(
    header: dict[str, Any], claims: dict[str, Any], sentence: str
) -> None:
    now = VirtualClock().now()
    with pytest.raises(Invalid, match=sentence):
        read_proof(prove(now, header=header, **claims), "POST", URL, now)


@pytest.mark.parametrize(
    "url",
    [
        "https://localhost:8443/oauth/token?x=1#y",
        "HTTPS://LOCALHOST:8443/oauth/token",
    ],
)
def test_the_same_url_written_otherwise_is_the_same(url: str) -> None:
    now = VirtualClock().now()
    assert read_proof(prove(now, htu=url), "POST", URL, now).jti


def test_a_default_port_and_an_empty_path_are_the_same_too() -> None:
    now = VirtualClock().now()
    proof = prove(now, htu="https://api.example")
    assert read_proof(proof, "POST", "https://api.example:443/", now).jti


def test_a_proof_for_a_token_is_for_that_token() -> None:
    now = VirtualClock().now()
    ath = encode_base64url(hashlib.sha256(b"the.token.itself").digest())
    proof = prove(now, ath=ath)
    assert read_proof(proof, "POST", URL, now, "the.token.itself").jti
    for text, made in (("another.token.x", proof), ("the.token.itself", prove(now))):
        with pytest.raises(Invalid, match="ath"):
            read_proof(made, "POST", URL, now, text)
