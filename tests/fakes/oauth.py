"""An authorization server in memory, as a client and a resource server see one over HTTPS."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.jwk import ECKey

from tests.fakes.issuer import encode_spki, make_private_key
from troth.core.clock import VirtualClock
from troth.core.jose.jwk import derive_key_id, render_jwk
from troth.sdk.credential import Shown
from troth.sdk.exchange import Answer, Request
from troth.sdk.issuer import Issuer

ISSUER = "https://troth.example.org:8443"
MUTUAL = "https://troth.example.org:8444"
API = "https://ledger.example.org"
ME = "spiffe://example.org/billing"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@dataclass
class FakeCredential:
    """Proves itself by words. `tag` and `ends` are those of a certificate, where there is one."""

    tag: str = ""
    ends: datetime | None = None
    audiences: list[str] = field(default_factory=list)

    def show(self, audience: str) -> Shown:
        self.audiences.append(audience)
        return Shown([("client_assertion", "me")], None, self.tag, self.ends)


class FakeAuthorizationServer:
    """Answers what a test says first (`answers`, statuses and bodies), and then soundly."""

    def __init__(self, clock: VirtualClock | None = None, number: int = 77) -> None:
        self.clock = clock or VirtualClock(NOW)
        self.key = make_private_key(number)
        self.published: list[dict[str, Any]] = [self.describe_key(self.key)]
        self.requests: list[Request] = []
        self.forms: list[dict[str, str]] = []
        self.answers: list[Answer | Exception] = []
        self.down: Exception | None = None
        self.life = 600
        self.count = 0
        self.ended: set[str] = set()
        self.metadata: dict[str, Any] = {
            "issuer": ISSUER,
            "token_endpoint": f"{ISSUER}/oauth/token",
            "introspection_endpoint": f"{ISSUER}/oauth/introspect",
            "revocation_endpoint": f"{ISSUER}/oauth/revoke",
            "jwks_uri": f"{ISSUER}/oauth/jwks",
            "mtls_endpoint_aliases": {"token_endpoint": f"{MUTUAL}/oauth/token"},
        }

    def connect(self) -> Issuer:
        """An issuer whose requests end here."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return Issuer(ISSUER, context, clock=self.clock, send=self)

    def __call__(self, request: Request, context: ssl.SSLContext) -> Answer:
        self.requests.append(request)
        path = urlsplit(request.url).path
        if self.down is not None:
            raise self.down
        if path.startswith("/.well-known/"):
            return make_answer(200, self.metadata)
        if path == "/oauth/jwks":
            return make_answer(200, {"keys": self.published})
        form = dict(parse_qsl(request.body.decode()))
        self.forms.append(form)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return self.respond(path, form)

    def respond(self, path: str, form: dict[str, str]) -> Answer:
        if path == "/oauth/introspect":
            active = form["token"] not in self.ended
            return make_answer(200, {"active": active, **({"sub": ME} if active else {})})
        if path == "/oauth/revoke":
            self.ended.add(form["token"])
            return Answer(200, {}, b"")
        scope = form.get("scope", "read write")
        token = self.issue(aud=form.get("resource", API), scope=scope)
        answer = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self.life,
            "scope": scope,
        }
        return make_answer(200, answer)

    def count_paths(self, path: str) -> int:
        """How many requests came for `path`."""
        return sum(urlsplit(request.url).path == path for request in self.requests)

    def describe_key(self, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
        """The JWK of a key of this server."""
        spki = encode_spki(key)
        return dict(render_jwk(derive_key_id(spki), spki, "sig", "ES256"))

    def issue(
        self,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        header: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A token; `claims` and `header` replace its own, and None leaves one out."""
        self.count += 1
        key = key or self.key
        now = self.clock.now()
        values = {
            "iss": ISSUER,
            "sub": ME,
            "aud": API,
            "client_id": ME,
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(seconds=self.life)).timestamp()),
            "jti": f"tok_{self.count}",
            "scope": "read",
            **claims,
        }
        kid = derive_key_id(encode_spki(key))
        protected = {"alg": "ES256", "typ": "at+jwt", "kid": kid, **(header or {})}
        values = {name: value for name, value in values.items() if value is not None}
        protected = {name: value for name, value in protected.items() if value is not None}
        return jws.serialize_compact(protected, json.dumps(values), ECKey.import_key(key))


def make_answer(status: int, value: Any, **headers: str) -> Answer:
    """A JSON answer; names of headers have _ for -."""
    found = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, found, json.dumps(value).encode())
