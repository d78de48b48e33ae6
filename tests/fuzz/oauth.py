"""The OAuth endpoints: forms, assertions, proofs of possession, and what is declared for them."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import strategies as st

from tests.fakes.issuer import FakeIssuer, encode_spki, make_private_key
from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import json_documents, mutated, mutated_json, mutated_text
from troth.core.clock import VirtualClock
from troth.core.errors import TrothError
from troth.core.ids import TrustDomain
from troth.core.jose.dpop import read_proof
from troth.core.jose.jwk import encode_base64url, render_key
from troth.core.manifest.problem import Limits, PlainDocument
from troth.live.bundle import make_bundle
from troth.manifests.reading import parse_manifests
from troth.operations.client import _read_assertion
from troth.operations.client_secret import SecretVerifier
from troth.operations.refusal import find_claimed
from troth.operations.svidclient import read_jwt_svid
from troth.server.http.intake import read_all
from troth.server.http.oauth import MAX_BODY, OAuthEndpoints
from troth.server.settings import Limits as ServerLimits
from troth.wire.oauth.basic import parse_basic
from troth.wire.oauth.form import MAX_REPEATED, Form, parse_form
from troth.wire.oauth.request import OAuthRequest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOMAIN = TrustDomain("example.org")
ORIGIN = "https://localhost:8443"
URL = f"{ORIGIN}/oauth/token"
KEY = make_private_key(7)
JWK = render_key(encode_spki(KEY))
ISSUER = FakeIssuer()
_NO_STORE: Any = None
"""For what reads no rows."""
BUNDLE = make_bundle(1, [], [], [ISSUER.jwt])

FORM = urlencode(
    {
        "grant_type": "client_credentials",
        "resource": "https://ledger.example.org",
        "scope": "read write",
        "client_assertion": "a.b.c",
    }
).encode()


_FORM_HEADER = (b"content-type", b"application/x-www-form-urlencoded")
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"content-type", b"host", b"dpop", b"authorization", b"accept"]),
        mutated(b"application/x-www-form-urlencoded; charset=utf-8", b"localhost:8443", b"a, b"),
    ),
    max_size=3,
)


def _send_in_pieces(body: bytes) -> Any:
    pieces = [body[:7], body[7:]]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    return receive


@fuzz(
    st.tuples(
        mutated(FORM, b"a=1&a=2", b"resource=a&resource=b", b"%ff=%00"),
        st.just([_FORM_HEADER]) | _HEADERS.map(lambda more: [_FORM_HEADER, *more]) | _HEADERS,
    )
)
def fuzz_oauth_form(found: tuple[bytes, list[tuple[bytes, bytes]]]) -> None:
    """Read in pieces as a connection gives them, then as a form; and the request around it."""
    body, headers = found
    scope = {"scheme": "https", "path": "/oauth/token", "query_string": b"", "headers": headers}
    endpoints = OAuthEndpoints(None, ServerLimits())  # type: ignore[arg-type]  # asked by nobody

    def read_request() -> OAuthRequest:
        return asyncio.run(endpoints._read_request(scope, _send_in_pieces(body)))

    request = answer(read_request)
    try:
        whole = asyncio.run(read_all(_send_in_pieces(body), 5, MAX_BODY))
    except TrothError:
        assert len(body) > MAX_BODY
        return
    assert whole == body
    form = answer(parse_form, whole)
    assert request is None or request.form == form
    if form is not None:
        assert all(1 <= len(values) <= MAX_REPEATED for values in form.fields.values())
        assert all(all(values) for values in form.fields.values())


def _sign(header: bytes, claims: bytes) -> str:
    content = f"{encode_base64url(header)}.{encode_base64url(claims)}"
    r, s = decode_dss_signature(KEY.sign(content.encode(), ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return f"{content}.{encode_base64url(signature)}"


_PROOF_HEADER = {"typ": "dpop+jwt", "alg": "ES256", "jwk": JWK}
_PROOF = {"jti": "j1", "htm": "POST", "htu": URL, "iat": int(NOW.timestamp()), "nonce": "n"}


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


@fuzz(
    mutated_text(_sign(_dump(_PROOF_HEADER), _dump(_PROOF)))
    | st.builds(_sign, st.just(_dump(_PROOF_HEADER)), json_documents(_PROOF))
    | st.builds(_sign, json_documents(_PROOF_HEADER), st.just(_dump(_PROOF))),
    examples=200,
)
def fuzz_dpop(text: str) -> None:
    """Signed with the proof's own key, so that claims are reached; only sound ones pass."""
    proof = answer(read_proof, text, "POST", URL, NOW)
    if proof is not None:
        assert proof.jti
        assert proof.thumbprint
        assert abs((NOW - proof.issued_at).total_seconds()) <= 300


_CLAIMS = {
    "iss": "spiffe://example.org/a",
    "sub": "spiffe://example.org/a",
    "aud": ORIGIN,
    "exp": int(NOW.timestamp()) + 60,
    "jti": "j1",
}


@fuzz(
    mutated_text(_sign(_dump({"alg": "ES256"}), _dump(_CLAIMS)), ISSUER.issue_jwt())
    | st.builds(_sign, json_documents({"alg": "ES256", "kid": "k"}), json_documents(_CLAIMS))
)
def fuzz_client_assertion(text: str) -> None:
    """Taken apart as an assertion, and as a JWT-SVID: none of these is one for this server."""
    answer(_read_assertion, text)
    assert answer(read_jwt_svid, text, BUNDLE, DOMAIN, frozenset({ORIGIN}), NOW) is None


_SECRET = f"spiffe://example.org/a:troth-secret.csec_0a.{'A' * 43}"


@fuzz(
    mutated_text("Basic YTpi", f"Basic {base64.b64encode(_SECRET.encode()).decode()}")
    | st.builds(
        lambda joined: f"basic {base64.b64encode(joined.encode()).decode()}",
        mutated_text(_SECRET, "spiffe%3A%2F%2Fexample.org%2Fa:%41+%c3%a9"),
    )
)
def fuzz_basic_credentials(header: str) -> None:
    """Id and secret of a client; what the journal is told of them is never the secret."""
    found = answer(parse_basic, header)
    if found is not None:
        assert found.client_id
        assert found.secret
        assert found.secret not in repr(found).replace(found.client_id, "")
    claimed = find_claimed(OAuthRequest(Form({}), authorization=header))
    assert "troth-secret" not in claimed
    verifier = SecretVerifier(_NO_STORE, VirtualClock(NOW), DOMAIN, allowed=True)
    if found is not None:
        verifier._read_name(found.client_id)


_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIBIjCBygIJAK0=\n-----END CERTIFICATE-----\n"
_TERMS = {"owner": "a@example.org", "purpose": "For tests."}
_MANIFESTS: tuple[dict[str, Any], ...] = (
    {
        "apiVersion": "troth/v1",
        "kind": "Resource",
        "metadata": {"name": "ledger"},
        "spec": {
            **_TERMS,
            "identifiers": ["https://ledger.example.org", "urn:a:b"],
            "servers": ["ledger-api"],
            "actions": {"read": "See it", "write": "Change it"},
            "passesTo": ["archive"],
            "token": {
                "format": "opaque",
                "algorithm": "EdDSA",
                "ttl": "5m",
                "binding": "mtls",
                "ttlByTier": {"low": "1m", "high": "10m"},
                "sharedWith": ["archive"],
            },
        },
    },
    {
        "apiVersion": "troth/v1",
        "kind": "Role",
        "metadata": {"name": "clerk"},
        "spec": {
            **_TERMS,
            "includes": ["reader"],
            "permissions": [{"resource": "ledger", "actions": ["read", "*"]}],
        },
    },
    {
        "apiVersion": "troth/v1",
        "kind": "Identity",
        "metadata": {"name": "billing"},
        "spec": {
            **_TERMS,
            "kind": "service",
            "roles": ["clerk"],
            "delegates": ["helper"],
            "client": {"keys": [{**JWK, "kid": "k1"}], "certificates": [_CERTIFICATE]},
        },
    },
)


@fuzz(mutated_json(*_MANIFESTS), examples=300)
def fuzz_declared(value: Any) -> None:
    """Any value as a manifest: problems with places, or something of the domain."""
    found = parse_manifests([PlainDocument(value)], Limits(trust_domain=DOMAIN), NOW)
    if not found.errors:
        assert len(found.specs) + len(found.roles) + len(found.resources) <= 1
    for problem in found.problems:
        assert str(problem).isprintable() or "\n" not in str(problem)
