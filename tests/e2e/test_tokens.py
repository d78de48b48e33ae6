"""Access tokens from a real server to a protected resource, as the how-to has them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.processes import Server, run_troth, wait_for
from tests.fakes.clients import render_manifest
from troth.sdk.client import OAuthClient
from troth.sdk.credential import JwtCredential, X509Credential, thumbprint
from troth.sdk.errors import OAuthError
from troth.sdk.guard import PeerGuard
from troth.sdk.httpx import TokenAuth
from troth.sdk.issuer import Issuer
from troth.sdk.tokens import TokenSource
from troth.sdk.workload import WorkloadApi
from troth.wire.api.manifests import ManifestDocument, SubmitManifests

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "python-tokens.md"
LEDGER = "https://ledger.example.org"
OWNER = {"owner": "team-tests", "purpose": "shows what troth does"}


def read_programs() -> dict[str, Any]:
    """What the how-to defines."""
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, str(PAGE), "exec"), found)
    return found


def declare(troth: Server, name: str, roles: list[str], *selectors: str) -> None:
    spec = {**OWNER, "kind": "service", "selectors": list(selectors), "roles": roles}
    documents = [
        render_manifest(
            "Resource",
            "ledger",
            identifiers=[LEDGER],
            servers=[],
            actions={"read": "See entries", "write": "Add entries"},
        ),
        render_manifest(
            "Role", "reader", permissions=[{"resource": "ledger", "actions": ["read"]}]
        ),
        {
            "apiVersion": "troth/v1",
            "kind": "Identity",
            "metadata": {"name": name},
            "spec": {**spec, "expires": "30d"},
        },
    ]
    troth.call(
        "manifest.apply", SubmitManifests(documents=[ManifestDocument(value=d) for d in documents])
    )


@pytest.fixture(scope="module")
def guard(troth: Server) -> Iterator[PeerGuard]:
    uid = f"unix:uid:{os.getuid()}"
    declare(troth, "tests", ["reader"], uid, f"unix:path:{Path(sys.executable).resolve()}")
    with PeerGuard([troth.mutual], troth.endpoint) as made:
        made.wait_ready()
        yield made


def ask(app: Callable[..., Any], certificate: bytes | None, auth: httpx.Auth, method: str) -> int:
    """Send a request with a token straight into the application, with a peer's certificate."""

    async def show(scope: Any, receive: Any, send: Any) -> None:
        pems = [] if certificate is None else [ssl.DER_cert_to_PEM_cert(certificate)]
        await app({**scope, "extensions": {"tls": {"client_cert_chain": pems}}}, receive, send)

    async def work() -> int:
        transport = httpx.ASGITransport(app=show)
        async with httpx.AsyncClient(transport=transport, base_url=LEDGER, auth=auth) as client:
            return (await client.request(method, "/entries")).status_code

    return asyncio.run(work())


def test_a_token_opens_what_its_roles_permit_until_its_identity_is_cut_off(
    troth: Server, guard: PeerGuard
) -> None:
    how_to = read_programs()
    token = how_to["read_entries"](troth.endpoint, troth.url, LEDGER)
    assert token.scopes == {"read"}
    assert guard.pair is not None
    mine = guard.pair.chain[0]
    app = how_to["protect"](guard, troth.url, LEDGER)
    source = TokenSource(OAuthClient(Issuer(troth.url, guard), X509Credential(guard)))
    auth = TokenAuth(source, LEDGER)
    assert source.fetch(LEDGER).tag == thumbprint(mine)
    assert ask(app, mine, auth, "GET") == 200
    assert ask(app, mine, auth, "POST") == 403
    assert ask(app, None, auth, "GET") == 401
    jwt = JwtCredential(WorkloadApi(troth.endpoint))
    unbound = TokenSource(OAuthClient(Issuer(troth.url, guard), jwt))
    assert unbound.fetch(LEDGER).tag == ""
    assert ask(app, None, TokenAuth(unbound, LEDGER), "GET") == 200
    with pytest.raises(OAuthError) as caught:
        source.fetch("https://nowhere.example")
    assert caught.value.error == "invalid_target"


def test_the_command_line_does_the_same(troth: Server, guard: PeerGuard) -> None:
    made = run_troth(
        *("--data", troth.data, "--url", troth.url, "token", "request"),
        *("--resource", LEDGER, "--json"),
    )
    assert made.returncode == 0, made.stderr
    answer = json.loads(made.stdout)
    assert answer["scope"] == "read"
    script = 'test -s "$TROTH_TOKEN_FILE" && test -s "$TROTH_SVID_FILE" && exit 5'
    ran = run_troth(
        *("--data", troth.data, "--url", troth.url, "run", "--resource", LEDGER),
        *("--", "sh", "-c", script),
    )
    assert ran.returncode == 5, ran.stderr


def test_quarantine_closes_the_resource_at_once(troth: Server, guard: PeerGuard) -> None:
    app = read_programs()["protect"](guard, troth.url, LEDGER)
    jwt = JwtCredential(WorkloadApi(troth.endpoint))
    auth = TokenAuth(TokenSource(OAuthClient(Issuer(troth.url, guard), jwt)), LEDGER)
    assert ask(app, None, auth, "GET") == 200
    troth.move("tests", "quarantine")
    # Its own guard is told nothing any more either: 401 first, 503 after the lease.
    wait_for(lambda: _is_closed(app, auth), "the resource is closed")


def _is_closed(app: Callable[..., Any], auth: httpx.Auth) -> bool:
    try:
        return ask(app, None, auth, "GET") != 200
    except OAuthError:  # the token was refused, and no other is given
        return True
