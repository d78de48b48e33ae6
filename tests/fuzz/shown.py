"""What callers show a service of the SDK: tokens that its issuer signed, certificates and proofs;
under WSGI too. And where a client of it takes a token."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import requests
from hypothesis import strategies as st
from requests import PreparedRequest
from urllib3.util import parse_url

from tests.fakes.issuer import encode_spki, make_private_key
from tests.fakes.oauth import API, ISSUER, NOW, FakeAuthorizationServer
from tests.fakes.proofs import find_thumbprint, make_proof
from tests.fuzz.bearers import _sign
from tests.fuzz.harness import answer, check_refusal, fuzz
from tests.fuzz.mutations import json_documents, mutated, mutated_text
from tests.fuzz.sdk import _CERTIFICATES
from tests.fuzz.sdk import ISSUER as CA
from troth.core.clock import VirtualClock
from troth.core.jose.jwk import derive_key_id
from troth.live.revocations import Revocations
from troth.policy.resource import Binding
from troth.sdk.client import AccessToken
from troth.sdk.credential import thumbprint
from troth.sdk.errors import InvalidProof, InvalidToken
from troth.sdk.guard import PeerGuard
from troth.sdk.requests import TokenAuth
from troth.sdk.resource import TOKEN, ProtectedResource, Route
from troth.sdk.validator import Sight, TokenValidator
from troth.sdk.wsgi import TokenMiddleware, find_certificate
from troth.wire.api.revocations import RevocationSnapshot
from troth.wire.pem import render_pem

# Tokens

KEY = make_private_key(3)
"""With which `_sign` signs, and the issuer of these tokens too."""
HOLDER = make_private_key(4)
URL = f"{API}/entries"
_LEAF = CA.issue(CA.plan())
_SECOND = int(NOW.timestamp())


@cache
def _open_validator() -> TokenValidator:
    server = FakeAuthorizationServer(VirtualClock(NOW), number=3)
    guard = PeerGuard([ISSUER], "unix:///agent.sock", clock=server.clock)
    known: Revocations = guard._known
    message = RevocationSnapshot(
        epoch=1,
        mark="m",
        as_of=0,
        lease=15,
        trust_domain="example.org",
        cut_off={"spiffe://example.org/bad": "quarantined"},
        revoked={},
        distrusted={},
    )
    known.take(message, server.clock.monotonic())
    return TokenValidator(server.connect(), [API], guard, clock=server.clock, capacity=50)


_HEADER = {
    "alg": "ES256",
    "typ": "at+jwt",
    "kid": derive_key_id(encode_spki(KEY)),
}
_CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": "spiffe://example.org/a",
    "aud": API,
    "client_id": "spiffe://example.org/b",
    "iat": _SECOND,
    "exp": _SECOND + 600,
    "jti": "tok_1",
    "scope": "read",
}
_SAID = [
    _CLAIMS,
    _CLAIMS | {"cnf": {"x5t#S256": thumbprint(_LEAF)}},
    _CLAIMS | {"cnf": {"jkt": find_thumbprint(HOLDER)}},
    _CLAIMS | {"exp": 1 << 52},
    _CLAIMS | {"act": {"sub": "spiffe://example.org/bad"}},
]


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


_TOKENS = st.builds(
    _sign, st.just(_dump(_HEADER)), st.sampled_from([_dump(said) for said in _SAID])
)
_ODD_TOKENS = st.builds(
    _sign, json_documents(_HEADER) | st.just(_dump(_HEADER)), json_documents(*_SAID)
)


def _prove(token: str, edits: str) -> str:
    return make_proof(HOLDER, "GET", URL, NOW, token, jti=edits or "p1")


_SIGHTS = st.tuples(
    _TOKENS | _ODD_TOKENS | mutated_text(_sign(_dump(_HEADER), _dump(_CLAIMS))),
    st.sampled_from(["bearer", "dpop", ""]),
    st.none() | st.just(_LEAF) | _CERTIFICATES,
    st.none() | st.just("") | st.text(max_size=3) | mutated_text("a.b.c"),
)


def _bind(der: bytes) -> tuple[str, str, bytes, None]:
    """A token that is bound to a certificate, whatever that is, and shown with it."""
    claims = _CLAIMS | {"cnf": {"x5t#S256": thumbprint(der)}}
    return _sign(_dump(_HEADER), _dump(claims)), "bearer", der, None


@fuzz(_SIGHTS | _SIGHTS | _CERTIFICATES.map(_bind), examples=250)
def fuzz_shown_token(found: tuple[str, str, bytes | None, str | None]) -> None:
    """Signed by the issuer, so that claims are reached; what is bound is shown by its holder."""
    text, scheme, certificate, edits = found
    validator = _open_validator()
    try:
        proof = _prove(text, edits) if edits is not None and edits.isascii() else edits
    except UnicodeError:
        proof = edits
    try:
        valid = validator.check(Sight(scheme, text, certificate, proof, "GET", URL))
    except (InvalidToken, InvalidProof) as error:
        check_refusal(error)
        return
    assert valid.claims["iss"] == ISSUER
    assert API in valid.claims["aud"]
    assert "spiffe://example.org/bad" not in (valid.subject, valid.client_id, *valid.actors)
    bound = valid.claims.get("cnf", {})
    assert (scheme == "dpop") == ("jkt" in bound)
    assert validator.binding is Binding.NONE
    if "x5t#S256" in bound:
        assert certificate is not None
        assert thumbprint(certificate) == bound["x5t#S256"]


# WSGI

_GOOD = FakeAuthorizationServer(VirtualClock(NOW), number=3).issue()
_VALUES = mutated_text(f"Bearer {_GOOD}", f"DPoP {_GOOD}", "GET", "/a/b", "/a/b?x", "é")
_ENVIRON = st.fixed_dictionaries(
    {"REQUEST_METHOD": st.sampled_from(["GET", "HEAD", "POST"])},
    optional={
        "SCRIPT_NAME": _VALUES,
        "PATH_INFO": st.just("/a/b") | _VALUES,
        "REQUEST_URI": st.just("/a/b") | _VALUES,
        "HTTP_AUTHORIZATION": st.just(f"Bearer {_GOOD}") | _VALUES,
        "HTTP_DPOP": _VALUES,
        "SSL_CLIENT_CERT": mutated(render_pem("CERTIFICATE", _LEAF)).map(
            lambda raw: raw.decode("latin-1")
        ),
        "gunicorn.socket": st.none() | st.text(),
        TOKEN: st.just("forged"),
    },
)


@fuzz(_ENVIRON, examples=150)
def fuzz_wsgi(environ: dict[str, Any]) -> None:
    """Nobody reaches the application but with the one token, whatever a server puts there."""
    resource = ProtectedResource(API, _open_validator(), [Route("GET", "/a/*", ("read",))])
    reached: list[Any] = []
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def app(given: dict[str, Any], start: Any) -> list[bytes]:
        reached.append(given[TOKEN])
        return []

    shown = dict(environ)
    TokenMiddleware(app, resource)(environ, lambda *head: started.append(head))
    assert len(reached) + len(started) == 1
    if reached:
        assert reached[0].claims["iss"] == ISSUER
        assert shown["HTTP_AUTHORIZATION"].lower().startswith("bearer ")
        assert _GOOD in shown["HTTP_AUTHORIZATION"]
    for status, headers in started:
        assert status[:3].isdigit()
        assert not any(set(value) & set("\r\n\0") for _, value in headers)
    found = find_certificate(shown)
    assert found is None or isinstance(found, bytes)


# Where a token goes

_PLACES = mutated_text(
    f"{API}/entries?a=1#b",
    "https://user:word@ledger.example.org:443/",
    "https://ledger.example.org\\@other.example.org/",
    "http://ledger.example.org/",
    "https://[::1]:99999/",
)


class _Source:
    """Has a token for everybody."""

    def fetch(self, resource: str, scopes: Any = ()) -> AccessToken:
        return AccessToken("a.b.c", "Bearer", frozenset(), 0.0, 60.0, "", {})


@fuzz(_PLACES, examples=150)
def fuzz_request_url(text: str) -> None:
    """A token is put into requests to its resource alone, as who opens the connection reads it."""
    request = PreparedRequest()
    try:
        request.prepare(method="GET", url=text)
    except (requests.RequestException, ValueError):  # no request was made
        return
    auth = TokenAuth(_Source(), API)  # type: ignore[arg-type]
    signed = answer(auth, request)
    assert signed is request
    if request.headers.get("Authorization") == "Bearer a.b.c":
        place = parse_url(request.url or "")
        assert (place.scheme, place.host, place.port or 443) == ("https", "ledger.example.org", 443)
