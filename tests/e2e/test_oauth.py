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
from requests_oauth2client import (
    ClientSecretBasic,
    DPoPKey,
    InvalidClient,
    OAuth2Client,
    PrivateKeyJwt,
)

from tests.e2e.processes import Server, open_folder, run_troth, wait_for
from tests.fakes.certificates import Made, make_certificate
from tests.fakes.clients import LEDGER, LEDGER_MANIFESTS, render_identity
from tests.fakes.issuer import make_private_key
from troth.core.jose.jwk import encode_base64url, render_key, thumbprint_jwk
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.manifests import ManifestDocument, SubmitManifests

pytestmark = [pytest.mark.e2e, pytest.mark.interop]

KEY = make_private_key(41)
KID = thumbprint_jwk(render_key(KEY.public_key()))
CLIENT_ID = "spiffe://troth.local/billing"


ADMIN_ID = "spiffe://troth.local/boss"


@pytest.fixture(scope="module")
def settings() -> str:
    return f"""
[oauth]
client_secrets = true

[roles.spiffe_ids]
"{ADMIN_ID}" = "admin"
"""


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


def register(server: Server, name: str, *certificates: str) -> str:
    """An identity that is known by these certificates; its SPIFFE ID."""
    client = {"certificates": list(certificates)}
    identity = render_identity(name, KEY, roles=["clerk"], client=client)
    server.call("manifest.apply", SubmitManifests(documents=[ManifestDocument(value=identity)]))
    return f"spiffe://troth.local/{name}"


def connect(server: Server, pair: tuple[str, str]) -> httpx.Client:
    """A client of the mutual-TLS listener that shows this certificate."""
    context = ssl.create_default_context(cafile=str(server.data / "ca.pem"))
    context.load_cert_chain(*pair)
    return httpx.Client(verify=context, trust_env=False, base_url=server.mutual)


def ask(client: httpx.Client, client_id: str) -> httpx.Response | None:
    """An answer of the token endpoint; None if TLS let nobody in."""
    form = {"grant_type": "client_credentials", "resource": LEDGER, "client_id": client_id}
    try:
        return client.post("/oauth/token", data=form)
    except httpx.TransportError:
        return None


def ask_until_let_in(server: Server, pair: tuple[str, str], client_id: str) -> httpx.Response:
    """As `ask`, once the listener has learned of the certificate."""

    def look() -> httpx.Response | None:
        with connect(server, pair) as client:
            return ask(client, client_id)

    return wait_for(look, "the listener learns of a registered certificate")


@pytest.mark.skipif(not all(map(shutil.which, ("curl", "openssl"))), reason="no curl or openssl")
def test_curl_shows_a_self_signed_certificate_as_openssl_makes_it(
    ledger: Server, trusted: ssl.SSLContext, tmp_path: Path
) -> None:
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -subj /CN=old"
    files = ["-out", str(cert), "-keyout", str(key)]
    subprocess.run(["openssl", *command.split(), *files], check=True, capture_output=True)
    client_id = register(ledger, "openssl", cert.read_text())
    ask_until_let_in(ledger, (str(cert), str(key)), client_id)
    metadata = discover(ledger, trusted)
    assert "self_signed_tls_client_auth" in metadata["token_endpoint_auth_methods_supported"]
    answer = subprocess.run(
        [
            *("curl", "-sS", "-q", "--noproxy", "*"),
            *("--cacert", str(ledger.data / "ca.pem"), "--cert", str(cert), "--key", str(key)),
            *("-d", "grant_type=client_credentials", "--data-urlencode", f"resource={LEDGER}"),
            *("--data-urlencode", f"client_id={client_id}"),
            metadata["mtls_endpoint_aliases"]["token_endpoint"],
        ],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert answer.returncode == 0, answer.stderr
    claims = check(ledger, trusted, json.loads(answer.stdout)["access_token"])
    assert claims["sub"] == client_id
    assert claims["cnf"]["x5t#S256"]


NODE_ID = "spiffe://troth.local/troth/node/local"


@pytest.mark.parametrize("name", [ADMIN_ID, NODE_ID, CLIENT_ID])
@pytest.mark.parametrize("kind", ["self-signed", "leaf"])
def test_a_registered_certificate_opens_nothing_but_the_oauth_endpoints(
    ledger: Server, tmp_path: Path, kind: str, name: str
) -> None:
    ca = make_certificate("mine", ca=True, names=[name])
    client_id = register(ledger, "attacker", ca.pem)
    assert ask_until_let_in(ledger, ca.write(tmp_path), client_id).status_code == 200
    if kind == "leaf":
        shown = make_certificate("x", issuer=ca, names=[name])
        pair = shown.write(tmp_path, ca)
    else:
        pair = ca.write(tmp_path)
    calls: list[tuple[str, str, Any]] = [
        ("GET", "/v1/status", None),
        ("GET", "/v1/identities", None),
        ("POST", "/v1/nodes/sync", {}),
        ("GET", "/v1/nodes/sync", None),
        ("POST", "/v1/nodes/renew", {"csr": ""}),
        ("POST", "/v1/certificates/issue", {"requests": []}),
        ("POST", "/v1/devices/renew", {"csr": ""}),
        ("GET", "/v1/journal/tail", None),
        ("GET", "/v1/revocations/follow", None),
    ]
    with connect(ledger, pair) as client:
        for method, path, body in calls:
            answer = client.request(method, path, json=body)
            assert answer.status_code in (401, 404, 405), (path, answer.text)
        assert client.get("/v1/status").json()["code"] == "unauthenticated"
        # Nor does it prove the name that stands in it, or, a leaf, what its issuer proves.
        for claimed in (name, client_id) if kind == "leaf" else (name,):
            refusal = ask(client, claimed)
            assert refusal is not None
            assert (refusal.status_code, refusal.json()["error"]) == (401, "invalid_client")


def test_the_listener_forgets_certificates_and_tells_the_suspended(
    ledger: Server, tmp_path: Path
) -> None:
    old, new = (make_certificate("rotating", bare=True) for _ in range(2))
    client_id = register(ledger, "rotating", old.pem, new.pem)
    pairs = [made.write(tmp_path) for made in (old, new)]
    for pair in pairs:
        assert ask_until_let_in(ledger, pair, client_id).status_code == 200
    register(ledger, "rotating", new.pem)

    def is_out(made: Made) -> bool:
        with connect(ledger, made.write(tmp_path)) as client:
            return ask(client, client_id) is None

    wait_for(lambda: is_out(old), "the listener forgets a certificate")
    assert ask_until_let_in(ledger, pairs[1], client_id).status_code == 200
    ledger.call("identity.suspend", MoveIdentity(name="rotating", reason="test"))

    def is_refused() -> bool:
        return ask_until_let_in(ledger, pairs[1], client_id).status_code == 401

    wait_for(is_refused, "a suspended client is refused")


def make_secret(server: Server, name: str) -> dict[str, Any]:
    done = run_troth("--data", server.data, "client-secret", "create", name, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_old_programs_use_a_secret_until_it_is_revoked(
    ledger: Server, trusted: ssl.SSLContext
) -> None:
    client_id = register(ledger, "old-program")
    made = make_secret(ledger, "old-program")
    metadata = discover(ledger, trusted)
    assert "client_secret_basic" in metadata["token_endpoint_auth_methods_supported"]
    session = requests.Session()
    session.trust_env, session.verify = False, str(ledger.data / "ca.pem")
    client = OAuth2Client(
        token_endpoint=metadata["token_endpoint"],
        auth=ClientSecretBasic(client_id, made["secret"]),
        session=session,
    )
    token = client.client_credentials(resource=LEDGER)
    assert check(ledger, trusted, str(token.access_token))["sub"] == client_id
    with OAuth2Session(client_id, made["secret"], trust_env=False) as old:
        old.trust_env, old.verify = False, str(ledger.data / "ca.pem")
        got = old.fetch_token(
            metadata["token_endpoint"], grant_type="client_credentials", resource=LEDGER
        )
    assert check(ledger, trusted, got["access_token"])["sub"] == client_id
    doctor = run_troth("--data", ledger.data, "doctor", "--no-agent")
    assert made["id"] in doctor.stdout
    assert made["secret"] not in doctor.stdout + ledger.daemon.log
    done = run_troth(
        *("--data", ledger.data, "client-secret", "revoke", made["id"], "--reason", "test")
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(InvalidClient):
        client.client_credentials(resource=LEDGER)


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !", "Basic YTpi", "basic YTpi", "Basic " + "A" * 20_000]
)
def test_who_used_the_authorization_header_is_answered_with_its_scheme(
    ledger: Server, trusted: ssl.SSLContext, header: str
) -> None:
    with httpx.Client(verify=trusted, trust_env=False) as client:
        answer = client.post(
            f"{ledger.url}/oauth/token",
            data={"grant_type": "client_credentials"},
            headers={"authorization": header},
        )
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith("Basic ")
