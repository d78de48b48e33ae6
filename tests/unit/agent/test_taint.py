"""What a tainted authority signed is replaced at once, and served until then."""

from __future__ import annotations

import asyncio

from cryptography import x509

from tests.fakes.server import make_entry, make_process, run_node
from tests.fakes.source import in_loop
from tests.unit.agent.test_node import Site, stop
from troth.agent.tokens import Tokens
from troth.core.errors import Unavailable
from troth.issuance.der import identify_key, read_signer


def find_signer(view):
    return read_signer(x509.load_der_x509_certificate(view.svids[0].chain[0]))


def name_root(server):
    return identify_key(server.issuer.x509.public_key).hex()


@in_loop
async def test_a_stream_gets_a_new_certificate_at_once():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        assert find_signer(watcher.last) == name_root(node.server)
        node.server.taint()
        await node.settle()
        assert find_signer(watcher.last) == name_root(node.server)
        assert all(view.svids for view in watcher.views)
        issued = node.server.count()["certificate.issue"]
        node.server.publish()
        await node.settle()
        assert node.server.count()["certificate.issue"] == issued == 2


@in_loop
async def test_the_old_one_is_served_while_the_server_is_away():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        old = find_signer(watcher.last)
        node.server.failure = Unavailable("away")
        node.server.taint()
        await node.time.advance(5)
        assert find_signer(watcher.last) == old
        node.server.come_back()
        await node.time.advance(60)
        assert find_signer(watcher.last) == name_root(node.server)


@in_loop
async def test_a_server_that_goes_on_with_the_tainted_key_is_not_asked_without_a_pause():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.tainted = [name_root(node.server)]
        node.server.publish()
        await node.time.advance(10)
        assert watcher.last.svids
        assert 2 < node.server.count()["certificate.issue"] < 40


@in_loop
async def test_what_nobody_watches_is_forgotten_and_not_shown_again():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        await watcher.close()
        node.server.taint()
        await node.settle()
        assert node.server.count()["certificate.issue"] == 1
        again = node.watch()
        await node.settle()
        assert [find_signer(view) for view in again.views] == [name_root(node.server)]


@in_loop
async def test_a_kept_token_is_replaced_and_serves_while_that_fails():
    async with run_node(make_entry("web")) as node:
        tokens = Tokens(node.jwt_svids, node.time.clock, node.entropy)
        process = make_process()
        workload = node.cache.admit(process, 0.0)

        async def ask() -> str:
            snapshot = node.sync.require_snapshot()
            (registration,) = snapshot.registrations.values()
            return (await tokens.issue(workload, registration, ("ledger",), snapshot)).token

        first = await ask()
        assert await ask() == first
        node.server.taint()
        await node.settle()
        node.server.failure = Unavailable("away")
        assert await ask() == first
        node.server.come_back()
        second = await ask()
        assert second != first
        assert await ask() == second


@in_loop
async def test_the_node_renews_its_own_certificate_at_once(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch)
    task = await site.start()
    line = site.lines[-1]
    site.server.taint()
    await site.time.settle()
    await asyncio.sleep(0)
    signers = [credential.signer for credential in line.used]
    assert signers[-1] == name_root(site.server)
    assert site.server.count()["node.renew"] == 1
    site.server.publish()
    await site.time.settle()
    assert site.server.count()["node.renew"] == 1
    await stop(task)
