"""The client's half of the talk, against a TLS server that answers whatever the test wants."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fakes.issuer import FakeIssuer
from tests.fuzz.devices import open_impostor
from troth.core.errors import Conflict, Denied, Internal, Invalid, Limited, TrothError, Unavailable
from troth.core.ids import SpiffeId
from troth.enroll import server as module
from troth.enroll.device import make_csr
from troth.enroll.server import (
    Unreachable,
    call_server,
    check_url,
    derive_mutual_url,
    fetch_pinned_root,
    fetch_roots,
    make_context,
    read_credential,
    read_problem,
    render_pem,
)
from troth.issuance.csr import parse_csr
from troth.wire.bundle import render_bundle

NOW = datetime.now(UTC)


def generate_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


ISSUER = FakeIssuer()
ROOT = ISSUER.x509.certificate


def issue(path: str, public_key: bytes, dns: tuple[str, ...] = ()) -> bytes:
    plan = ISSUER.plan(
        spiffe_id=SpiffeId.of(ISSUER.trust_domain, path),
        public_key=public_key,
        dns_names=list(dns),
        ttl=timedelta(hours=1),
        now=NOW,
    )
    return bytes(ISSUER.issue(plan))


@contextmanager
def serve(
    tmp_path: Path, answer: bytes, path: str = "/troth/server", missing: int = 0
) -> Iterator[str]:
    """A server with a certificate for `path` and localhost, that answers everything alike, and is
    gone before the last `missing` bytes that it announced."""
    key = generate_key()
    leaf = issue(path, parse_csr(make_csr(key)[0]), ("localhost",))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "server.pem").write_bytes(pem + render_pem([leaf]))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer) + missing))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None: ...

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # the client has gone
                pass

    class Server(HTTPServer):
        def handle_error(self, *_: Any) -> None: ...

    http = Server(("localhost", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    http.socket = context.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"https://localhost:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def bundle() -> bytes:
    return render_bundle([ROOT], [], 1, 300)


def test_the_roots_are_fetched_from_the_server_alone(tmp_path: Path) -> None:
    context = make_context(render_pem([ROOT]))
    with serve(tmp_path, bundle()) as url:
        assert fetch_roots(url, context) == (ROOT,)
    # A workload of the same trust domain with the right host name is not the server.
    impostor = serve(tmp_path, bundle(), "/impostor")
    with impostor as url, pytest.raises(Unreachable, match="not a troth server"):
        fetch_roots(url, context)


def test_a_server_of_other_roots_is_refused_before_anything_is_said(tmp_path: Path) -> None:
    other = FakeIssuer(seed=9)
    context = make_context(render_pem([other.x509.certificate]))
    with serve(tmp_path, bundle()) as url, pytest.raises(Unreachable, match="not the server"):
        call_server(url, context, "GET", "/bundle")


def test_a_root_by_its_fingerprint(tmp_path: Path) -> None:
    wanted = hashlib.sha256(ROOT).hexdigest()
    colons = ":".join(wanted[i : i + 2] for i in range(0, 64, 2)).upper()
    with serve(tmp_path, bundle()) as url:
        assert fetch_pinned_root(url, wanted) == fetch_pinned_root(url, colons) == ROOT
        with pytest.raises(Denied, match="fingerprint"):
            fetch_pinned_root(url, "ab" * 32)
    with pytest.raises(Invalid, match="64 hexadecimal"):
        fetch_pinned_root("https://localhost", "abc")


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"keys": [{"use": "x509-svid"}]}',
    b'{"keys": []}', b'{"keys": [{"use": "x509-svid", "x5c": ["AAAA"]}]}', b"\xff"])  # fmt: skip
def test_a_bundle_that_is_none(tmp_path: Path, answer: bytes) -> None:
    with serve(tmp_path, answer) as url, pytest.raises(Internal):
        fetch_roots(url, make_context(render_pem([ROOT])))


@pytest.mark.parametrize("answer", [b"", b'{"identity": "sensor-1"'])
def test_an_answer_that_breaks_off_is_none(tmp_path: Path, answer: bytes) -> None:
    """A server that is killed in the middle of its answer: the device asks again."""
    with serve(tmp_path, answer, missing=100) as url, pytest.raises(Unreachable, match="broke off"):
        call_server(url, make_context(render_pem([ROOT])), "GET", "/bundle")


def test_an_endless_answer_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 100)
    with serve(tmp_path, b"x" * 101) as url, pytest.raises(Internal, match="more than"):
        call_server(url, make_context(render_pem([ROOT])), "GET", "/")


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n", b""],
    ids=["a chunk without end", "interim responses without end"],
)
def test_what_never_ends_is_given_up(head: bytes) -> None:
    """Also by a device that doesn't know the server's root yet: anybody may answer it."""
    with open_impostor() as impostor:
        more = bytes(64 << 20) if head else b"HTTP/1.1 100 Continue\r\n\r\n" * (1 << 21)
        impostor.answer = head + more
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with pytest.raises(Unreachable, match="it doesn't end"):
            call_server(impostor.url, context, "GET", "/bundle")


def test_nobody_there() -> None:
    context = make_context(render_pem([ROOT]))
    with pytest.raises(Unreachable, match="doesn't answer"):
        call_server("https://localhost:1", context, "GET", "/")


def make_answer(**changes: Any) -> tuple[bytes, bytes]:
    """An answer to a request of a fresh key, and that key."""
    _, public_key = make_csr(generate_key())
    leaf = issue("/sensor-1", public_key)
    value = {
        "identity": "sensor-1",
        "instance_id": "ins_1",
        "spiffe_id": f"spiffe://{ISSUER.trust_domain}/sensor-1",
        "chain": [b64encode(leaf).decode()],
        "x509_authorities": [b64encode(ROOT).decode()],
        "not_after": "2030-01-01T00:00:00Z",
        "renew_after": (NOW + timedelta(minutes=30)).isoformat(),
    }
    return json.dumps(value | changes).encode(), public_key


def test_a_credential_is_believed_for_our_key_alone() -> None:
    answer, public_key = make_answer()
    credential = read_credential(answer, public_key)
    assert credential.identity == "sensor-1"
    assert credential.not_after > NOW, "from the certificate, whatever the answer says"
    with pytest.raises(Internal, match="another key"):
        read_credential(answer, make_csr(generate_key())[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"spiffe_id": "spiffe://elsewhere/sensor-1"},
        {"chain": []},
        {"chain": ["AAAA"]},
        {"chain": "x"},
        {"x509_authorities": []},
        {"x509_authorities": [b64encode(b"0").decode()]},
        {"renew_after": "2099-01-01T00:00:00Z"},
        {"renew_after": "2026-01-01T00:00:00"},
        {"renew_after": None},
        {"identity": None, "chain": None},
    ],
)
def test_a_credential_that_is_not_what_was_asked_for(changes: dict[str, Any]) -> None:
    answer, public_key = make_answer(**changes)
    with pytest.raises(Internal, match="isn't the certificate"):
        read_credential(answer, public_key)


def test_a_credential_of_foreign_roots_is_refused() -> None:
    stranger = FakeIssuer(seed=9).x509.certificate
    answer, key = make_answer(x509_authorities=[b64encode(stranger).decode()])
    with pytest.raises(Internal, match="none of the roots"):
        read_credential(answer, key)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b'{"code": "conflict", "detail": "Taken."}', Conflict),
        (b'{"code": "rate_limited", "detail": "Wait."}', Limited),
        (b'{"code": "unheard_of", "detail": "?"}', Internal),
        (b"<html>", Unavailable),
        (b'{"code": 1}', Unavailable),
    ],
)
def test_problems(answer: bytes, kind: type[TrothError]) -> None:
    assert type(read_problem("https://x", 500, answer)) is kind


@pytest.mark.parametrize("url", ["http://a", "https://", "https://a/b", "https://a?b", "https://u@a",
    "https://a:99999", "a", "", "https://a b"])  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(Invalid):
        check_url(url)


def test_the_mutual_url_is_one_port_above() -> None:
    assert derive_mutual_url("https://troth:8443") == "https://troth:8444"
    assert derive_mutual_url("https://[::1]:8443") == "https://[::1]:8444"
    assert derive_mutual_url("https://troth") == "https://troth:444"
