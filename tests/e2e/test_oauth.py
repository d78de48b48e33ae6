"""Other people's OAuth clients at a real server: Authlib, requests-oauth2client, PyJWT, curl."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import ECKey
from jwt import PyJWKClient
from requests_oauth2client import DPoPKey, OAuth2Client, PrivateKeyJwt

from tests.e2e.processes import Server, open_folder
from tests.fakes.clients import LEDGER, LEDGER_MANIFESTS, render_identity
from tests.fakes.issuer import make_private_key
from troth.core.jose.jwk import encode_base64url, render_key, thumbprint_jwk
from troth.wire.api.manifests import ManifestDocument, SubmitManifests

pytestmark = [pytest.mark.e2e, pytest.mark.interop]

KEY = make_private_key(41)
KID = thumbprint_jwk(render_key(KEY.public_key()))
CLIENT_ID = "spiffe://troth.local/billing"


def private_jwk() -> dict[str, Any]:
    number = KEY.private_numbers().private_value
    return {**render_key(KEY.public_key()), "d": encode_base64url(number.to_bytes(32, "big"))}


@pytest.fixture(scope="module")
def ledger(troth: Server) -> Server:
    """A server with a resource, roles, and a client that has a key registered."""
    documents = [*LEDGER_MANIFESTS, render_identity("billing", KEY, roles=["clerk"])]
    troth.call(
        "manifest.apply",
        SubmitManifests(documents=[ManifestDocument(value=one) for one in documents]),
    )
    return troth


@pytest.fixture(scope="module")
def trusted(ledger: Server) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ledger.data / "ca.pem"))


def discover(server: Server, trusted: ssl.SSLContext) -> dict[str, Any]:
    with httpx.Client(verify=trusted, trust_env=False) as client:
        answer = client.get(f"{server.url}/.well-known/oauth-authorization-server")
        assert answer.headers["cache-control"] == "public, max-age=300"
        found: dict[str, Any] = answer.json()
    return found


def check(server: Server, trusted: ssl.SSLContext, token: str) -> dict[str, Any]:
    """The claims, as PyJWT finds them with the keys that the server publishes."""
    metadata = discover(server, trusted)
    keys = PyJWKClient(metadata["jwks_uri"], ssl_context=trusted)
    key = keys.get_signing_key_from_jwt(token)
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    claims: dict[str, Any] = jwt.decode(
        token,
        key.key,
        algorithms=["ES256"],
        audience=LEDGER,
        issuer=metadata["issuer"],
        options={"require": ["exp", "iat", "sub", "jti", "client_id"]},
    )
    return claims


def test_openid_discovery_says_the_same(ledger: Server, trusted: ssl.SSLContext) -> None:
    with httpx.Client(verify=trusted, trust_env=False) as client:
        openid = client.get(f"{ledger.url}/.well-known/openid-configuration").json()
    metadata = discover(ledger, trusted)
    assert openid == metadata
    assert metadata["issuer"] == ledger.url
    assert metadata["token_endpoint"] == f"{ledger.url}/oauth/token"


def test_authlib_gets_a_token(ledger: Server, trusted: ssl.SSLContext) -> None:
    metadata = discover(ledger, trusted)
    method = PrivateKeyJWT(metadata["token_endpoint"], alg="ES256")
    with OAuth2Session(
        CLIENT_ID,
        ECKey.import_key(private_jwk()),
        token_endpoint_auth_method=method,
        trust_env=False,
    ) as client:
        client.trust_env, client.verify = False, str(ledger.data / "ca.pem")
        token = client.fetch_token(
            metadata["token_endpoint"], grant_type="client_credentials", resource=LEDGER
        )
    assert token["token_type"] == "Bearer"
    assert check(ledger, trusted, token["access_token"])["sub"] == CLIENT_ID


def oauth2client(server: Server, folder: Path, **options: Any) -> OAuth2Client:
    session = requests.Session()
    session.trust_env = False
    session.verify = str(server.data / "ca.pem")
    return OAuth2Client(
        token_endpoint=f"{server.url}/oauth/token",
        issuer=server.url,
        auth=PrivateKeyJwt(CLIENT_ID, private_jwk() | {"alg": "ES256", "kid": KID}),
        session=session,
        **options,
    )


def test_requests_oauth2client_gets_a_token(
    ledger: Server, trusted: ssl.SSLContext, tmp_path: Path
) -> None:
    client = oauth2client(ledger, tmp_path)
    token = client.client_credentials(scope="read", resource=LEDGER)
    assert token.scope == "read"
    assert check(ledger, trusted, str(token.access_token))["scope"] == "read"


def test_requests_oauth2client_proves_possession(
    ledger: Server, trusted: ssl.SSLContext, tmp_path: Path
) -> None:
    client = oauth2client(ledger, tmp_path)
    key = DPoPKey.generate(alg="ES256")
    token = client.client_credentials(resource=LEDGER, dpop=True, dpop_key=key)
    assert token.token_type == "DPoP"
    assert check(ledger, trusted, str(token.access_token))["cnf"]["jkt"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_shows_a_certificate(
    ledger: Server, trusted: ssl.SSLContext, programs: Any, run_program: Any
) -> None:
    selectors = programs.selectors("caller")
    ledger.register("caller", *selectors)
    identity = render_identity("caller", KEY, roles=["reader"], selectors=list(selectors))
    del identity["spec"]["client"]
    ledger.call("manifest.apply", SubmitManifests(documents=[ManifestDocument(value=identity)]))
    workload = run_program("caller", ledger.endpoint, script="workload.py")
    metadata = discover(ledger, trusted)
    endpoint = metadata["mtls_endpoint_aliases"]["token_endpoint"]
    with open_folder() as folder:
        assert "svids" in workload.ask("write", folder=str(folder))
        answer = subprocess.run(
            [
                *("curl", "-sS", "-q", "--noproxy", "*"),
                *("--cacert", str(ledger.data / "ca.pem")),
                *("--cert", str(folder / "svid.pem"), "--key", str(folder / "svid.key")),
                *("-d", "grant_type=client_credentials", "--data-urlencode", f"resource={LEDGER}"),
                endpoint,
            ],
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert answer.returncode == 0, answer.stderr
    token = json.loads(answer.stdout)
    claims = check(ledger, trusted, token["access_token"])
    assert claims["sub"] == "spiffe://troth.local/caller"
    assert claims["cnf"]["x5t#S256"]


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("body", "kind", "status", "error"),
    [
        (b"grant_type=client_credentials", "application/json", 400, "invalid_request"),
        (b"grant_type=a&grant_type=b", FORM, 400, "invalid_request"),
        (b"grant_type=password", FORM, 400, "unsupported_grant_type"),
        (b"", FORM, 400, "invalid_request"),
        (b"a" * 70_000, FORM, 413, "invalid_request"),
        (b"grant_type=client_credentials", FORM, 401, "invalid_client"),
    ],
)
def test_what_is_malformed_gets_the_standard_s_answer(
    ledger: Server, trusted: ssl.SSLContext, body: bytes, kind: str, status: int, error: str
) -> None:
    with httpx.Client(verify=trusted, trust_env=False) as client:
        answer = client.post(
            f"{ledger.url}/oauth/token", content=body, headers={"content-type": kind}
        )
    assert answer.status_code == status
    assert answer.json()["error"] == error
    assert answer.json()["error_description"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
