"""TLS between services: contexts whose certificate changes, and connections that end with the peer.

Every handshake asks whether the peer is accepted, and so does every read and write on a connection
that is already open. That works in whatever uses Python's ``ssl`` module: asyncio, uvloop, uvicorn,
``http.server``, httpx. TLS 1.3 only, and no session is resumed: that would skip the certificate.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from troth.core.errors import Invalid
from troth.wire.pem import render_pem, render_pem_certificates

Admit = Callable[[bytes | None], Callable[[], None]]
"""Takes the peer's certificate (DER) after a handshake and raises an `ssl.SSLError` if it isn't
accepted; what it returns does so again on every read and write."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a context holds: `key` is PKCS #8 DER, `chain` DER, leaf first, `roots` DER."""

    key: bytes = field(repr=False)
    chain: tuple[bytes, ...]
    roots: tuple[bytes, ...]


class _ClientContext(ssl.SSLContext):
    """Makes each connection with the newest inner context, which nobody changes once it is made:
    OpenSSL must not be handed another certificate while a thread begins a handshake."""

    inner: ssl.SSLContext

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        return self.inner.wrap_socket(*args, **options)

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return self.inner.wrap_bio(*args, **options)


class Contexts:
    """The live contexts of one service, all with the newest pair."""

    def __init__(self) -> None:
        self._pair: Pair | None = None
        self._inner: ssl.SSLContext | None = None
        # Else a client made while a pair is installed would keep the one before for good.
        self._lock = threading.Lock()
        self._clients: WeakKeyDictionary[_ClientContext, Admit] = WeakKeyDictionary()

    def install(self, pair: Pair) -> None:
        """From the next handshake on use `pair`; raises `Invalid`, changing nothing."""
        with self._lock:
            inner = _make_inner(ssl.PROTOCOL_TLS_SERVER, pair)
            for context, admit in list(self._clients.items()):
                context.inner = _make_inner(ssl.PROTOCOL_TLS_CLIENT, pair, admit)
            self._inner, self._pair = inner, pair

    def make_server(self, admit: Admit) -> ssl.SSLContext:
        """A context for a listener: it demands a certificate and hands it to `admit`."""
        front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _harden(front)
        # A handshake keeps the mode of its front context and takes the rest from the inner one.
        front.verify_mode = ssl.CERT_REQUIRED
        front.sni_callback = self._enter
        _guard(front, admit)
        return front

    def make_client(self, admit: Admit) -> ssl.SSLContext:
        """A context for connections to services, who prove a SPIFFE ID and not a host name."""
        if self._pair is None:
            raise Invalid("There is no certificate yet; wait until the guard is ready.")
        context = _ClientContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        with self._lock:
            context.inner = _make_inner(ssl.PROTOCOL_TLS_CLIENT, self._pair, admit)
            self._clients[context] = admit
        return context

    def _enter(
        self, connection: ssl.SSLObject, name: str | None, front: ssl.SSLContext
    ) -> int | None:
        if self._inner is None:
            return ssl.AlertDescription.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._inner
        return None  # no alert


def _make_inner(protocol: Any, pair: Pair, admit: Admit | None = None) -> ssl.SSLContext:
    """A context with `pair` that demands a certificate, whatever its host; raises `Invalid`."""
    context = ssl.SSLContext(protocol)
    _harden(context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    _load(context, pair)
    if admit is not None:
        _guard(context, admit)
    return context


def make_api_context(pair: Pair, server: str) -> ssl.SSLContext:
    """A context for the API of a troth server: it must prove its host name and the SPIFFE ID
    `server`, since a workload's certificate leads to the same roots."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    _load(context, pair)

    class ServerObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            names = (self.getpeercert() or {}).get("subjectAltName", ())
            if [str(name[1]) for name in names if name[0] == "URI"] != [server]:
                raise refuse("it is not the certificate of a troth server")

    context.sslobject_class = ServerObject
    return context


def refuse(reason: str) -> ssl.SSLCertVerificationError:
    """The error that ends a handshake or a connection, with a reason that can be read back."""
    error = ssl.SSLCertVerificationError(reason)
    error.verify_message = reason
    return error


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # RFC 5280 to the letter: who signed is named
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])


def _load(context: ssl.SSLContext, pair: Pair) -> None:
    """The ssl module reads keys from files only; this one lives in memory and nowhere else."""
    text = render_pem("PRIVATE KEY", pair.key) + render_pem_certificates(pair.chain)
    descriptor = os.memfd_create("troth-sdk", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_refuse_password)
        for root in pair.roots:
            context.load_verify_locations(cadata=root)
    except ssl.SSLError as error:
        reason = error.reason or "not readable"
        raise Invalid(f"The certificate that the agent gave can't be used: {reason}.") from error


def _refuse_password() -> str:
    raise Invalid("The key that the agent gave is encrypted.")


def _guard(context: ssl.SSLContext, admit: Admit) -> None:
    """Let every connection of `context` ask `admit`, whichever of the two ways it is made in."""

    class GuardedObject(ssl.SSLObject):
        _review: Callable[[], None] | None = None

        def do_handshake(self) -> None:
            super().do_handshake()
            self._review = admit(self.getpeercert(True))

        def read(self, len: int = 1024, buffer: Any = None) -> Any:
            _require(self._review)()
            return super().read(len, buffer) if buffer is not None else super().read(len)

        def write(self, data: Any) -> int:
            _require(self._review)()
            return super().write(data)

    class GuardedSocket(ssl.SSLSocket):
        _review: Callable[[], None] | None = None

        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            self._review = admit(self.getpeercert(True))

        def read(self, len: int = 1024, buffer: Any = None) -> Any:
            _require(self._review)()
            return super().read(len, buffer)

        def write(self, data: Any) -> int:
            _require(self._review)()
            return super().write(data)

        def send(self, data: Any, flags: int = 0) -> int:
            _require(self._review)()
            return super().send(data, flags)

    context.sslobject_class = GuardedObject
    context.sslsocket_class = GuardedSocket


def _require(review: Callable[[], None] | None) -> Callable[[], None]:
    if review is None:
        raise refuse("the handshake isn't done")
    return review
