"""Issuing JWT-SVIDs: the plan's refusals, the token's exact form, its vectors."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.issuer import NOW, FakeIssuer
from troth.core.errors import Internal, Invalid, Refused
from troth.core.ids import SpiffeId
from troth.core.jose.jwk import derive_key_id
from troth.issuance.authorities import AuthorityState
from troth.issuance.jwtsvid import (
    check_jwt,
    finish_jwt,
    plan_jwt_svid,
    render_signing_input,
)

ISSUER = FakeIssuer()
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def _part(token: str, index: int) -> Any:
    text = token.split(".")[index]
    return json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def test_the_header_is_exactly_alg_kid_and_typ() -> None:
    kid = derive_key_id(ISSUER.jwt.public_key)
    assert _part(ISSUER.issue_jwt(), 0) == {"alg": "ES256", "kid": kid, "typ": "JWT"}


def test_the_claims_are_those_of_the_plan() -> None:
    token = ISSUER.issue_jwt(
        audiences=["ledger", "audit", "ledger"], jti="j1", issuer_url="https://troth.example/svid"
    )
    start = int(NOW.timestamp())
    assert _part(token, 1) == {
        "sub": "spiffe://example.org/payments",
        "aud": ["ledger", "audit"],
        "exp": start + 300,
        "iat": start,
        "jti": "j1",
        "iss": "https://troth.example/svid",
    }


def test_it_says_which_running_copy_it_is_of_if_it_is_one_s() -> None:
    assert _part(ISSUER.issue_jwt(instance="ins_1f"), 1)["troth_instance"] == "ins_1f"
    assert "troth_instance" not in _part(ISSUER.issue_jwt(), 1)


def test_without_an_issuer_url_there_is_no_iss() -> None:
    assert "iss" not in _part(ISSUER.issue_jwt(), 1)


def test_the_signature_is_over_header_and_claims_in_64_bytes() -> None:
    body, _, signature = ISSUER.issue_jwt().rpartition(".")
    raw = urlsafe_b64decode(signature + "==")
    assert len(raw) == 64
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    key = load_der_public_key(ISSUER.jwt.public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(encode_dss_signature(r, s), body.encode(), ec.ECDSA(hashes.SHA256()))


def test_a_token_ends_with_its_authority() -> None:
    late = ISSUER.jwt.not_after - timedelta(seconds=30)
    expires = _part(ISSUER.issue_jwt(now=late), 1)["exp"]
    assert expires == int(ISSUER.jwt.not_after.timestamp())


def _plan(**changes):
    values: dict[str, Any] = {
        "spiffe_id": SpiffeId.parse("spiffe://example.org/payments"),
        "audiences": ["ledger"],
        "ttl": timedelta(minutes=5),
        "issuer": ISSUER.jwt,
        "jti": "j1",
        "now": NOW,
    }
    return plan_jwt_svid(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"audiences": []}, "1 to 16 audiences"),
        ({"audiences": [f"a{n}" for n in range(17)]}, "1 to 16 audiences"),
        ({"audiences": [""]}, "1 to 2048 printable"),
        ({"audiences": ["a" * 2049]}, "1 to 2048 printable"),
        ({"audiences": ["a\nb"]}, "printable"),
        ({"ttl": timedelta(minutes=61)}, "ceiling of 1 h"),
        ({"ttl": timedelta(0)}, "at least one second"),
        ({"spiffe_id": SpiffeId.parse("spiffe://example.org")}, "SPIFFE ID with a path"),
    ],
)
def test_a_bad_request_is_refused_in_words(changes, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        _plan(**changes)


def test_bounds_themselves_are_allowed() -> None:
    plan = _plan(
        audiences=["a" * 2048, *(f"{n:02}" + "b" * 134 for n in range(15))], ttl=timedelta(hours=1)
    )
    assert len(plan.audiences) == 16


def test_all_audiences_together_are_bounded() -> None:
    with pytest.raises(Invalid, match="together"):
        _plan(audiences=[f"{n:02}" + "a" * 2046 for n in range(3)])


def test_one_string_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(TypeError):
        _plan(audiences="ledger")


def test_only_an_active_jwt_authority_signs() -> None:
    with pytest.raises(Refused, match="not jwt-svid"):
        _plan(issuer=ISSUER.x509)
    with pytest.raises(Refused, match="is retired"):
        _plan(issuer=replace(ISSUER.jwt, state=AuthorityState.RETIRED))
    with pytest.raises(Refused, match="not valid now"):
        _plan(now=ISSUER.jwt.not_after)


@given(st.integers(1, ORDER - 1), st.integers(1, ORDER - 1))
def test_a_der_signature_becomes_64_bytes_whatever_its_numbers(r: int, s: int) -> None:
    token = finish_jwt(b"a.b", encode_dss_signature(r, s))
    raw = urlsafe_b64decode(token.split(".")[2] + "==")
    assert raw == r.to_bytes(32, "big") + s.to_bytes(32, "big")


@pytest.mark.parametrize("signature", [b"", b"garbage", encode_dss_signature(1 << 300, 1)])
def test_what_is_no_p256_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(Internal, match="not a P-256 signature"):
        finish_jwt(b"a.b", signature)


def test_the_check_refuses_what_differs_from_the_record() -> None:
    first, second = render_signing_input(_plan()), render_signing_input(_plan(jti="j2"))
    signature = ISSUER.keystore.sign("jwt", first)
    token = finish_jwt(first, signature)
    check_jwt(token, first, signature, ISSUER.jwt.public_key)
    with pytest.raises(Internal, match="differs from what was recorded"):
        check_jwt(token, second, signature, ISSUER.jwt.public_key)
    with pytest.raises(Internal, match="doesn't verify"):
        check_jwt(token, first, signature, ISSUER.x509.public_key)
    crossed = finish_jwt(second, signature)
    with pytest.raises(Internal, match="doesn't verify"):
        check_jwt(crossed, second, signature, ISSUER.jwt.public_key)
