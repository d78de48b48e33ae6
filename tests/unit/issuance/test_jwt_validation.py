"""Validating JWT-SVIDs: every way a token can be unsound is refused with a sentence."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from tests.fakes.issuer import NOW, FakeIssuer
from troth.core.errors import Invalid, TooLarge, TrothError
from troth.core.jose.jwk import derive_key_id, render_jwk
from troth.issuance.jwtsvid import (
    ALGORITHMS,
    LEEWAY,
    finish_jwt,
    validate_jwt_svid,
)

ISSUER = FakeIssuer()
KID = derive_key_id(ISSUER.jwt.public_key)
JWKS = {"example.org": [render_jwk(KID, ISSUER.jwt.public_key, "jwt-svid")]}
TOKEN = ISSUER.issue_jwt()
HEADER = {"alg": "ES256", "kid": KID, "typ": "JWT"}
START = int(NOW.timestamp())
CLAIMS = {"sub": "spiffe://example.org/payments", "aud": ["ledger"], "exp": START + 60}


def _validate(token: str = TOKEN, audience: str = "ledger", jwks=JWKS, now=NOW) -> dict[str, Any]:
    return validate_jwt_svid(token, audience, jwks, now)


def _encode(value: object) -> bytes:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=")


def _sign(header: object = HEADER, claims: object = CLAIMS) -> str:
    """A token that is really signed by the authority, whatever it says."""
    signing_input = _encode(header) + b"." + _encode(claims)
    return finish_jwt(signing_input, ISSUER.keystore.sign("jwt", signing_input))


def _without(values: dict, name: str) -> dict:
    return {key: value for key, value in values.items() if key != name}


def test_a_sound_token_gives_its_claims() -> None:
    claims = _validate()
    assert claims["sub"] == "spiffe://example.org/payments"
    assert claims["aud"] == ["ledger"]


@pytest.mark.parametrize("typ", ["JWT", "JOSE", None])
def test_typ_may_be_jwt_jose_or_absent(typ: str | None) -> None:
    header = HEADER | {"typ": typ} if typ else _without(HEADER, "typ")
    assert _validate(_sign(header))


def test_one_audience_may_be_a_string_and_one_of_several_is_enough() -> None:
    assert _validate(_sign(claims=CLAIMS | {"aud": "ledger"}))
    assert _validate(_sign(claims=CLAIMS | {"aud": ["audit", "ledger"]}))


@pytest.mark.parametrize(
    ("claims", "sentence"),
    [
        (_without(CLAIMS, "sub"), "no sub"),
        (CLAIMS | {"sub": 5}, "no sub"),
        (CLAIMS | {"sub": "payments"}, "not a SPIFFE ID"),
        (CLAIMS | {"sub": "spiffe://example.org"}, "names a trust domain"),
        (CLAIMS | {"sub": "spiffe://example.org/a/../b"}, "relative segment"),
        (CLAIMS | {"sub": "spiffe://other.example/payments"}, "No bundle .* 'other.example'"),
        (_without(CLAIMS, "aud"), "no aud"),
        (CLAIMS | {"aud": []}, "no aud"),
        (CLAIMS | {"aud": ""}, "another audience"),
        (CLAIMS | {"aud": {"ledger": 1}}, "no aud"),
        (CLAIMS | {"aud": ["ledger", 5]}, "string or a list of strings"),
        (CLAIMS | {"aud": ["audit"]}, "another audience"),
        (CLAIMS | {"aud": "ledgers"}, "another audience"),
        (_without(CLAIMS, "exp"), "no exp"),
        (CLAIMS | {"exp": None}, "exp must be a number"),
        (CLAIMS | {"exp": str(START + 60)}, "exp must be a number"),
        (CLAIMS | {"exp": True}, "exp must be a number"),
        (CLAIMS | {"exp": START - 10}, "has expired"),
        (CLAIMS | {"nbf": START + 60}, "nbf lies in the future"),
        (CLAIMS | {"iat": START + 60}, "iat lies in the future"),
        (CLAIMS | {"iat": "yesterday"}, "iat must be a number"),
        (b'{"sub":"spiffe://example.org/a","aud":"ledger","exp":1e999}', "exp must be a number"),
        (b'{"sub":"spiffe://example.org/a","aud":"ledger","exp":NaN}', "must be JSON"),
        (b'{"exp":1,"exp":99999999999}', "each name once"),
        (b"[" * 5000, "levels deep"),
        (b"\xff\xfe", "must be JSON"),
        (b"[]", "JSON objects"),
        (b'"text"', "JSON objects"),
    ],
)
def test_unsound_claims_are_refused_even_when_signed(claims, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        _validate(_sign(claims=claims))


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (HEADER | {"alg": "none"}, "alg must be one of"),
        (HEADER | {"alg": "HS256"}, "alg must be one of"),
        (HEADER | {"alg": "EdDSA"}, "alg must be one of"),
        (HEADER | {"alg": "ES256K"}, "alg must be one of"),
        (HEADER | {"alg": ["ES256"]}, "alg must be one of"),
        (_without(HEADER, "alg"), "alg must be one of"),
        (HEADER | {"alg": "ES384"}, "not of the kind"),
        (HEADER | {"alg": "RS256"}, "not of the kind"),
        (HEADER | {"typ": "at+jwt"}, "typ must be JWT or JOSE"),
        (HEADER | {"typ": "jwt"}, "typ must be JWT or JOSE"),
        (HEADER | {"typ": None}, "typ must be JWT or JOSE"),
        (_without(HEADER, "kid"), "no kid"),
        (HEADER | {"kid": ""}, "no kid"),
        (HEADER | {"kid": 7}, "no kid"),
        (HEADER | {"kid": "unknown"}, "no key with the token's kid"),
        (HEADER | {"jwk": {}}, "alg, kid and typ only"),
        (HEADER | {"crit": ["b64"], "b64": False}, "has a crit"),
        (HEADER | {"jku": "https://evil.example/keys"}, "alg, kid and typ only"),
        (b'{"alg":"ES256","alg":"none","kid":"k"}', "each name once"),
        (b"not json", "must be JSON"),
    ],
)
def test_unsound_headers_are_refused_even_when_signed(header, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        _validate(_sign(header))


def test_the_clock_has_ten_seconds_of_leeway_and_no_more() -> None:
    expires = START + 60
    token = _sign(claims=CLAIMS | {"iat": START, "nbf": START})
    base = NOW.replace(microsecond=0)
    assert _validate(token, now=base + timedelta(seconds=69))
    assert timedelta(seconds=10) == LEEWAY
    with pytest.raises(Invalid, match="expired"):
        _validate(token, now=base + timedelta(seconds=70))
    assert _validate(token, now=base - LEEWAY)
    with pytest.raises(Invalid, match="future"):
        _validate(token, now=base - LEEWAY - timedelta(seconds=1))
    assert expires == base.timestamp() + 60


def test_the_signature_must_be_the_keys_own() -> None:
    body, _, signature = TOKEN.rpartition(".")
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    other = FakeIssuer(seed=5).issue_jwt()
    for bad in (f"{body}.{flipped}", f"{body}.{other.rpartition('.')[2]}"):
        with pytest.raises(Invalid, match="signature is wrong"):
            _validate(bad)


@pytest.mark.parametrize("numbers", [(0, 0), (1, 0), (0, 1)])
def test_a_signature_of_zeros_is_refused(numbers: tuple[int, int]) -> None:
    """CVE-2022-21449 ("psychic signatures") in another library."""
    body = TOKEN.rpartition(".")[0].encode()
    with pytest.raises(Invalid, match="signature is wrong"):
        _validate(finish_jwt(body, encode_dss_signature(*numbers)))


def test_a_signature_of_the_wrong_length_is_refused() -> None:
    body = TOKEN.rpartition(".")[0]
    for size in (1, 63, 65, 128):
        with pytest.raises(Invalid, match="signature is wrong"):
            _validate(f"{body}.{_encode(b'x' * size).decode()}")


def test_the_public_key_is_never_taken_for_a_shared_secret() -> None:
    signing_input = _encode(HEADER | {"alg": "HS256"}) + b"." + _encode(CLAIMS)
    mac = hmac.digest(ISSUER.jwt.public_key, signing_input, "sha256")
    with pytest.raises(Invalid, match="alg must be one of"):
        _validate((signing_input + b"." + _encode(mac)).decode())


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("", "three parts"),
        ("a.b", "three parts"),
        (".".join("abcd"), "three parts"),
        ("..", "three parts"),
        (TOKEN.rpartition(".")[0] + ".", "three parts"),
        (TOKEN + "=", "base64url without padding"),
        (TOKEN.replace(".", "=.", 1), "base64url without padding"),
        (" " + TOKEN, "base64url without padding"),
        (TOKEN + "\n", "base64url without padding"),
        ("é" + TOKEN, "base64url without padding"),
        ("+/+/." + TOKEN.partition(".")[2], "base64url without padding"),
    ],
)
def test_what_is_no_compact_token_is_refused(token: str, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        _validate(token)


def test_a_token_above_16_kib_is_refused_unread() -> None:
    with pytest.raises(TooLarge, match="16 KiB"):
        _validate("a" * (16 * 1024 + 1))


def test_an_audience_must_be_named() -> None:
    with pytest.raises(Invalid, match="Name the audience"):
        _validate(audience="")


def test_one_trust_domain_cannot_vouch_for_anothers_workloads() -> None:
    other = FakeIssuer("other.example", seed=9)
    kid = derive_key_id(other.jwt.public_key)
    jwks = JWKS | {"other.example": [render_jwk(kid, other.jwt.public_key, "jwt-svid")]}
    foreign = other.issue_jwt("/payments")
    assert _validate(foreign, jwks=jwks)["sub"] == "spiffe://other.example/payments"
    claims, header = CLAIMS, HEADER | {"kid": kid}
    signing_input = _encode(header) + b"." + _encode(claims)
    forged = finish_jwt(signing_input, other.keystore.sign("jwt", signing_input))
    with pytest.raises(Invalid, match="no key with the token's kid"):
        _validate(forged, jwks=jwks)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_every_algorithm_of_the_standard_is_understood(alg: str) -> None:
    key: ECKey | RSAKey
    if alg.startswith("ES"):
        curve = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[alg]
        key = ECKey.generate_key(curve, {"kid": "k"})
    else:
        key = RSAKey.import_key(RSA_KEY)
    token = jws.serialize_compact(
        {"alg": alg, "kid": "k"}, json.dumps(CLAIMS), key, algorithms=[alg]
    )
    jwk = key.as_dict(private=False) | {"kid": "k", "use": "jwt-svid"}
    assert _validate(token, jwks={"example.org": [jwk]})


RSA_KEY = rsa.generate_private_key(65537, 2048)
GOOD = JWKS["example.org"][0]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ([], "no key with the token's kid"),
        ([GOOD | {"use": "x509-svid"}], "no key with the token's kid"),
        ([GOOD | {"use": "enc"}], "no key with the token's kid"),
        ([GOOD, GOOD], "several keys"),
        ([_without(GOOD, "x")], "x is missing"),
        ([GOOD | {"x": 5}], "x is missing"),
        ([GOOD | {"x": "!!"}], "base64url"),
        ([GOOD | {"y": GOOD["x"]}], "make no key"),
        ([GOOD | {"kty": "oct", "k": "c2VjcmV0"}], "private or symmetric"),
        ([GOOD | {"crv": "P-384"}], "48 bytes"),
        ([GOOD | {"alg": "ES384"}], "another alg"),
    ],
)
def test_an_unusable_key_is_named(keys: list[dict], sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        _validate(jwks={"example.org": keys})


def test_a_weak_rsa_key_is_refused() -> None:
    weak = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n
    jwk = {"kty": "RSA", "kid": "k", "e": "AQAB", "n": _encode(weak.to_bytes(128, "big")).decode()}
    token = _sign(HEADER | {"alg": "RS256", "kid": "k"})
    with pytest.raises(Invalid, match="2048 to 8192 bits"):
        _validate(token, jwks={"example.org": [jwk]})


def test_the_example_of_rfc_7515_appendix_a_3_verifies() -> None:
    """Its payload is no JWT-SVID, so the signature alone is checked, by the same library call."""
    token = (
        "eyJhbGciOiJFUzI1NiJ9."
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"
        "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSA"
        "pmWQxfKTUJqPP3-Kg6NU1Q"
    )
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    }
    found = jws.deserialize_compact(token, ECKey.import_key(dict(jwk)), algorithms=["ES256"])
    assert json.loads(found.payload)["iss"] == "joe"
    with pytest.raises(Invalid, match="no kid"):
        validate_jwt_svid(token, "ledger", {"example.org": [jwk]}, NOW)


@given(st.text(max_size=200))
def test_random_text_gets_a_clean_answer(text: str) -> None:
    with pytest.raises(TrothError):
        _validate(text)


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="ascii"))
def test_no_changed_character_passes(position: int, character: str) -> None:
    changed = TOKEN[:position] + character + TOKEN[position + 1 :]
    if changed != TOKEN:
        with pytest.raises(Invalid):
            _validate(changed)


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [10**400, -(10**400), 1e300])
def test_a_time_beyond_all_clocks_is_refused(name: str, value: float) -> None:
    with pytest.raises(Invalid, match=f"{name} must be a number of seconds"):
        _validate(_sign(claims=CLAIMS | {name: value}))
