from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from tests.fakes.issuer import FakeIssuer
from tests.fakes.server import make_entry
from tests.fakes.source import in_loop
from troth.agent import connection as module
from troth.agent.connection import Connection, Unreachable, Untrusted, check_url
from troth.agent.credential import compose_credential, generate_key, make_csr
from troth.core.errors import Denied, Internal, Invalid, Unavailable
from troth.core.ids import SpiffeId
from troth.issuance.csr import parse_csr
from troth.wire.api.nodes import Heartbeat, NodeSnapshot, ReportWorkloads, SyncNode
from troth.wire.api.problems import Problem

NOW = datetime.now(UTC)
NODE = "/troth/node/local"
SERVER = "/troth/server"
REPORT = ReportWorkloads()


def issue(issuer, path, key, dns=("localhost",)):
    plan = issuer.plan(
        spiffe_id=SpiffeId.of(issuer.trust_domain, path),
        public_key=parse_csr(make_csr(key)),
        dns_names=list(dns),
        ttl=timedelta(hours=1),
        now=NOW,
    )
    return issuer.issue(plan)


def make_credential(issuer, path=NODE):
    key = generate_key()
    return compose_credential(
        node_id="nod_1",
        spiffe_id=str(SpiffeId.of(issuer.trust_domain, path)),
        key=key,
        chain=(issue(issuer, path, key, dns=()),),
        roots=(issuer.x509.certificate,),
    )


def server_context(folder, issuer, path=SERVER, mutual=True, dns=("localhost",)):
    key = generate_key()
    pem = x509.load_der_x509_certificate(issue(issuer, path, key, dns)).public_bytes(Encoding.PEM)
    private = load_der_private_key(key, None)
    pem += private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "server.pem"
    file.write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=issuer.x509.certificate)
    return context


class Listener:
    """Answers each request with the next bytes of `answers`; the last one stays."""

    def __init__(self):
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self.peers: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.url = ""
        self.arrived = asyncio.Event()

    async def serve(self, reader, writer):
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [
                    h for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")
                ]
                size = int(length[0].split(b":")[1]) if length else 0
                self.requests.append(head + await reader.readexactly(size))
                self.arrived.set()
                ssl_object = writer.get_extra_info("ssl_object")
                self.peers.append(ssl_object.getpeercert(True) or b"")
                writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listen(context):
    listener = Listener()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0, ssl=context)
    listener.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    try:
        yield listener
    finally:
        server.close()
        for writer in listener.writers:
            writer.transport.abort()
        await asyncio.sleep(0)


def http(status, body, kind="application/json", length=None):
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {size}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def connected(tmp_path, answer, issuer=None, credential=None):
    issuer = issuer or FakeIssuer(now=NOW)
    credential = credential or make_credential(issuer)
    async with listen(server_context(tmp_path, issuer)) as listener:
        listener.answers = [answer]
        connection = Connection(listener.url, credential.roots, credential)
        try:
            yield listener, connection
        finally:
            await connection.close()


@in_loop
async def test_a_call_goes_over_mutual_tls_and_comes_back_typed(tmp_path):
    async with connected(tmp_path, http(200, b"{}")) as (listener, connection):
        await connection.call("node.report", REPORT)
        assert listener.requests[0].startswith(b"POST /v1/nodes/report HTTP/1.1")
        leaf = x509.load_der_x509_certificate(listener.peers[0])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.UniformResourceIdentifier)
        assert found == ["spiffe://example.org/troth/node/local"]


@in_loop
async def test_the_key_is_in_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with connected(tmp_path, http(200, b"{}")) as (_, connection):
        await connection.call("node.report", REPORT)
    assert [path.name for path in tmp_path.iterdir()] == ["server.pem"]


@in_loop
async def test_refusals_and_rubbish_become_errors(tmp_path):
    problem = msgspec.json.encode(Problem(code="permission_denied", detail="Not you."))
    async with connected(tmp_path, http(403, problem)) as (listener, connection):
        with pytest.raises(Denied, match="Not you"):
            await connection.call("node.report", REPORT)
        listener.answers = [http(200, b"[]")]
        with pytest.raises(Internal):
            await connection.call("node.report", REPORT)
        listener.answers = [http(502, b"<html>")]
        with pytest.raises(Internal, match="502"):
            await connection.call("node.report", REPORT)
        listener.answers = [b"not http at all\r\n\r\n"]
        with pytest.raises(Unavailable):
            await connection.call("node.report", REPORT)
        listener.answers = [http(307, b"", length=0)]
        with pytest.raises(Internal):
            await connection.call("node.report", REPORT)


@in_loop
async def test_an_answer_without_end_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_ANSWER", 1000)
    async with connected(tmp_path, http(200, b" " * 2000)) as (_, connection):
        with pytest.raises(Internal, match="larger than 1000"):
            await connection.call("node.report", REPORT)


@in_loop
async def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", 0.05)
    async with connected(tmp_path, b"HTTP/1.1 200 OK\r\n") as (_, connection):
        with pytest.raises(Unavailable, match="stopped answering"):
            await connection.call("node.report", REPORT)


@in_loop
async def test_a_server_that_is_not_there(tmp_path):
    issuer = FakeIssuer(now=NOW)
    async with listen(server_context(tmp_path, issuer)) as listener:
        url = listener.url
    connection = Connection(url, (issuer.x509.certificate,))
    with pytest.raises(Unreachable, match="can't be reached"):
        await connection.call("node.report", REPORT)
    await connection.close()


@in_loop
async def test_another_authority_is_not_trusted(tmp_path):
    ours, theirs = FakeIssuer(seed=1, now=NOW), FakeIssuer(seed=2, now=NOW)
    async with listen(server_context(tmp_path, theirs, mutual=False)) as listener:
        listener.answers = [http(200, b"{}")]
        connection = Connection(listener.url, (ours.x509.certificate,))
        with pytest.raises(Untrusted, match="pinned roots"):
            await connection.call("node.report", REPORT)
        await connection.close()
        assert not listener.requests


@pytest.mark.parametrize("path", ["/web", "/troth/server/web", "/troth/node/local"])
@pytest.mark.parametrize("joined", [True, False])
@in_loop
async def test_a_workload_with_the_right_host_name_is_not_the_server(tmp_path, path, joined):
    issuer = FakeIssuer(now=NOW)
    credential = make_credential(issuer) if joined else None
    async with listen(server_context(tmp_path, issuer, path=path, mutual=False)) as listener:
        listener.answers = [http(200, b"{}")]
        connection = Connection(listener.url, (issuer.x509.certificate,), credential)
        with pytest.raises(Untrusted, match="not the certificate of a troth server"):
            await connection.call("node.report", REPORT)
        await connection.close()
        assert not listener.requests


@in_loop
async def test_a_server_certificate_for_another_host_is_refused(tmp_path):
    issuer = FakeIssuer(now=NOW)
    context = server_context(tmp_path, issuer, mutual=False, dns=("elsewhere.example.org",))
    async with listen(context) as listener:
        connection = Connection(listener.url, (issuer.x509.certificate,))
        with pytest.raises(Untrusted, match="localhost"):
            await connection.call("node.report", REPORT)
        await connection.close()


def render_lines(*messages, head=b""):
    lines = b"".join(msgspec.json.encode(message) + b"\n" for message in messages)
    return http(200, head + lines, "application/jsonl", length=100_000_000)


def make_snapshot():
    return NodeSnapshot(
        epoch=7,
        lease=60,
        trust_domain="example.org",
        entries=[make_entry("web")],
        locked=[],
        x509_authorities=[b"\x00"],
        crls=[],
        jwks={},
    )


@in_loop
async def test_a_stream_brings_typed_lines_while_it_is_open(tmp_path):
    answer = render_lines(make_snapshot(), Heartbeat(epoch=8), head=b"\n")
    async with connected(tmp_path, answer) as (_, connection):
        stream = connection.stream("node.sync", SyncNode())
        assert await anext(stream) == make_snapshot()
        assert await anext(stream) == Heartbeat(epoch=8)
        await stream.aclose()


@pytest.mark.parametrize(
    "line",
    [
        b"rubbish\n",
        b"{}\n",
        b'{"message":"snapshot","epoch":"x"}\n',
        b'{"message":"other"}\n',
        b"[" * 100_000 + b"\n",
        b'{"message":"heartbeat","epoch":' + b"9" * 10_000 + b"}\n",
    ],
)
@in_loop
async def test_a_line_that_is_not_understood_ends_the_stream(tmp_path, line):
    async with connected(tmp_path, render_lines(head=line)) as (_, connection):
        with pytest.raises(Internal, match="not understood"):
            await anext(connection.stream("node.sync", SyncNode()))


@in_loop
async def test_a_line_without_end_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_LINE", 1000)
    async with connected(tmp_path, render_lines(head=b"x" * 2000)) as (_, connection):
        with pytest.raises(Internal, match="longer than 1000"):
            await anext(connection.stream("node.sync", SyncNode()))


@in_loop
async def test_a_refused_stream_says_why(tmp_path):
    problem = msgspec.json.encode(Problem(code="unavailable", detail="Starting."))
    async with connected(tmp_path, http(503, problem)) as (_, connection):
        with pytest.raises(Unavailable, match="Starting"):
            await anext(connection.stream("node.sync", SyncNode()))


@in_loop
async def test_a_new_credential_is_used_at_once_and_ends_the_old_stream(tmp_path):
    issuer = FakeIssuer(now=NOW)
    lines = render_lines(make_snapshot(), Heartbeat(epoch=8))
    async with connected(tmp_path, lines, issuer) as (listener, connection):
        stream = connection.stream("node.sync", SyncNode())
        await anext(stream)
        fresh = make_credential(issuer)
        connection.use(fresh)
        with pytest.raises(Unavailable, match="credential changed"):
            await anext(stream)
        listener.answers = [http(200, b"{}")]
        await connection.call("node.report", REPORT)
        assert listener.peers[-1] == fresh.chain[0] != listener.peers[0]


@in_loop
async def test_a_call_under_way_finishes_on_the_old_credential(tmp_path):
    issuer = FakeIssuer(now=NOW)
    async with connected(tmp_path, b"HTTP/1.1 200 OK\r\n", issuer) as (listener, connection):
        call = asyncio.ensure_future(connection.call("node.report", REPORT))
        await listener.arrived.wait()
        connection.use(make_credential(issuer))
        listener.writers[0].write(b"content-length: 2\r\n\r\n{}")
        await call


@pytest.mark.parametrize(
    "url",
    ["", "http://localhost:1", "localhost:8443", "https://", "https://h:0", "https://h:99999",
     "https://h/path", "https://h?x", "https://u:p@h", "https://[::1", "file:///etc/passwd"],
)  # fmt: skip
def test_only_plain_https_urls_are_accepted(url):
    with pytest.raises(Invalid, match="https://host:8443"):
        check_url(url)


def test_urls_lose_their_last_slash():
    assert check_url("https://[::1]:8443/") == "https://[::1]:8443"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("0", 0.0), ("99999", 60.0), ("-1", None), ("soon", None), ("1e9", None)],
)
@in_loop
async def test_when_the_server_wants_us_back_is_heard_within_bounds(tmp_path, header, seconds):
    problem = msgspec.json.encode(Problem(status=503, detail="Busy.", code="unavailable"))
    answer = http(503, problem, "application/problem+json")
    answer = answer.replace(b"\r\n\r\n", f"\r\nretry-after: {header}\r\n\r\n".encode(), 1)
    async with connected(tmp_path, answer) as (_, connection):
        with pytest.raises(Unavailable) as caught:
            await connection.call("node.report", REPORT)
        assert caught.value.retry_after == seconds
        with pytest.raises(Unavailable) as caught:
            await anext(connection.stream("node.sync", SyncNode()))
        assert caught.value.retry_after == seconds
