"""JSON Web Keys and the look into an unverified token."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, RSAKey

from tests.fakes.issuer import FakeIssuer, encode_spki, make_private_key
from troth.core.errors import Invalid, TooLarge, TrothError
from troth.wire.jwt import (
    decode_base64url,
    encode_base64url,
    parse_key,
    parse_unverified,
    render_jwk,
    render_key,
)

RSA = rsa.generate_private_key(65537, 2048)
KEYS = {
    "P-256": make_private_key(),
    "P-384": ec.derive_private_key(7, ec.SECP384R1()),
    "P-521": ec.derive_private_key(7, ec.SECP521R1()),
    "RSA": RSA,
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_reads_back_as_itself(kind: str) -> None:
    public_key = encode_spki(KEYS[kind])
    assert parse_key(render_key(public_key)) == public_key


@pytest.mark.parametrize("kind", KEYS)
def test_another_library_reads_the_same_key(kind: str) -> None:
    jwk: dict[str, Any] = dict(render_key(encode_spki(KEYS[kind])))
    theirs = RSAKey.import_key(jwk) if kind == "RSA" else ECKey.import_key(jwk)
    assert load_der_public_key(encode_spki(KEYS[kind])) == theirs.public_key


@given(st.integers(1, 2**128))
def test_coordinates_keep_their_leading_zeros(number: int) -> None:
    jwk = render_key(encode_spki(make_private_key(number)))
    assert len(jwk["x"]) == len(jwk["y"]) == 43


def test_the_key_of_rfc_7515_appendix_a_3() -> None:
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
    assert render_key(parse_key(jwk)) == jwk


def test_a_jwk_has_use_kid_and_if_asked_alg() -> None:
    public_key = encode_spki(make_private_key())
    plain = render_jwk("k1", public_key, "jwt-svid")
    assert plain == render_key(public_key) | {"use": "jwt-svid", "kid": "k1"}
    assert render_jwk("k1", public_key, "sig", "ES256") == plain | {"use": "sig", "alg": "ES256"}


NO_JWK = {
    "empty": b"",
    "garbage": b"garbage",
    "Ed25519": encode_spki(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))),
    "secp256k1": encode_spki(ec.derive_private_key(7, ec.SECP256K1())),
}


@pytest.mark.parametrize("public_key", NO_JWK.values(), ids=NO_JWK)
def test_another_kind_of_key_is_refused(public_key: bytes) -> None:
    with pytest.raises(Invalid, match="public key"):
        render_key(public_key)


GOOD = render_key(encode_spki(make_private_key()))
GOOD_RSA = render_key(encode_spki(RSA))
WEAK = encode_base64url(b"\xff" * 128)


@pytest.mark.parametrize(
    ("jwk", "sentence"),
    [
        ({}, "kty must be EC or RSA"),
        ({"kty": "oct", "k": "AA"}, "kty must be EC or RSA"),
        (GOOD | {"crv": "secp256k1"}, "crv must be"),
        (GOOD | {"crv": "P-384"}, "48 bytes"),
        (GOOD | {"x": ""}, "x is missing"),
        (GOOD | {"x": 5}, "x is missing"),
        (GOOD | {"x": GOOD["x"] + "="}, "base64url"),
        (GOOD | {"x": "AA"}, "32 bytes"),
        (GOOD | {"x": encode_base64url(bytes(33))}, "32 bytes"),
        (GOOD | {"y": GOOD["x"]}, "make no key"),
        ({"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}, "make no key"),
        ({"kty": "RSA", "e": "AQAB"}, "n is missing"),
        ({"kty": "RSA", "e": "AQAB", "n": WEAK}, "2048 to 8192 bits"),
        (GOOD_RSA | {"n": encode_base64url(b"\xff" * 1025)}, "2048 to 8192 bits"),
        (GOOD_RSA | {"e": encode_base64url(b"\xff" * 5)}, "32 bits"),
        (GOOD_RSA | {"e": "AA"}, "make no key"),
        (GOOD_RSA | {"e": "Ag"}, "make no key"),
    ],
)
def test_a_malformed_jwk_is_refused(jwk: dict, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        parse_key(jwk)


@given(st.binary(max_size=100))
def test_base64url_reads_back(raw: bytes) -> None:
    assert decode_base64url(encode_base64url(raw)) == raw


@given(st.text(max_size=20))
def test_each_value_has_one_base64url_form(text: str) -> None:
    try:
        raw = decode_base64url(text)
    except Invalid:
        return
    assert encode_base64url(raw) == text


def test_an_unverified_token_shows_what_it_claims() -> None:
    token = parse_unverified(FakeIssuer().issue_jwt())
    assert token.header["alg"] == "ES256"
    assert token.claims["sub"] == "spiffe://example.org/payments"


@pytest.mark.parametrize(
    "token",
    ["", "a", "a.b", "a.b.c.d", "!.!.!", "W10.W10.", f"{encode_base64url(b'[' * 9000)}.e30.e30"],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Invalid):
        parse_unverified(token)


def test_a_token_above_16_kib_is_refused() -> None:
    with pytest.raises(TooLarge):
        parse_unverified("a" * (16 * 1024 + 1))


@given(st.text(alphabet="abcXYZ019-_.{}", max_size=60))
def test_random_text_gets_a_clean_answer(text: str) -> None:
    try:
        shown = parse_unverified(text)
    except TrothError:
        return
    json.dumps([dict(shown.header), dict(shown.claims)])
