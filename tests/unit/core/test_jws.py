"""Signed tokens: taken apart, and verified with the algorithms that we name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tests.fakes.issuer import FakeIssuer
from troth.core.errors import Invalid, TooLarge, TrothError
from troth.core.jose.jwk import encode_base64url, load_jwk
from troth.core.jose.jws import ALGORITHMS, fits_algorithm, parse_token, verify_token

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")

RSA = RSAKey.import_key(rsa.generate_private_key(65537, 2048))
ED25519 = OKPKey.import_key(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))
KEYS: dict[str, Any] = {
    "ES256": ECKey.import_key(ec.derive_private_key(7, ec.SECP256R1())),
    "ES384": ECKey.import_key(ec.derive_private_key(7, ec.SECP384R1())),
    "ES512": ECKey.import_key(ec.derive_private_key(7, ec.SECP521R1())),
    **dict.fromkeys(("EdDSA", "Ed25519"), ED25519),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
}

RFC_7515_A_3 = (
    "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvb"
    "S9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKT"
    "UJqPP3-Kg6NU1Q"
)
RFC_7515_A_3_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
RFC_8037_A_1_KEY = {
    "kty": "OKP",
    "crv": "Ed25519",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}


def sign(algorithm: str, claims: dict[str, Any], header: dict[str, Any] | None = None) -> str:
    protected = {"alg": algorithm, **(header or {})}
    return jws.serialize_compact(
        protected, json.dumps(claims), KEYS[algorithm], algorithms=[algorithm]
    )


def test_the_token_of_rfc_7515_appendix_a_3() -> None:
    token = parse_token(RFC_7515_A_3)
    verify_token(token, load_jwk(RFC_7515_A_3_KEY), ["ES256"])
    assert token.claims["http://example.com/is_root"] is True


def test_the_signature_of_rfc_8037_appendix_a_4() -> None:
    from troth.core.jose.jws import verify_signature

    content = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
    signature = bytes.fromhex(
        "860c98d2297f3060a33f42739672d61b53cf3adefed3d3c672f320dc021b411e"
        "9d59b8628dc351e248b88b29468e0e41855b0fb7d83bb15be902bfccb8cd0a02"
    )
    verify_signature("EdDSA", load_jwk(RFC_8037_A_1_KEY), content, signature)
    with pytest.raises(Invalid, match="signature is wrong"):
        verify_signature("EdDSA", load_jwk(RFC_8037_A_1_KEY), content + b"x", signature)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_another_library_signs_is_verified(algorithm: str) -> None:
    key = load_jwk(KEYS[algorithm].as_dict(private=False))
    token = parse_token(sign(algorithm, {"sub": "a"}))
    verify_token(token, key, [algorithm])
    assert fits_algorithm(algorithm, key)
    other = parse_token(sign(algorithm, {"sub": "b"}))
    crossed = type(token)(token.header, token.claims, token.signing_input, other.signature)
    with pytest.raises(Invalid, match="signature is wrong"):
        verify_token(crossed, key, [algorithm])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_serves_its_own_kind_of_algorithm_alone(algorithm: str) -> None:
    token = parse_token(sign(algorithm, {}))
    for name, other in KEYS.items():
        key = load_jwk(other.as_dict(private=False))
        if fits_algorithm(algorithm, key):
            assert name == algorithm or name[0] in "RP" or name.startswith("Ed")
            continue
        with pytest.raises(Invalid, match="not of the kind"):
            verify_token(token, key, [algorithm])


def test_the_token_never_chooses_the_algorithm() -> None:
    key = load_jwk(KEYS["ES256"].as_dict(private=False))
    for header in ({"alg": "none"}, {"alg": "HS256"}, {"alg": ["ES256"]}, {"alg": None}, {}):
        head = encode_base64url(json.dumps(header).encode())
        token = parse_token(f"{head}.e30.AA")
        with pytest.raises(Invalid, match="alg must be one of ES256"):
            verify_token(token, key, ["ES256"])
    with pytest.raises(Invalid, match="alg must be one of EdDSA"):
        verify_token(parse_token(sign("ES256", {})), key, ["EdDSA"])


@pytest.mark.parametrize("size", [0, 63, 65, 72])
def test_a_signature_of_another_length_is_wrong(size: int) -> None:
    key = load_jwk(KEYS["ES256"].as_dict(private=False))
    head = encode_base64url(b'{"alg":"ES256"}')
    text = f"{head}.e30.{encode_base64url(bytes(size)) or 'AA'}"
    with pytest.raises(Invalid, match="signature is wrong"):
        verify_token(parse_token(text), key, ["ES256"])


@pytest.mark.parametrize(
    ("header", "claims", "sentence"),
    [
        ('{"alg":"ES256","crit":["exp"]}', "{}", "crit"),
        ('{"alg":"ES256","crit":[]}', "{}", "crit"),
        ('{"alg":"ES256","b64":false}', "{}", "b64"),
        ('{"alg":"ES256","alg":"none"}', "{}", "each name once"),
        ('{"alg":"ES256"}', '{"sub":"a","sub":"b"}', "each name once"),
        ('{"alg":"ES256"}', '{"exp":NaN}', "must be JSON"),
        ('{"alg":"ES256"}', "[]", "JSON objects"),
        ('{"alg":"ES256"}', '{"a":' + "[" * 17 + "]" * 17 + "}", "levels deep"),
    ],
)
def test_what_verifiers_would_read_differently_is_refused(
    header: str, claims: str, sentence: str
) -> None:
    head, body = (encode_base64url(part.encode()) for part in (header, claims))
    with pytest.raises(Invalid, match=sentence):
        parse_token(f"{head}.{body}.AAAA")


def test_brackets_in_texts_are_no_depth() -> None:
    claims = json.dumps({"a": "[{" * 40, "b": '\\"[[[[[[[[[[[[[[[[[[[['})
    head = encode_base64url(b'{"alg":"ES256"}')
    token = parse_token(f"{head}.{encode_base64url(claims.encode())}.AAAA")
    assert token.claims["a"] == "[{" * 40


def test_an_unverified_token_shows_what_it_claims() -> None:
    token = parse_token(FakeIssuer().issue_jwt())
    assert token.header["alg"] == "ES256"
    assert token.claims["sub"] == "spiffe://example.org/payments"


@pytest.mark.parametrize(
    "token",
    ["", "a", "a.b", "a.b.c.d", "!.!.!", "W10.W10.", f"{encode_base64url(b'[' * 9000)}.e30.e30"],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Invalid):
        parse_token(token)


def test_a_token_above_16_kib_is_refused() -> None:
    with pytest.raises(TooLarge):
        parse_token("a" * (16 * 1024 + 1))


@given(st.text(alphabet="abcXYZ019-_.{}", max_size=60))
def test_random_text_gets_a_clean_answer(text: str) -> None:
    try:
        shown = parse_token(text)
    except TrothError:
        return
    json.dumps([dict(shown.header), dict(shown.claims)])
