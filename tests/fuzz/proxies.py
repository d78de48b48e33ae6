"""What proxies send about requests: over HTTP, in Envoy's own messages, and in frames of HTTP/2."""

from __future__ import annotations

import asyncio
import base64
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from urllib.parse import quote

from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import strategies as st

from tests.fakes.enforcers import LEDGER
from tests.fakes.issuer import NOW, FakeIssuer
from tests.fuzz.agent import open_loop
from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import mutated, mutated_der, mutated_text
from tests.fuzz.sockets import call_method
from tests.fuzz.workload import PREFACE, SETTINGS, frame
from troth.core.address import read_address
from troth.core.clock import VirtualClock
from troth.policy.http_routes import HttpRoutes, normalise_path
from troth.server.grpc.call import Peer
from troth.server.grpc.connection import GrpcConnection, Shared
from troth.server.http.capacity import Capacity, Caps
from troth.server.http.enforcement import _READERS, ENVOY, _collect
from troth.wire.api.enforcement import MAX_CERTIFICATE, EnforcedDecision, EnforceDecision
from troth.wire.ext_authz import read_bare_pem, read_forwarded
from troth.wire.ext_authz_grpc import parse_check, render_check

_ISSUER = FakeIssuer()
_DER = _ISSUER.issue(_ISSUER.plan())
_BASE64 = base64.b64encode(_DER).decode()
_PEM = quote(f"-----BEGIN CERTIFICATE-----\n{_BASE64}\n-----END CERTIFICATE-----\n", safe="")
_ME = "spiffe://example.org/billing"
_XFCC = f'By=spiffe://a/b;Hash={"0f" * 32};Cert="{_PEM}";Subject="CN=a,O=\\"b\\"";URI={_ME}'
_ANSWERS = (
    EnforcedDecision(allowed=True, decision="dec_1", status=200, subject=_ME, actors=["a"]),
    EnforcedDecision(
        allowed=False, decision="dec_2", status=401, reason="no_credential", challenge="Bearer"
    ),
)


def _check_question(question: EnforceDecision | None) -> None:
    """Whatever was sent is bounded, and its route, if it has any, is one of the ledger's."""
    if question is None:
        return
    assert len(question.certificate) <= MAX_CERTIFICATE
    address = read_address(question.ip)
    assert isinstance(address, IPv4Address | IPv6Address | None)
    assert not (isinstance(address, IPv6Address) and address.ipv4_mapped)
    found = answer(HttpRoutes([LEDGER]).find, question.method, question.host, question.path)
    if found is not None:
        assert found.action in LEDGER.actions
        assert found.id
        assert "/" not in found.id


@fuzz(mutated_text(_XFCC, f"URI={_ME}", f"URI=spiffe://a/b, URI={_ME}"), examples=200)
def fuzz_forwarded_certificate(text: str) -> None:
    """Who a proxy saw is in the element that it wrote itself."""
    found = answer(read_forwarded, text)
    if found is not None:
        assert found.fingerprint == found.fingerprint.lower()
        assert len(found.certificate) < len(text)
    answer(read_bare_pem, text)


_VALUES: dict[str, tuple[str, ...]] = {
    "host": ("ledger.example.org", "LEDGER:8443", "[::1]:80"),
    "authorization": ("Bearer a.b.c", "DPoP x"),
    "dpop": ("a.b.c",),
    "x-forwarded-client-cert": (_XFCC,),
    "x-forwarded-for": ("10.0.0.1, ::ffff:192.0.2.1",),
    "x-forwarded-proto": ("https", "http"),
    "x-client-cert": (_PEM,),
    "x-client-verify": ("SUCCESS", "SUCCESS", "NONE"),
    "x-original-method": ("GET", "POST"),
    "x-original-host": ("ledger.example.org",),
    "x-original-uri": ("/books/7?x=1",),
    "x-original-proto": ("https",),
    "x-real-ip": ("10.0.0.1",),
    "x-forwarded-method": ("GET",),
    "x-forwarded-host": ("ledger.example.org",),
    "x-forwarded-uri": ("/books/%37",),
    "x-forwarded-tls-client-cert": (_BASE64, f"{_BASE64},{_BASE64}"),
}


def _odd(name: str) -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    """A header as it should be, or mutated, or there twice, or not at all."""
    seeds = [text.encode() for text in _VALUES[name]]
    good = st.sampled_from(seeds)
    values = st.tuples(good) | st.tuples(good) | st.lists(mutated(*seeds), max_size=2)
    return values.map(lambda found: [(name.encode(), value) for value in found])


_HEADERS = st.tuples(*map(_odd, _VALUES)).map(lambda found: [one for few in found for one in few])
_TARGETS = mutated(b"/books/7", b"/books/a%20b;x/", b"/a/../b", b"/%2e%2e/%252f")


@fuzz(
    st.tuples(
        st.sampled_from([*_READERS]),
        st.sampled_from(["GET", "POST", "get", "A" * 65]),
        st.sampled_from([b"/books/7"]) | _TARGETS,
        mutated(b"x=1"),
        _HEADERS,
    ),
    examples=300,
)
def fuzz_proxy_request(found: tuple[str, str, bytes, bytes, list[tuple[bytes, bytes]]]) -> None:
    """The question that a proxy asks with its headers, of each kind."""
    route, method, path, query, headers = found
    scope = {"method": method, "raw_path": ENVOY.encode() + path, "query_string": query}
    _check_question(answer(_READERS[route], scope, _collect(headers)))


@fuzz(_TARGETS.map(lambda raw: raw.decode("latin-1")) | mutated_text("/books/%C3%A9/b"))
def fuzz_request_path(text: str) -> None:
    """A path in its one form stays as it is when it is read again."""
    path = answer(normalise_path, text)
    if path is not None:
        assert not {".", ".."} & set(path.split("/"))
        assert "//" not in path
        # What stays encoded of a percent sign would seem to be encoded twice.
        assert "%25" in path or normalise_path(path) == path


def _make_check() -> bytes:
    request = external_auth_pb2.CheckRequest()
    http, source = request.attributes.request.http, request.attributes.source
    http.method, http.host, http.path = "POST", "ledger.example.org", "/books/7?x=1"
    http.headers["authorization"] = "Bearer abc"
    http.headers["x-forwarded-client-cert"] = f"URI={_ME}"
    source.principal, source.certificate = _ME, _PEM
    source.address.socket_address.address = "192.0.2.1"
    encoded: bytes = request.SerializeToString()
    return encoded


_CHECK = _make_check()


@fuzz(mutated(_CHECK, b"\x0a\x7f" * 2_000))
def fuzz_envoy_check(data: bytes) -> None:
    question = answer(parse_check, data)
    _check_question(question)
    if question is not None:
        assert question.point == "envoy"


# Envoy's connection

_CHECKS = "/envoy.service.auth.v3.Authorization/Check"
_OPENING = PREFACE + frame(SETTINGS, 0, 0, b"")
_CALLS = st.builds(
    call_method,
    st.sampled_from([_CHECKS, _CHECKS, "/", "*"]),
    st.integers(0, 3),
    st.lists(
        st.tuples(
            st.sampled_from(["grpc-timeout", "grpc-encoding", "content-type", ":method", "cookie"]),
            st.sampled_from(["1S", "99999999H", "1n", "9" * 40, "gzip", "", "\xff"]),
        ),
        max_size=2,
    ),
    mutated(_CHECK),
)
_FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.integers(0, 5),
    st.binary(max_size=40) | st.just(b"\x83\x86\x84") | st.binary(min_size=4, max_size=6),
)
_GOOD = call_method(_CHECKS, 0, [], _CHECK)


class _Transport(asyncio.Transport):
    """One that was connected over TLS by whoever showed a certificate."""

    def __init__(self, der: bytes) -> None:
        super().__init__()
        self._der = der
        self.over = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "ssl_object" else default

    def getpeercert(self, binary: bool) -> bytes:
        assert binary
        return self._der

    def selected_alpn_protocol(self) -> str:
        return "h2"

    def write(self, data: Any) -> None:
        assert data is not None

    def is_closing(self) -> bool:
        return self.over

    def close(self) -> None:
        self.over = True

    def abort(self) -> None:
        self.over = True


@fuzz(
    st.tuples(
        st.just(_DER) | st.just(_DER) | mutated_der(_DER),
        st.lists(_FRAMES | _CALLS, max_size=20).map(lambda parts: _OPENING + b"".join(parts))
        | mutated(_OPENING + _GOOD, b"GET / HTTP/1.1\r\n\r\n"),
    ),
    examples=120,
    stage=open_loop,
)
def fuzz_envoy_connection(found: tuple[bytes, bytes], runner: asyncio.Runner) -> None:
    """Whatever Envoy sends ends in calls that end, and gives the connection's place back."""
    runner.run(_play(*found))


async def _play(der: bytes, data: bytes) -> None:
    async def check(peer: Peer, message: bytes) -> bytes:
        assert peer.certificate == der
        _check_question(parse_check(message))
        return render_check(_ANSWERS[len(message) % 2])

    slot = Capacity(Caps(1, 1)).claim("here")
    assert slot is not None
    shared = Shared({_CHECKS: check}, VirtualClock(NOW))
    connection, transport = GrpcConnection(shared, slot), _Transport(der)
    connection.connection_made(transport)
    connection.data_received(data)
    for _ in range(20):
        await asyncio.sleep(0)
    transport.close()
    connection.connection_lost(None)
    for _ in range(20):
        await asyncio.sleep(0)
    assert slot.released
    assert not shared.connections
    assert not connection.calls.tasks
