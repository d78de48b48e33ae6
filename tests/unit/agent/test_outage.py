"""What workloads get while the server is away, and once it is back."""

from __future__ import annotations

from tests.fakes.server import make_entry, make_process, run_node
from tests.fakes.source import in_loop
from troth.core.errors import Unavailable

WEB = "spiffe://example.org/web"


@in_loop
async def test_through_an_outage_identities_are_served_until_they_expire_and_not_beyond():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.go_away()
        await node.time.advance(3500)
        assert not watcher.ended
        newcomer = node.watch()
        await node.settle()
        assert newcomer.last.svids == watcher.last.svids
        await node.time.advance(101)
        assert watcher.ended
        assert isinstance(watcher.error, Unavailable)
        late = node.watch()
        await node.settle()
        assert not late.views
        assert isinstance(late.error, Unavailable)


@in_loop
async def test_after_an_outage_issuance_resumes_with_the_stream():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.go_away()
        await node.time.advance(3000)
        assert len(watcher.views) == 1
        node.server.come_back()
        await node.time.advance(31)
        assert len(watcher.views) == 2


@in_loop
async def test_who_kept_asking_through_a_long_outage_is_served_soon_after_it():
    async with run_node(make_entry("web")) as node:
        await node.watch().close()
        node.server.go_away()
        await node.time.advance(3700)
        for _ in range(120):
            refused = node.watch()
            await node.time.advance(1)
            assert isinstance(refused.error, Unavailable)
        node.server.come_back()
        await node.time.advance(5.6)
        waiting = node.watch()
        await node.settle()
        assert waiting.last.svids[0].spiffe_id == WEB


@in_loop
async def test_any_word_after_a_silence_has_what_failed_retried_within_half_a_second():
    async with run_node(make_entry("web")) as node:
        node.server.failure = Unavailable("The server is away.")  # and its stream hangs
        for _ in range(120):
            refused = node.watch()
            await node.time.advance(1)
            assert isinstance(refused.error, Unavailable)
        node.server.failure = None
        node.server.heartbeat()
        await node.time.settle()
        waiting = node.watch()
        await node.time.advance(0.6)
        await node.settle()
        assert not waiting.ended
        assert waiting.last.svids[0].spiffe_id == WEB


@in_loop
async def test_a_node_full_of_processes_does_not_ask_all_at_once_when_the_server_is_back():
    async with run_node(make_entry("web")) as node:
        watchers = [node.watch(make_process(number)) for number in range(1, 41)]
        await node.settle()
        node.server.go_away()
        await node.time.advance(2100)  # all are due at half of an hour
        calls = node.server.count()["certificate.issue"]
        node.server.come_back()
        while node.sync.measure_silence() > 1:
            await node.time.advance(0.05)
        requests = node.server.requests("certificate.issue")[calls:]
        assert sum(len(request.requests) for request in requests) < 20
        await node.time.advance(0.6)
        await node.settle()
        assert all(len(watcher.views) == 2 for watcher in watchers)
