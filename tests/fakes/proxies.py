"""A ledger behind a proxy that asks troth: who is declared, the application, and who calls."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.processes import Server
from tests.fakes.clients import render_manifest
from troth.sdk.svid import SvidFollower
from troth.sdk.tls import Contexts, Pair
from troth.wire.api.manifests import ManifestDocument, SubmitManifests

HOST = "ledger.example.org"
LEDGER = f"https://{HOST}"
ROUTES = [
    {"action": "read", "path": "/entries/{id}", "methods": ["GET"]},
    {"action": "write", "path": "/entries", "methods": ["POST"]},
]
TESTS = "spiffe://troth.local/tests"
EDGE = "spiffe://troth.local/edge"


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def identity(name: str, program: Path, **spec: Any) -> dict[str, Any]:
    made = render_manifest("Identity", name, expires="30d", **spec)
    selectors = [f"unix:uid:{os.getuid()}", f"unix:path:{program.resolve()}"]
    made["spec"] |= {"kind": "service", "selectors": selectors}
    return made


def render_ledger(server: str) -> dict[str, Any]:
    return render_manifest(
        "Resource",
        "ledger",
        identifiers=[LEDGER],
        servers=[server],
        actions={"read": "See", "write": "Add"},
        hosts=[HOST],
        routes=ROUTES,
    )


def declare(troth: Server, proxy: Path) -> None:
    """The ledger, the identity of its proxy, and our own, which may read."""
    documents = [
        render_ledger("edge"),
        render_manifest(
            "Role", "reader", permissions=[{"resource": "ledger", "actions": ["read"]}]
        ),
        identity("edge", proxy),
        identity("tests", Path(sys.executable), roles=["reader"]),
    ]
    made = [ManifestDocument(value=document) for document in documents]
    troth.call("manifest.apply", SubmitManifests(documents=made))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The application: it answers with the head of the request that got through to it."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(head), head))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def make_context(pair: Pair) -> ssl.SSLContext:
    """Our own SVID, and the roots of the trust domain; a service's certificate has no host name."""
    contexts = Contexts()
    contexts.install(pair)
    return contexts.make_client(lambda der: lambda: None)


async def fetch_pair(troth: Server, spiffe_id: str) -> Pair:
    """The certificate of one of our identities, and its key."""
    with SvidFollower(troth.endpoint, spiffe_id=spiffe_id) as me:
        await asyncio.to_thread(me.wait_ready)
        assert me.pair is not None
        return me.pair


@asynccontextmanager
async def open_client(troth: Server, port: int) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the proxy on that port, who proves to be the tests."""
    context = make_context(await fetch_pair(troth, TESTS))
    url = f"https://127.0.0.1:{port}"

    async def name_server(request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = HOST

    async with httpx.AsyncClient(
        base_url=url,
        verify=context,
        trust_env=False,
        headers={"host": HOST},
        timeout=10,
        event_hooks={"request": [name_server]},
    ) as client:
        yield client


def read_head(answer: httpx.Response) -> dict[str, list[str]]:
    """The headers with which a request got through to the application."""
    found: dict[str, list[str]] = {}
    for line in answer.text.split("\r\n")[1:]:
        name, colon, value = line.partition(": ")
        if colon:
            found.setdefault(name.lower(), []).append(value)
    return found
