"""What a hostile or broken server can tell a service, every byte of ``revocation.follow``; and what
its peers show it."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import msgspec
from hypothesis import strategies as st

from tests.fakes.enforcers import (
    TILL,
    make_change,
    make_enforcer,
    make_party,
    make_rules,
    make_snapshot,
    tell_guard,
)
from tests.fakes.issuer import NOW, FakeIssuer
from tests.fuzz.agent import open_loop
from tests.fuzz.api import chop
from tests.fuzz.harness import check_refusal, fuzz
from tests.fuzz.mutations import JSON, json_documents, mutated_der, mutated_json, mutated_text
from troth.core.clock import VirtualClock
from troth.core.errors import TrothError
from troth.core.ids import SpiffeId
from troth.live.revocations import MAX_LEASE, Revocations
from troth.sdk.asgi import PEER, PeerMiddleware, find_certificate
from troth.sdk.guard import PeerGuard
from troth.sdk.listener import describe_tls
from troth.sdk.stream import _Connection, _parse_line
from troth.wire.api.nodes import StreamEnd
from troth.wire.api.revocations import (
    FollowRevocations,
    RevocationChange,
    RevocationHeartbeat,
    RevocationSnapshot,
)
from troth.wire.api.rules import EvidenceView, PolicyHeartbeat, PolicyMessage
from troth.wire.pem import render_pem

WEB = "spiffe://example.org/web"
_MESSAGES = [
    msgspec.to_builtins(message)
    for message in (
        RevocationSnapshot(
            epoch=7,
            mark="aa",
            as_of=-0.5,
            lease=15.0,
            trust_domain="example.org",
            cut_off={WEB: "quarantined"},
            revoked={"0a": 1_800_000_000},
            distrusted={"ff": 1_800_000_000},
            tokens={"tok_1": 1_800_000_000},
            issued_until={WEB: 1_700_000_000},
        ),
        RevocationChange(since=7, epoch=9, mark="bb", as_of=1.0, lease=15.0, restored=[WEB]),
        RevocationHeartbeat(epoch=9, mark="bb", as_of=2.0),
        StreamEnd(code="unavailable", detail="Restarting.", retryable=True),
    )
]
_LINES = st.lists(json_documents(*_MESSAGES), max_size=4).map(
    lambda lines: b"".join(line + b"\n" for line in lines)
)
_HEADS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ]
)


def _answer(head: bytes, body: bytes) -> bytes:
    chunked = b"chunked" in head and bool(body)
    return head + (b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body)


_ANSWERS = st.builds(_answer, _HEADS, _LINES) | st.builds(_answer, _HEADS, st.binary())


class _Writer:
    def write(self, data: bytes) -> None:
        assert data.startswith(b"GET /v1/revocations/follow")


@fuzz(st.tuples(_ANSWERS | st.binary(), st.lists(st.integers(0, 500), max_size=3)), stage=open_loop)
def fuzz_revocations(found: tuple[bytes, list[int]], runner: asyncio.Runner) -> None:
    clock = VirtualClock()
    known = Revocations(clock)
    runner.run(_follow(known, *found))
    objections = known.find_objections(WEB, "0a", "ff")
    assert all(isinstance(reason, str) for reason in objections)
    assert known.lease <= MAX_LEASE
    assert known.age >= 0
    against = known.find_token_objections("tok_1", [WEB], 1_700_000_000, "ff")
    assert all(isinstance(reason, str) for reason in against)
    if known.epoch == 0 and not known.trust_domain:
        assert against
        assert objections  # nothing was understood, so nobody is accepted


async def _follow(known: Revocations, data: bytes, cuts: list[int]) -> None:
    reader = asyncio.StreamReader()
    for piece in chop(data, cuts):
        reader.feed_data(piece)
    reader.feed_eof()
    writer: Any = _Writer()
    connection = _Connection("https://localhost:8444", reader, writer)
    try:
        async for value in connection.follow("revocation.follow", FollowRevocations()):
            known.take(value, 0.0)
    except TrothError as error:
        check_refusal(error, internal=True)
    except h11.ProtocolError:
        pass  # what `follow` tells as `Unreachable`


# Peers

ISSUER = FakeIssuer()
_CERTIFICATES = mutated_der(
    ISSUER.issue(ISSUER.plan()),
    ISSUER.issue(ISSUER.plan(dns_names=("a.example.org",))),
    ISSUER.x509.certificate,
)
_PEMS = _CERTIFICATES.map(lambda der: render_pem("CERTIFICATE", der).decode())
_GOOD = render_pem("CERTIFICATE", ISSUER.issue(ISSUER.plan())).decode()
_TLS = {
    "server_cert": None,
    "client_cert_chain": [_GOOD],
    "client_cert_name": "CN=a",
    "client_cert_error": None,
    "tls_version": 0x0304,
    "cipher_suite": None,
}
_EXTENSIONS = (
    (_PEMS | mutated_text(_GOOD)).map(lambda pem: {"tls": {**_TLS, "client_cert_chain": [pem]}})
    | mutated_json(_TLS).map(lambda tls: {"tls": tls})
    | JSON
)


@fuzz(st.tuples(_EXTENSIONS, st.sampled_from(["http", "websocket"])), stage=open_loop)
def fuzz_asgi(found: tuple[Any, str], runner: asyncio.Runner) -> None:
    """Only the trust domain's own reach the application, whatever the server says of the peer."""
    extensions, kind = found
    guard = _open_guard()
    reached: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope[PEER])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody reads a refused request")

    scope = {"type": kind, "extensions": extensions}
    runner.run(PeerMiddleware(app, guard)(scope, receive, send))
    assert len(reached) + bool(sent) == 1
    for name in reached:
        assert SpiffeId.parse(name).trust_domain == ISSUER.trust_domain
    if kind == "http" and sent:
        assert msgspec.json.decode(sent[1]["body"])["status"] == 403


class _Handshaken:
    def __init__(self, der: bytes) -> None:
        self._der = der

    def getpeercert(self, binary: bool) -> bytes:
        assert binary
        return self._der


@fuzz(_CERTIFICATES)
def fuzz_peer(der: bytes) -> None:
    """A certificate that TLS let pass: with the guard, and as our listener tells of it."""
    decision = _open_guard().check(der)
    assert decision.allowed is not bool(decision.reasons)
    if decision.allowed:
        assert SpiffeId.parse(decision.spiffe_id).trust_domain == ISSUER.trust_domain
    tls: Any = _Handshaken(der)
    assert find_certificate({"extensions": {"tls": describe_tls(tls)}}) == der


def _open_guard() -> PeerGuard:
    guard = PeerGuard(["https://localhost:8444"], "unix:///agent.sock", clock=VirtualClock(NOW))
    snapshot = RevocationSnapshot(
        epoch=1,
        mark="",
        as_of=0.0,
        lease=15.0,
        trust_domain=str(ISSUER.trust_domain),
        cut_off={},
        revoked={},
        distrusted={},
    )
    guard._known.take(snapshot, 0.0)
    return guard


# Rules

_DOUBTED = make_party(evidence=[EvidenceView(weight=-20, half_life=3_600.0, at=NOW)])
_POLICY_MESSAGES = [
    msgspec.to_builtins(message)
    for message in (
        make_snapshot(parties=[_DOUBTED]),
        make_change(rules=make_rules(), parties=[_DOUBTED], gone=["till"]),
        PolicyHeartbeat(epoch=8, mark="m", as_of=1.0),
        StreamEnd(code="unavailable", detail="Restarting.", retryable=True),
    )
]
_POLICY_LINES = st.lists(json_documents(*_POLICY_MESSAGES), max_size=4)


@fuzz(_POLICY_LINES, examples=150)
def fuzz_policies(lines: list[bytes]) -> None:
    """Whatever a server tells: an answer for all, and a denial where nothing was understood."""
    clock = VirtualClock(NOW)
    enforcer = make_enforcer(clock, silent=True)
    tell_guard(enforcer.guard, clock)
    decoder = msgspec.json.Decoder(PolicyMessage)
    for line in lines:
        try:
            value = _parse_line(decoder, line)
            enforcer._policies.take(value, 0.0)
        except TrothError as error:
            check_refusal(error, internal=True)
    assert enforcer._policies.lease <= MAX_LEASE
    for action in ("read", "write"):
        decision = enforcer.decide(TILL, action, "ledger", "b1", {"request": {"transport": "tls"}})
        assert isinstance(decision.reason, str)
        if enforcer.known is None:
            assert decision.unavailable
        decision.explain()
