"""Devices: what they send to the server, and what servers answer to their client, to the byte."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st

from tests.fakes.issuer import FakeIssuer, encode_spki, make_private_key
from tests.fuzz.harness import answer, check_refusal, fuzz
from tests.fuzz.mutations import json_documents, mutated, mutated_der, mutated_text
from tests.unit.server.http.stage import Authority
from troth.core.errors import TrothError
from troth.core.ids import SpiffeId
from troth.enroll.server import (
    MAX_ANSWER,
    Unreachable,
    _check_server,
    call_server,
    read_bundle,
    read_credential,
    read_problem,
)
from troth.operations.enrolment import hash_code, parse_code, render_code
from troth.wire.bundle import render_bundle

CODE = render_code(bytes(range(16)))
ISSUER = FakeIssuer()
KEY = encode_spki(make_private_key())
PLAN = ISSUER.plan(spiffe_id=SpiffeId.of(ISSUER.trust_domain, "/sensor-1"), public_key=KEY)
ROOT = ISSUER.x509.certificate
CREDENTIAL = {
    "identity": "sensor-1",
    "instance_id": "ins_1",
    "spiffe_id": "spiffe://example.org/sensor-1",
    "chain": [b64encode(ISSUER.issue(PLAN)).decode()],
    "x509_authorities": [b64encode(ROOT).decode()],
    "not_after": PLAN.not_after.isoformat(),
    "renew_after": PLAN.not_before.isoformat(),
}
BUNDLE = json.loads(render_bundle([ROOT], [], 1, 300))
PROBLEM = {"code": "conflict", "detail": "Taken."}


@fuzz(mutated_text(CODE, CODE.lower().replace("-", " "), "0" * 28, "-" * 64))
def fuzz_enrolment_code(text: str) -> None:
    secret = answer(parse_code, text)
    if secret is not None:
        assert parse_code(render_code(secret)) == secret
        assert len(hash_code(secret)[0]) == 28


@fuzz(json_documents(CREDENTIAL))
def fuzz_device_credential(body: bytes) -> None:
    found = answer(read_credential, body, KEY, internal=True)
    if found is not None:
        assert found.spiffe_id == CREDENTIAL["spiffe_id"]
        assert found.renew_after <= found.not_after


@fuzz(json_documents(BUNDLE))
def fuzz_device_bundle(body: bytes) -> None:
    roots = answer(read_bundle, "https://localhost", body, internal=True)
    assert roots is None or roots


@dataclass
class Impostor:
    """A TLS listener that says to everybody what it is told to, whatever they ask."""

    socket: socket.socket
    context: ssl.SSLContext
    answer: bytes = b""
    url: str = ""

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with suppress(OSError), self.context.wrap_socket(connection, True) as tls:
                while not tls.recv(1 << 16).endswith((b"}", b"\r\n\r\n")):
                    pass
                tls.sendall(self.answer)


@contextmanager
def open_impostor() -> Iterator[Impostor]:
    with TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listening:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*Authority().issue().write(Path(folder), "server"))
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        impostor = Impostor(listening, context, url=url)
        thread = threading.Thread(target=impostor.serve)
        thread.start()
        try:
            yield impostor
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


_SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + b'{"keys": [{}]}'
_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_HTTP = (
    _SIZED,
    b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + _SIZED,
    b"HTTP/1.0 200\r\n\r\n{}",
    _CHUNKED + b"e\r\n" + b'{"keys": [{}]}' + b"\r\n0\r\na: b\r\n\r\n",
    _CHUNKED + b"-1\r\n" + bytes(3 << 20),
    _CHUNKED + b"ffffffffff\r\n{}",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n" + bytes(3 << 20),
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101 + b"\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 200_000,
)


_WHOLE = st.sampled_from(range(len(_HTTP))).map(lambda number: _HTTP[number])


@fuzz(_WHOLE | mutated(*(data[:2_000] for data in _HTTP)), examples=60, stage=open_impostor)
def fuzz_device_http(data: bytes, impostor: Impostor) -> None:
    """Whoever stands in the server's place, before a device knows the server's root."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    impostor.answer = data
    found = answer(call_server, impostor.url, context, "GET", "/bundle", internal=True)
    if found is not None:
        status, body = found
        assert 100 <= status <= 999
        assert len(body) <= MAX_ANSWER
        assert body in data or b"chunked" in data.lower()


@fuzz(mutated_der(ISSUER.issue(PLAN), ROOT))
def fuzz_device_server(der: bytes) -> None:
    """A certificate that leads to the right roots, and isn't the server's."""
    try:
        _check_server("https://localhost", der)
    except Unreachable as error:
        check_refusal(error)
    else:
        assert b"/troth/server" in der


@fuzz(json_documents(PROBLEM))
def fuzz_device_problem(body: bytes) -> None:
    error = read_problem("https://localhost", 500, body)
    assert isinstance(error, TrothError)
    check_refusal(error, internal=True)
