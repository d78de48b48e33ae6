"""OAuth clients as tests need them: registered identities with keys, and their assertions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.jwk import ECKey

from tests.fakes.house import ADMIN, FakeHouse
from tests.fakes.issuer import encode_spki, make_private_key
from troth.core.jose.jwk import render_key
from troth.operations.client import JWT_BEARER_ASSERTION
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.oauth.answers import TokenAnswer
from troth.wire.oauth.form import Form
from troth.wire.oauth.introspection import Introspection
from troth.wire.oauth.metadata import CLIENT_CREDENTIALS
from troth.wire.oauth.request import OAuthRequest

ORIGIN = "https://localhost:8443"
LEDGER = "https://ledger.example.org"


@dataclass
class FakeClient:
    """A client that proves itself by `private_key_jwt`."""

    spiffe_id: str
    key: ec.EllipticCurvePrivateKey
    now: Any
    count: int = 0

    def assert_identity(self, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A fresh assertion; `claims` replace its own, and None leaves one out."""
        self.count += 1
        now: datetime = self.now()
        values: dict[str, Any] = {
            "iss": self.spiffe_id,
            "sub": self.spiffe_id,
            "aud": ORIGIN,
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=1)).timestamp()),
            "jti": f"a{self.count}",
            **claims,
        }
        values = {name: value for name, value in values.items() if value is not None}
        protected = {"alg": "ES256", **(header or {})}
        key = ECKey.import_key(self.key)
        return jws.serialize_compact(protected, json.dumps(values), key)

    def ask(self, assertion: str | None = None, **fields: str | None) -> OAuthRequest:
        """A client-credentials request for the ledger; `fields` replace or leave out."""
        values: dict[str, str | None] = {
            "grant_type": CLIENT_CREDENTIALS,
            "resource": LEDGER,
            "client_assertion_type": JWT_BEARER_ASSERTION,
            "client_assertion": assertion or self.assert_identity(),
            **fields,
        }
        return OAuthRequest(Form({n: (v,) for n, v in values.items() if v}))


def render_identity(name: str, key: ec.EllipticCurvePrivateKey, **spec: Any) -> dict[str, Any]:
    """The manifest of a client."""
    return {
        "apiVersion": "troth/v1",
        "kind": "Identity",
        "metadata": {"name": name},
        "spec": {
            "kind": "service",
            "owner": "team@example.org",
            "purpose": "Asks for tokens",
            "selectors": ["unix:uid:1001"],
            "expires": "30d",
            "client": {"keys": [render_key(encode_spki(key))]},
            **spec,
        },
    }


def render_manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    """A manifest of another kind."""
    terms = {"owner": "team@example.org", "purpose": "For tests", **spec}
    return {
        "apiVersion": "troth/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": terms,
    }


LEDGER_MANIFESTS = [
    render_manifest(
        "Resource",
        "ledger",
        identifiers=[LEDGER, "urn:example:ledger"],
        servers=["ledger-api"],
        actions={"read": "See entries", "write": "Add entries"},
    ),
    render_manifest("Role", "reader", permissions=[{"resource": "ledger", "actions": ["read"]}]),
    render_manifest("Role", "clerk", includes=["reader"], permissions=[
        {"resource": "ledger", "actions": ["write"]}
    ]),
]  # fmt: skip


async def apply(house: FakeHouse, *documents: dict[str, Any], **options: Any) -> Any:
    """Apply manifests and take in what they changed."""
    body = SubmitManifests(documents=[ManifestDocument(value=d) for d in documents], **options)
    plan = await house.call("manifest.apply", body, ADMIN)
    await house.settle()
    return plan


async def add_client(
    house: FakeHouse, name: str = "billing", number: int = 41, **spec: Any
) -> FakeClient:
    """A registered client of that name with the role `clerk`, and the ledger beside it."""
    key = make_private_key(number)
    await apply(
        house, *LEDGER_MANIFESTS, render_identity(name, key, **{"roles": ["clerk"], **spec})
    )
    return FakeClient(f"spiffe://example.org/{name}", key, house.clock.now)


async def request_token(house: FakeHouse, request: OAuthRequest) -> TokenAnswer:
    """Send a request as anybody would."""
    from troth.operations.call import ANONYMOUS

    answer: TokenAnswer = await house.call("token.request", request, ANONYMOUS)
    return answer


def show_token(
    client: FakeClient, token: str, accept: str | None = None, **fields: str | None
) -> OAuthRequest:
    """A request about a token, to introspect it or to surrender it."""
    form = client.ask(None, grant_type=None, **{"resource": None, "token": token, **fields}).form
    return OAuthRequest(form, accept=accept)


async def introspect(
    house: FakeHouse, server: FakeClient, token: str, accept: str | None = None, **fields: str
) -> Any:
    """What `server` learns of a token, as it stands in the answer."""
    from troth.operations.call import ANONYMOUS

    request = show_token(server, token, accept, **fields)
    answer = await house.call("token.introspect", request, ANONYMOUS)
    return msgspec.to_builtins(answer) if isinstance(answer, Introspection) else answer


async def surrender(house: FakeHouse, client: FakeClient, token: str, **fields: str) -> None:
    """Give a token up, and let every server take it in."""
    from troth.operations.call import ANONYMOUS

    assert (
        await house.call("token.surrender", show_token(client, token, **fields), ANONYMOUS) is None
    )
    await house.settle()
