"""The unmodified PyPI package `spiffe` on the agent's socket."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.source import in_loop, serve_node, until
from tests.fakes.tiny_ca import TinyCa
from troth.agent.view import View
from troth.core.errors import Denied, Unavailable

spiffe = pytest.importorskip("spiffe", reason="the PyPI package 'spiffe' isn't installed")
pytestmark = pytest.mark.interop

IMPOSTOR_UID = 65_534
IMPOSTOR = """
import json, os, sys
from spiffe import WorkloadApiClient
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
with WorkloadApiClient(sys.argv[1]) as client:
    try:
        answer = str(client.fetch_x509_svid().spiffe_id)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
print(json.dumps(answer))
"""


def endpoint(node) -> str:
    return f"unix://{node.path}"


@contextmanager
def open_client(node):
    client = spiffe.WorkloadApiClient(endpoint(node))
    try:
        yield client
    finally:
        client.close()


async def use(node, work):
    """`work(client)` in a thread, as the library is synchronous."""

    def run():
        with open_client(node) as client:
            return work(client)

    return await asyncio.to_thread(run)


@in_loop
async def test_x509_svids_and_bundles(tmp_path):
    async with serve_node(tmp_path) as node:
        ca, partner = node.source.ca, TinyCa("partner.test")
        svids = (ca.issue("/web", "external"), ca.issue("/db", "internal"))
        node.source.view = View(svids, (ca.bundle(), partner.bundle()))
        context = await use(node, lambda client: client.fetch_x509_context())
        bundles = await use(node, lambda client: client.fetch_x509_bundles())
    assert [str(svid.spiffe_id) for svid in context.x509_svids] == [
        "spiffe://example.org/web",
        "spiffe://example.org/db",
    ]
    svid = context.default_svid
    assert svid.private_key.public_key() == svid.leaf.public_key()
    for name, root in (("example.org", ca.root), ("partner.test", partner.root)):
        domain = spiffe.TrustDomain(name)
        for found in (
            context.x509_bundle_set.get_bundle_for_trust_domain(domain),
            bundles.get_bundle_for_trust_domain(domain),
        ):
            assert found is not None
            assert found.x509_authorities == {root}


@in_loop
async def test_tokens(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        svid = await use(node, lambda client: client.fetch_jwt_svid({"reports"}))
        bundles = await use(node, lambda client: client.fetch_jwt_bundles())
        seen = await use(node, lambda client: client.validate_jwt_svid(svid.token, "reports"))
        assert str(seen.spiffe_id) == "spiffe://example.org/web"
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            await use(node, lambda client: client.validate_jwt_svid(svid.token, "others"))
    bundle = bundles.get_bundle_for_trust_domain(spiffe.TrustDomain("example.org"))
    assert bundle is not None
    # The library verifies the token offline with the bundle that the socket gave it.
    verified = spiffe.JwtSvid.parse_and_validate(svid.token, bundle, {"reports"})
    assert verified.spiffe_id == svid.spiffe_id


@in_loop
async def test_a_source_follows_rotation_and_an_outage(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        source = await asyncio.to_thread(
            spiffe.X509Source, socket_path=endpoint(node), timeout_in_seconds=10
        )
        changed = threading.Event()
        source.subscribe_for_updates(changed.set)

        def leaf():
            return source.get_x509_context().default_svid.leaf.serial_number

        async def news(publish):
            changed.clear()
            await publish
            assert await asyncio.to_thread(changed.wait, 10)
            return leaf()

        try:
            first = leaf()
            ca, bundles = node.source.ca, node.source.view.bundles
            second = await news(node.source.publish(View((ca.issue("/web"),), bundles)))
            assert second > first
            # The agent loses its source: the library keeps what it has and comes back by itself.
            await node.source.fail(Unavailable("Lost."))
            await until_watched(node, 0)
            assert leaf() == second
            node.source.failure = None
            changed.clear()
            node.source.view = View((ca.issue("/web"),), bundles)
            assert await asyncio.to_thread(changed.wait, 10)
            assert leaf() > second
        finally:
            await asyncio.to_thread(source.close)


async def until_watched(node, count: int) -> None:
    await until(lambda: node.source.watching == count, "the streams")


@in_loop
async def test_an_agent_that_restarts_is_found_again(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        source = await asyncio.to_thread(
            spiffe.X509Source, socket_path=endpoint(node), timeout_in_seconds=10
        )
    changed = threading.Event()
    source.subscribe_for_updates(changed.set)
    try:
        async with serve_node(tmp_path, "/web"):
            assert await asyncio.to_thread(changed.wait, 20)
    finally:
        await asyncio.to_thread(source.close)


@in_loop
async def test_a_refused_caller_reads_the_reason(tmp_path):
    async with serve_node(tmp_path, "/web") as node:
        node.source.refusal = Denied("The process changed while it was looked at.")
        with pytest.raises(Exception, match=r"changed while it was looked at\..*PERMISSION_DENIED"):
            await use(node, lambda client: client.fetch_x509_svid())


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root to start a process under another uid")
@in_loop
async def test_an_impostor_under_another_uid_gets_nothing():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # the impostor must reach the socket to be refused there
        async with serve_node(Path(folder), "/web") as node:
            node.source.strangers = {IMPOSTOR_UID}

            def impersonate(uid: int):
                done = subprocess.run(
                    [sys.executable, "-c", IMPOSTOR, endpoint(node), str(uid)],
                    capture_output=True,
                    check=True,
                    timeout=20,
                )
                return json.loads(done.stdout)

            assert await asyncio.to_thread(impersonate, 0) == "spiffe://example.org/web"
            answer = await asyncio.to_thread(impersonate, IMPOSTOR_UID)
            assert "PERMISSION_DENIED" in answer
            assert f"unix:uid:{IMPOSTOR_UID}" in answer
            assert {peer.uid for peer in node.source.peers} == {0, IMPOSTOR_UID}
