from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from spiffe._proto import workload_pb2 as pb

from tests.fakes.callers import call_once, open_channel
from tests.fakes.issuer import NOW, FakeIssuer
from tests.fakes.server import FakeServer, make_entry
from tests.fakes.source import in_loop, until
from tests.fakes.virtualtime import VirtualTime
from troth.agent import node as module
from troth.agent.credential import CredentialFile
from troth.agent.files import FileTarget
from troth.agent.membership import NotJoined
from troth.agent.node import AgentSettings, NodeAgent, derive_mtls_url
from troth.core.entropy import SeededEntropy
from troth.core.errors import Conflict, Denied, Invalid, Refused

FETCH = "/SpiffeWorkloadAPI/FetchX509SVID"
MINE = f"unix:uid:{os.getuid()}"


class Line:
    """A connection to the fake server that remembers how it was used."""

    def __init__(self, server, url, roots, credential=None):
        self.server, self.url, self.roots, self.credential = server, url, roots, credential
        self.call, self.stream = server.call, server.stream
        self.used = []
        self.closed = False

    def use(self, credential):
        self.used.append(credential)

    async def close(self):
        self.closed = True


class Site:
    """A machine with an agent on it."""

    def __init__(self, folder, monkeypatch):
        self.time = VirtualTime(NOW)
        self.server: Any = FakeServer(self.time)
        self.lines: list[Line] = []
        self.ready = asyncio.Event()
        self.socket = folder / "agent.sock"
        ca = folder / "ca.pem"
        root = x509.load_der_x509_certificate(self.server.issuer.x509.certificate)
        ca.write_bytes(root.public_bytes(Encoding.PEM))
        self.settings = {
            "server_url": "https://troth.example.org:8443",
            "ca_file": ca,
            "data_dir": folder / "agent",
            "socket_path": self.socket,
            "join_token": "good-token",
            "attestors": ("unix",),
        }

        def connect(*args):
            self.lines.append(Line(self.server, *args[:3]))  # no tracer
            return self.lines[-1]

        monkeypatch.setattr(module, "Connection", connect)

    def run(self, **changes):
        settings = AgentSettings(**(self.settings | changes))
        return NodeAgent().run(
            settings, self.time.clock, SeededEntropy(), self.ready.set, self.time.sleep
        )

    async def start(self, **changes):
        task = asyncio.ensure_future(self.run(**changes))
        await until(lambda: self.ready.is_set() or task.done(), "being ready")
        return task


async def stop(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def fetch(site):
    async with open_channel(site.socket) as channel:
        task = asyncio.ensure_future(call_once(channel, FETCH, b""))
        while not task.done():
            await site.time.advance(0.001)
            await asyncio.to_thread(os.sched_yield)
        return pb.X509SVIDResponse.FromString(await task)


@in_loop
async def test_it_joins_serves_this_process_and_leaves_nothing_behind(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch)
    site.server.entries["idn_web"] = make_entry("web", MINE)
    before = len(os.listdir("/proc/self/fd"))
    task = await site.start()
    lock = (tmp_path / "agent" / "agent.lock").read_text()
    assert lock == f"{os.getpid()}\nhttps://troth.example.org:8444\n"
    reply = await fetch(site)
    assert [svid.spiffe_id for svid in reply.svids] == ["spiffe://example.org/web"]
    await stop(task)
    assert not site.socket.exists()
    assert all(line.closed for line in site.lines)
    assert [line.url for line in site.lines] == [
        "https://troth.example.org:8443",
        "https://troth.example.org:8444",
    ]
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [other for other in others if "agent" in repr(other.get_coro())]


@in_loop
async def test_after_a_restart_it_needs_no_token(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch)
    await stop(await site.start())
    site.ready.clear()
    await stop(await site.start(join_token=None))
    assert site.server.count()["node.attest"] == 1


@in_loop
async def test_its_certificate_and_roots_are_renewed_on_the_connection(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch)
    task = await site.start()
    line = site.lines[-1]
    await site.time.advance(1990)
    assert len(line.used) == 1
    assert line.used[0].key != line.credential.key
    other = FakeIssuer(seed=5).x509.certificate
    real = site.server.snapshot

    def with_another_root():

        value = real()
        return msgspec.structs.replace(value, x509_authorities=[*value.x509_authorities, other])

    site.server.snapshot = with_another_root
    site.server.publish()
    await site.time.settle()
    assert other in line.used[-1].roots
    assert len(line.used) == 2
    site.server.publish()
    await site.time.settle()
    assert len(line.used) == 2
    await stop(task)


@in_loop
async def test_a_full_disk_at_renewal_doesn_t_end_the_agent(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch)
    task = await site.start()
    kept = (tmp_path / "agent" / "node.json").read_bytes()

    def fail(file, credential):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(CredentialFile, "save", fail)
        await site.time.advance(1990)
        assert len(site.lines[-1].used) == 1
        assert not task.done()
        assert (tmp_path / "agent" / "node.json").read_bytes() == kept
    await site.time.advance(61)
    assert CredentialFile(tmp_path / "agent").load() == site.lines[-1].used[0]
    await stop(task)


@in_loop
async def test_an_evicted_node_serves_nobody_and_says_why(tmp_path, monkeypatch, capsys):
    site = Site(tmp_path, monkeypatch)
    site.server.entries["idn_web"] = make_entry("web", MINE)
    task = await site.start()
    assert (await fetch(site)).svids
    site.server.failure = Denied("Node local was evicted; join anew.")
    site.server.send(site.server.failure)
    await site.time.advance(1)
    with pytest.raises(GRPCError) as caught:
        await fetch(site)
    assert caught.value.status is Status.PERMISSION_DENIED
    told = capsys.readouterr().out
    assert "sync.cut_off" in told
    assert "Node local was evicted; join anew." in told
    assert not task.done()
    await stop(task)


@in_loop
async def test_two_agents_cannot_share_a_directory(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch)
    task = await site.start()
    with pytest.raises(Conflict, match="Another agent uses"):
        await site.run(socket_path=tmp_path / "other.sock")
    await stop(task)


@in_loop
async def test_a_directory_that_others_can_read_is_refused(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch)
    (tmp_path / "agent").mkdir(mode=0o755)
    with pytest.raises(Refused, match="chmod 700"):
        await site.run()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"server_url": "http://troth:8443"}, Invalid, "https://host:8443"),
        ({"mtls_url": "troth:8444"}, Invalid, "https://host:8443"),
        ({"join_token": None}, NotJoined, "troth token join"),
        ({"join_token": "bad"}, NotJoined, "refused the join token"),
        ({"attestors": ("magic",)}, Invalid, "no workload attestor"),
    ],
)
@in_loop
async def test_what_cannot_work_ends_with_a_sentence(tmp_path, monkeypatch, changes, error, words):
    site = Site(tmp_path, monkeypatch)
    with pytest.raises(error, match=words):
        await site.run(**changes)
    assert not site.socket.exists()
    assert site.server.tokens == {"good-token"}


@in_loop
async def test_bad_file_targets_are_refused_before_joining(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch)
    target = FileTarget("web", tmp_path / "tls", os.getuid(), os.getgid(), mode=0o644)
    with pytest.raises(Invalid, match="0600 or 0640"):
        await site.run(files=(target,))
    assert not site.lines


def test_the_token_is_not_shown(tmp_path, monkeypatch):
    site = Site(tmp_path, monkeypatch)
    assert "good-token" not in repr(AgentSettings(**site.settings))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://localhost:8443", "https://localhost:8444"),
        ("https://localhost:8443/", "https://localhost:8444"),
        ("https://[::1]:8443", "https://[::1]:8444"),
        ("https://troth.example.org", "https://troth.example.org:444"),
    ],
)
def test_the_mutual_tls_listener_is_one_port_above(url, expected):
    assert derive_mtls_url(url) == expected


def test_there_is_no_port_above_the_last():
    with pytest.raises(Invalid, match="mutual-TLS URL"):
        derive_mtls_url("https://h:65535")
