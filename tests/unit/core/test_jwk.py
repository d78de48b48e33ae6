"""JSON Web Keys."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tests.fakes.issuer import encode_spki, make_private_key
from troth.core.errors import Invalid
from troth.core.jose.jwk import (
    decode_base64url,
    derive_key_id,
    encode_base64url,
    parse_key,
    render_jwk,
    render_key,
    thumbprint_jwk,
)

RSA = rsa.generate_private_key(65537, 2048)
KEYS = {
    "P-256": make_private_key(),
    "P-384": ec.derive_private_key(7, ec.SECP384R1()),
    "P-521": ec.derive_private_key(7, ec.SECP521R1()),
    "RSA": RSA,
    "Ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)),
}


def import_theirs(jwk: dict[str, Any]) -> Any:
    kinds: dict[str, Any] = {"EC": ECKey, "OKP": OKPKey, "RSA": RSAKey}
    return kinds[jwk["kty"]].import_key(jwk)


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_reads_back_as_itself(kind: str) -> None:
    public_key = encode_spki(KEYS[kind])
    assert parse_key(render_key(public_key)) == public_key


@pytest.mark.parametrize("kind", KEYS)
def test_another_library_reads_the_same_key(kind: str) -> None:
    jwk: dict[str, Any] = dict(render_key(encode_spki(KEYS[kind])))
    theirs = import_theirs(jwk)
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
    "Ed448": encode_spki(ed448.Ed448PrivateKey.from_private_bytes(bytes(57))),
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
        ({}, "kty must be EC, OKP or RSA"),
        ({"kty": "oct", "k": "AA"}, "private or symmetric"),
        ({"kty": "oct"}, "kty must be EC, OKP or RSA"),
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


def test_the_thumbprint_of_rfc_7638_section_3_1() -> None:
    jwk = {
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tS"
        "oc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0"
        "_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4"
        "vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    }
    assert thumbprint_jwk(jwk) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_id_is_the_thumbprint_that_another_library_computes(kind: str) -> None:
    public_key = encode_spki(KEYS[kind])
    jwk: dict[str, Any] = dict(render_key(public_key))
    theirs = import_theirs(jwk)
    assert derive_key_id(public_key) == theirs.thumbprint()


def test_a_private_key_is_refused_wherever_a_public_one_is_wanted() -> None:
    secret = ECKey.import_key(make_private_key()).as_dict(private=True)
    with pytest.raises(Invalid, match="private"):
        parse_key(secret)
