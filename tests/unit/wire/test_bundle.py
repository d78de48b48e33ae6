"""Trust bundles: the standard's form, exactly, and what is refused or passed over in others'."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.issuer import FakeIssuer, encode_spki
from troth.core.errors import Invalid, TooLarge, TrothError
from troth.core.jose.jwk import derive_key_id
from troth.issuance.jwtsvid import validate_jwt_svid
from troth.wire.bundle import (
    MAX_BUNDLE_SIZE,
    list_jwks,
    parse_bundle,
    render_bundle,
    render_jwks,
    render_jwt_bundle,
)
from troth.wire.pem import render_pem_certificates, render_pem_crls

ISSUER, NEXT = FakeIssuer(seed=1), FakeIssuer(seed=2)
ROOTS = [ISSUER.x509.certificate, NEXT.x509.certificate]
JWT_KEYS = [(derive_key_id(i.jwt.public_key), i.jwt.public_key) for i in (ISSUER, NEXT)]
DOCUMENT = render_bundle(ROOTS, JWT_KEYS, 42, 300)


def _keys(document: bytes = DOCUMENT, use: str = "x509-svid") -> list[dict[str, Any]]:
    return [key for key in json.loads(document)["keys"] if key["use"] == use]


def test_the_document_carries_sequence_and_refresh_hint() -> None:
    value = json.loads(DOCUMENT)
    assert value.keys() == {"keys", "spiffe_sequence", "spiffe_refresh_hint"}
    assert (value["spiffe_sequence"], value["spiffe_refresh_hint"]) == (42, 300)


def test_an_x509_entry_has_one_x5c_and_no_kid() -> None:
    keys = _keys()
    assert len(keys) == 2
    for key, der in zip(keys, ROOTS, strict=True):
        assert key.keys() == {"kty", "crv", "x", "y", "use", "x5c"}
        assert key["x5c"] == [base64.b64encode(der).decode()]
        public_key = x509.load_der_x509_certificate(der).public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        x = base64.urlsafe_b64decode(key["x"] + "=")
        assert int.from_bytes(x, "big") == public_key.public_numbers().x


def test_a_jwt_entry_has_a_kid_and_no_x5c() -> None:
    keys = _keys(use="jwt-svid")
    assert [key["kid"] for key in keys] == [kid for kid, _ in JWT_KEYS]
    assert all(key.keys() == {"kty", "crv", "x", "y", "use", "kid"} for key in keys)


def test_a_bundle_reads_back_as_itself() -> None:
    bundle = parse_bundle(DOCUMENT)
    assert list(bundle.x509_authorities) == ROOTS
    assert list(bundle.jwt_keys) == JWT_KEYS
    assert (bundle.sequence, bundle.refresh_hint_s) == (42, 300)


def test_an_empty_bundle_reads_back_too() -> None:
    bundle = parse_bundle(render_bundle([], [], 0, 0))
    assert (bundle.x509_authorities, bundle.jwt_keys) == ((), ())


def test_a_parsed_bundle_validates_tokens() -> None:
    jwks = {"example.org": list_jwks(parse_bundle(DOCUMENT))}
    claims = validate_jwt_svid(ISSUER.issue_jwt(), "ledger", jwks, ISSUER.now)
    assert claims["sub"] == "spiffe://example.org/payments"


def test_the_workload_apis_set_has_jwt_keys_alone_each_with_a_kid() -> None:
    value = json.loads(render_jwt_bundle(JWT_KEYS))
    assert value.keys() == {"keys"}
    assert value["keys"] == _keys(use="jwt-svid")


def test_the_discovery_set_says_sig_and_es256() -> None:
    keys = json.loads(render_jwks(JWT_KEYS))["keys"]
    assert [(key["use"], key["alg"]) for key in keys] == [("sig", "ES256")] * 2
    assert [key["kid"] for key in keys] == [kid for kid, _ in JWT_KEYS]


def _with(*keys: Any, **values: Any) -> bytes:
    return json.dumps({"keys": list(keys)} | values).encode()


X509_KEY, JWT_KEY = _keys()[0], _keys(use="jwt-svid")[0]
LEAF = ISSUER.issue(ISSUER.plan())


@pytest.mark.parametrize(
    "key",
    [
        JWT_KEY | {"use": "wit-svid"},
        JWT_KEY | {"use": "JWT-SVID"},
        JWT_KEY | {"kty": "OKP"},
        {key: value for key, value in JWT_KEY.items() if key != "use"},
        {key: value for key, value in JWT_KEY.items() if key != "kty"},
        {key: value for key, value in X509_KEY.items() if key != "x5c"},
        X509_KEY | {"x5c": []},
        {},
    ],
)
def test_what_the_standard_says_to_ignore_is_passed_over(key: dict) -> None:
    bundle = parse_bundle(_with(key, JWT_KEY))
    assert bundle.jwt_keys == (JWT_KEYS[0],)
    assert bundle.x509_authorities == ()


def test_unknown_parameters_are_allowed_and_none_is_required() -> None:
    bundle = parse_bundle(_with(X509_KEY, issuer="someone"))
    assert bundle.x509_authorities == (ROOTS[0],)
    assert (bundle.sequence, bundle.refresh_hint_s) == (None, None)


def test_only_the_first_certificate_of_x5c_counts() -> None:
    key = X509_KEY | {"x5c": [X509_KEY["x5c"][0], "garbage"]}
    assert parse_bundle(_with(key)).x509_authorities == (ROOTS[0],)


def test_one_certificate_twice_is_one_authority() -> None:
    assert parse_bundle(_with(X509_KEY, X509_KEY)).x509_authorities == (ROOTS[0],)


def test_others_may_use_rsa() -> None:
    public_key = encode_spki(rsa.generate_private_key(65537, 2048))
    assert parse_bundle(render_bundle([], [("r", public_key)], 1, 1)).jwt_keys == (
        ("r", public_key),
    )


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b"\xff", "must be JSON"),
        (b"[" * 100_000, "must be JSON"),
        (b'{"keys":[],"keys":[]}', "each name once"),
        (b"[]", "array 'keys'"),
        (b"{}", "array 'keys'"),
        (b'{"keys":{}}', "array 'keys'"),
        (b'{"keys":[5]}', "array 'keys' of objects"),
        (_with(spiffe_sequence="1"), "spiffe_sequence must be an integer"),
        (_with(spiffe_sequence=-1), "spiffe_sequence must be an integer"),
        (_with(spiffe_sequence=1 << 63), "spiffe_sequence must be an integer"),
        (_with(spiffe_sequence=True), "spiffe_sequence must be an integer"),
        (_with(spiffe_refresh_hint=1.5), "spiffe_refresh_hint must be an integer"),
        (_with(spiffe_refresh_hint=None), "spiffe_refresh_hint must be an integer"),
        (_with(JWT_KEY | {"kid": ""}), "needs a kid"),
        (_with(JWT_KEY | {"kid": 5}), "needs a kid"),
        (_with(JWT_KEY | {"kid": "k" * 257}), "needs a kid"),
        (_with(JWT_KEY, JWT_KEY), "two JWT keys with the kid"),
        (_with(JWT_KEY | {"x": JWT_KEY["y"]}), "make no key"),
        (_with(X509_KEY | {"x5c": "text"}), "array of base64"),
        (_with(X509_KEY | {"x5c": [5]}), "array of base64"),
        (_with(X509_KEY | {"x5c": {"0": 1}}), "array of base64"),
        (_with(X509_KEY | {"x5c": ["-_"]}), "base64"),
        (_with(X509_KEY | {"x5c": ["AAAA"]}), "can't be parsed"),
        (_with(X509_KEY | {"x5c": [base64.b64encode(ROOTS[0] + b"x").decode()]}), "can't be pa"),
        (_with(X509_KEY | {"x5c": [base64.b64encode(ROOTS[1]).decode()]}), "not the one in its"),
        (_with(X509_KEY | {"x5c": [base64.b64encode(LEAF).decode()]}), "a leaf, not a CA"),
    ],
)
def test_a_malformed_bundle_is_refused(document: bytes, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        parse_bundle(document)


def test_a_bundle_is_bounded_in_size_and_number() -> None:
    with pytest.raises(TooLarge, match="1 MiB"):
        parse_bundle(b" " * (MAX_BUNDLE_SIZE + 1))
    with pytest.raises(TooLarge, match="256 keys"):
        parse_bundle(_with(*[{}] * 257))


def test_a_leaf_or_garbage_is_never_published_as_an_authority() -> None:
    for der in (LEAF, b"garbage", ROOTS[0][:-1]):
        with pytest.raises(Invalid, match=r"X\.509 authority's certificate"):
            render_bundle([der], [], 1, 1)


NAMES = st.sampled_from(["keys", "use", "kty", "x5c", "kid", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_random_json_gets_a_clean_answer(value: Any) -> None:
    for document in (value, {"keys": value}, {"keys": [JWT_KEY | {"x5c": value, "kid": value}]}):
        try:
            parse_bundle(json.dumps(document).encode())
        except TrothError:
            continue


def test_pem_reads_back() -> None:
    pem = render_pem_certificates(ROOTS)
    assert [c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(pem)] == ROOTS
    crl = ISSUER.issue_crl()
    assert x509.load_pem_x509_crl(render_pem_crls([crl])).public_bytes(Encoding.DER) == crl
    assert render_pem_certificates([]) == render_pem_crls([]) == b""


def test_pem_lines_have_64_characters() -> None:
    """RFC 7468, section 2: exactly 64 but for the last."""
    lines = render_pem_certificates(ROOTS[:1]).decode().splitlines()
    assert lines[0] == "-----BEGIN CERTIFICATE-----"
    assert lines[-1] == "-----END CERTIFICATE-----"
    assert all(len(line) == 64 for line in lines[1:-2])
    assert 1 <= len(lines[-2]) <= 64
