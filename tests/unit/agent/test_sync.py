from __future__ import annotations

import msgspec
import pytest

from tests.fakes.issuer import NOW
from tests.fakes.server import FakeServer, make_entry, run_node
from tests.fakes.source import in_loop
from tests.fakes.virtualtime import VirtualTime
from troth.agent.snapshot import read_snapshot
from troth.core.errors import Denied, Internal, Unavailable
from troth.identity.selectors import Selector
from troth.wire.api.nodes import StreamEnd

UID = frozenset({Selector("unix:uid", "1001")})


def snapshot(*entries, **changes):
    server = FakeServer(VirtualTime(NOW))
    server.entries = {entry.identity_id: entry for entry in entries}
    return msgspec.structs.replace(server.snapshot(), **changes)


@in_loop
async def test_the_stream_is_followed_and_heartbeats_count_as_word():
    async with run_node(make_entry("web")) as node:
        assert node.sync.measure_silence() == 0
        await node.time.advance(20)
        assert node.sync.measure_silence() == pytest.approx(20)
        node.server.heartbeat()
        await node.time.settle()
        assert node.sync.measure_silence() == 0
        assert node.sync.changes.version == 1


@in_loop
async def test_after_a_break_it_comes_back_fast_and_then_slower():
    async with run_node() as node:
        node.server.heartbeat()
        await node.time.settle()
        node.server.go_away()
        await node.time.advance(0.2)
        assert node.server.count()["node.sync"] >= 2
        await node.time.advance(3600)
        tries = node.server.count()["node.sync"]
        assert 720 <= tries <= 1500
        node.server.come_back()
        await node.time.advance(5)
        assert node.sync.measure_silence() < 5


@in_loop
async def test_the_first_word_after_a_break_or_a_silence_is_a_return():
    async with run_node() as node:
        for _ in range(3):
            await node.time.advance(9)
            node.server.heartbeat()
            await node.time.settle()
        assert node.sync.returns.version == 0
        await node.time.advance(11)
        node.server.heartbeat()
        await node.time.settle()
        assert node.sync.returns.version == 1
        node.server.go_away()
        node.server.come_back()
        await node.time.advance(1)
        assert node.sync.returns.version == 2


@in_loop
async def test_the_last_snapshot_stays_while_the_server_is_away():
    async with run_node(make_entry("web")) as node:
        node.server.go_away()
        await node.time.advance(600)
        assert node.sync.require_snapshot().registrations.keys() == {"idn_web"}


@in_loop
async def test_an_end_with_a_reason_brings_it_back():
    async with run_node() as node:
        node.server.send(StreamEnd(code="unavailable", detail="Restarting.", retryable=True))
        await node.time.advance(1)
        assert node.server.count()["node.sync"] == 2


@in_loop
async def test_a_server_that_ends_every_stream_at_once_is_not_hammered():
    async with run_node() as node:
        real = node.server.stream

        async def stream_once(name, request):
            async for message in real(name, request):
                yield message
                return

        node.server.stream = stream_once
        node.server.send(Unavailable("over"))
        await node.time.advance(600)
        assert node.server.count()["node.sync"] < 250


@in_loop
async def test_a_snapshot_that_cannot_be_used_leaves_the_one_before():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        bad = msgspec.structs.replace(node.server.snapshot(), x509_authorities=[b"\x00rubbish"])
        node.server.send(bad)
        await node.time.advance(5)
        assert node.sync.require_snapshot().registrations.keys() == {"idn_web"}
        assert not watcher.ended
        node.server.put(make_entry("late"))
        await node.settle()
        assert len(watcher.last.svids) == 2


@in_loop
async def test_a_node_that_is_evicted_serves_nobody_any_more():
    async with run_node(make_entry("web")) as node:
        watcher = node.watch()
        await node.settle()
        node.server.send(Denied("Node local was evicted; join anew."))
        node.server.failure = Denied("Node local was evicted; join anew.")
        await node.time.advance(60)
        assert watcher.last.svids == ()
        assert watcher.last.withdrawn == ("spiffe://example.org/web",)
        node.server.come_back()
        await node.time.advance(16)
        assert watcher.last.svids


@in_loop
async def test_something_unknown_on_the_stream_is_an_interruption():
    async with run_node() as node:
        node.server.send("surprise")
        await node.time.advance(1)
        assert node.server.count()["node.sync"] == 2


@in_loop
async def test_before_the_first_word_nothing_is_known():
    async with run_node() as node:
        node.sync.snapshot = None
        with pytest.raises(Unavailable, match="not heard from its server"):
            node.sync.require_snapshot()


@pytest.mark.parametrize(
    "changes",
    [
        {"spiffe_id": "https://example.org/web"},
        {"spiffe_id": "spiffe://example.org/../web"},
        {"spiffe_id": "spiffe://other.org/web"},
        {"spiffe_id": "spiffe://example.org"},
        {"selectors": ["unix:future:1"]},
        {"selectors": ["unix:uid:root"]},
        {"expires_at": NOW.replace(tzinfo=None)},
    ],
)
def test_an_entry_that_is_not_understood_is_served_to_nobody(changes):
    read = read_snapshot(snapshot(make_entry("web", **changes), make_entry("good")), None)
    assert [registration.name for registration in read.match(UID)] == ["good"]


@pytest.mark.parametrize(
    "changes",
    [
        {"trust_domain": ""},
        {"trust_domain": "Example ORG"},
        {"x509_authorities": []},
        {"x509_authorities": [b""]},
        {"x509_authorities": [b"\x30\x82\xff\xff"]},
    ],
)
def test_a_snapshot_without_sound_roots_or_domain_is_refused(changes):
    with pytest.raises(Internal):
        read_snapshot(snapshot(make_entry("web"), **changes), None)


@pytest.mark.parametrize(
    "jwks", [{}, {"keys": 7}, {"keys": [1, {"kty": "EC"}, {"kid": 3}]}, {"keys": None}]
)
def test_unusable_keys_and_lists_are_left_out(jwks):
    read = read_snapshot(snapshot(jwks=jwks, crls=[b"rubbish", b""]), None)
    assert read.jwks["keys"] == []
    assert read.bundle.crls == ()
    assert read.revoked == frozenset()


def test_an_identity_without_selectors_matches_nobody():
    read = read_snapshot(snapshot(make_entry("web", selectors=[])), None)
    assert read.match(UID) == []


def test_an_unknown_state_is_not_served():
    read = read_snapshot(snapshot(make_entry("web", state="shiny")), None)
    assert not read.registrations["idn_web"].is_servable(NOW)


def test_matching_agrees_with_comparing_every_registration():
    selectors = [f"unix:uid:{n}" for n in (1001, 1002)] + [f"unix:gid:{n}" for n in (1, 2, 3)]
    entries = [
        make_entry(f"i{a}{b}{c}", selectors[a], selectors[b], selectors[c])
        for a in range(5)
        for b in range(5)
        for c in range(5)
    ]
    read = read_snapshot(snapshot(*entries), None)
    attested = frozenset(map(Selector.parse, ("unix:uid:1001", "unix:gid:2", "unix:gid:3")))
    expected = {r.name for r in read.registrations.values() if set(r.selectors) <= attested}
    assert {r.name for r in read.match(attested)} == expected
    assert expected


def test_certificates_of_a_version_that_does_not_exist_are_refused_as_rubbish():
    issuer = FakeServer(VirtualTime(NOW)).issuer
    root = issuer.x509.certificate.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
    assert root != issuer.x509.certificate
    with pytest.raises(Internal, match="root"):
        read_snapshot(snapshot(x509_authorities=[root]), None)
