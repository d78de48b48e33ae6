"""Handshakes that ask, connections that end with their peer, certificates that change."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes.tiny_ca import TinyCa
from troth.core.errors import Invalid
from troth.sdk import tls
from troth.sdk.tls import Contexts, Pair, make_api_context, refuse


class Door:
    """Admits everybody until it is told not to, and remembers who came."""

    def __init__(self) -> None:
        self.closed = ""
        self.seen: list[bytes] = []

    def admit(self, certificate: bytes | None) -> Callable[[], None]:
        assert certificate is not None
        self.seen.append(certificate)
        self.review()
        return self.review

    def review(self) -> None:
        if self.closed:
            raise refuse(self.closed)


def make_pair(ca: TinyCa, path: str, *others: TinyCa, signer: bool = True) -> Pair:
    svid = ca.issue(path, signer=signer)
    return Pair(svid.private_key, svid.chain, ca.bundle(*others).x509_authorities)


def make_contexts(pair: Pair) -> Contexts:
    contexts = Contexts()
    contexts.install(pair)
    return contexts


class Line:
    """A client and a server object, with memory between them."""

    def __init__(self, client: ssl.SSLContext, server: ssl.SSLContext, name: str = "web") -> None:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(down, up, server_hostname=name)
        self.server = server.wrap_bio(up, down, server_side=True)

    def shake_hands(self) -> None:
        left = [self.client, self.server]
        for _ in range(10):
            for side in list(left):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                left.remove(side)
            if not left:
                return
        raise AssertionError("the handshake doesn't end")

    def send(self) -> bytes:
        self.client.write(b"hello")
        return bytes(self.server.read(100))


def test_both_sides_see_the_other_and_one_that_goes_bad_loses_the_open_connection() -> None:
    ca = TinyCa()
    web, api = make_contexts(make_pair(ca, "/web")), make_contexts(make_pair(ca, "/api"))
    at_web, at_api = Door(), Door()
    line = Line(api.make_client(at_api.admit), web.make_server(at_web.admit))
    line.shake_hands()
    assert line.send() == b"hello"
    assert line.client.version() == "TLSv1.3"
    assert at_web.seen == [line.server.getpeercert(True)]
    assert at_api.seen == [line.client.getpeercert(True)]

    at_web.closed = "cut off"
    line.client.write(b"more")
    with pytest.raises(ssl.SSLCertVerificationError, match="cut off"):
        line.server.read(100)
    with pytest.raises(ssl.SSLCertVerificationError, match="cut off"):
        line.server.write(b"answer")
    fresh = Line(api.make_client(at_api.admit), web.make_server(at_web.admit))
    with pytest.raises(ssl.SSLCertVerificationError, match="cut off"):
        fresh.shake_hands()


def test_nobody_comes_in_without_a_certificate_or_with_another_root() -> None:
    ca = TinyCa()
    web = make_contexts(make_pair(ca, "/web"))
    naked = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    naked.check_hostname = False
    naked.verify_mode = ssl.CERT_NONE
    stranger = make_contexts(make_pair(TinyCa(), "/api")).make_client(Door().admit)
    door = Door()
    with pytest.raises(ssl.SSLError):
        Line(naked, web.make_server(door.admit)).shake_hands()
    with pytest.raises(ssl.SSLError):
        Line(stranger, web.make_server(door.admit)).shake_hands()
    assert door.seen == []


def test_a_certificate_that_hides_who_signed_it_opens_nothing() -> None:
    ca = TinyCa()
    web = make_contexts(make_pair(ca, "/web"))
    forger = make_contexts(make_pair(ca, "/web", signer=False))
    door = Door()
    with pytest.raises(ssl.SSLError):
        Line(forger.make_client(Door().admit), web.make_server(door.admit)).shake_hands()
    with pytest.raises(ssl.SSLError):
        Line(web.make_client(door.admit), forger.make_server(Door().admit)).shake_hands()
    assert door.seen == []


def test_a_new_certificate_and_new_roots_count_from_the_next_handshake() -> None:
    old, new = TinyCa(), TinyCa()
    web, api = make_contexts(make_pair(old, "/web")), make_contexts(make_pair(old, "/api"))
    server, client = web.make_server(Door().admit), api.make_client(Door().admit)
    before = Line(client, server)
    before.shake_hands()
    for contexts, path in ((web, "/web"), (api, "/api")):
        contexts.install(make_pair(new, path))
    after = Line(client, server)
    after.shake_hands()
    assert before.server.getpeercert(True) != after.server.getpeercert(True)
    assert before.send() == after.send() == b"hello"
    # The root that has gone is trusted no more, by either side.
    late = make_contexts(make_pair(old, "/late"))
    with pytest.raises(ssl.SSLError):
        Line(late.make_client(Door().admit), server).shake_hands()
    with pytest.raises(ssl.SSLError):
        Line(client, late.make_server(Door().admit)).shake_hands()


def test_a_client_made_while_a_pair_is_installed_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ca = TinyCa()
    contexts, new = make_contexts(make_pair(ca, "/web")), make_pair(ca, "/web")
    make_inner, begun, go = tls._make_inner, threading.Event(), threading.Event()

    def linger(*args: Any) -> ssl.SSLContext:
        made = make_inner(*args)
        if threading.current_thread() is maker:
            begun.set()
            go.wait(1)
        return made

    monkeypatch.setattr(tls, "_make_inner", linger)
    made: list[ssl.SSLContext] = []
    maker = threading.Thread(target=lambda: made.append(contexts.make_client(Door().admit)))
    installer = threading.Thread(target=lambda: contexts.install(new))
    maker.start()
    assert begun.wait(10)
    installer.start()
    installer.join(0.2)  # without a lock it is through by now
    go.set()
    maker.join()
    installer.join()
    door = Door()
    Line(made[0], contexts.make_server(door.admit)).shake_hands()
    assert door.seen == [new.chain[0]]


def test_a_pair_that_does_not_fit_changes_nothing() -> None:
    ca = TinyCa()
    pair = make_pair(ca, "/web")
    contexts = make_contexts(pair)
    other = ca.issue("/web")
    with pytest.raises(Invalid):
        contexts.install(Pair(other.private_key, pair.chain, pair.roots))
    line = Line(contexts.make_client(Door().admit), contexts.make_server(Door().admit))
    line.shake_hands()
    assert other.private_key.hex() not in repr(pair)


def test_before_there_is_a_certificate_nothing_is_spoken() -> None:
    with pytest.raises(Invalid, match="wait"):
        Contexts().make_client(Door().admit)
    api = make_contexts(make_pair(TinyCa(), "/api"))
    line = Line(api.make_client(Door().admit), Contexts().make_server(Door().admit))
    with pytest.raises(ssl.SSLError):
        line.shake_hands()


def test_blocking_sockets_are_guarded_as_well() -> None:
    ca = TinyCa()
    contexts = make_contexts(make_pair(ca, "/web"))
    door = Door()
    server, client = contexts.make_server(door.admit), contexts.make_client(Door().admit)
    failures: list[BaseException] = []
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as connection:
                while data := connection.recv(100):
                    connection.sendall(data)
        except ssl.SSLError as error:
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(near) as connection:
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        door.closed = "cut off"
        connection.sendall(b"more")
        assert connection.recv(100) == b""
    thread.join()
    assert "cut off" in str(failures[0])


def test_only_a_troth_server_passes_for_one() -> None:
    ca = TinyCa()
    pair = make_pair(ca, "/web")
    context = make_api_context(pair, "spiffe://example.org/troth/server")
    context.check_hostname = False
    imposter = make_contexts(make_pair(ca, "/web")).make_server(Door().admit)
    with pytest.raises(ssl.SSLCertVerificationError, match="not the certificate of a troth"):
        Line(context, imposter).shake_hands()
    real = make_contexts(make_pair(ca, "/troth/server")).make_server(Door().admit)
    Line(context, real).shake_hands()


def test_nobody_resumes_a_session() -> None:
    ca = TinyCa()
    contexts = make_contexts(make_pair(ca, "/web"))
    door = Door()
    line = Line(contexts.make_client(Door().admit), contexts.make_server(door.admit))
    line.shake_hands()
    assert line.send() == b"hello"
    session = line.client.session
    assert session is None or not session.has_ticket
    assert not line.server.session_reused
