"""TLS of the server: three contexts that live as long as the server, with certificates that change.

What a listener holds never changes: a front context without any certificate. Each handshake is
moved, by the server-name callback, to the newest inner context. A rotation builds and tries new
inner contexts first and swaps them in last, so a bad certificate leaves everything as it was, a
handshake sees the old pair or the new one, and a new key type or other roots need no special case.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Collection, Iterable, Sequence

import structlog
from cryptography import x509

from troth.core.errors import Invalid, Unavailable
from troth.core.x509 import UNREADABLE, list_words

log = structlog.get_logger(__name__)

ALPN = ("http/1.1",)
ALPN_GRPC = ("h2",)


class ServerTls:
    """The contexts of the public, the mutual-TLS and the gRPC listener.

    `chain_pem` is leaf first, `key_pem` an unencrypted private key, `client_roots` the DER
    certificates that client certificates must lead to. Raises `Invalid` when these don't belong
    together or can't be read. TLS 1.3 only; no session tickets, since a resumed session would skip
    the check of the client's certificate.

    Contexts may be changed from any thread, one change after the other: to load thousands of
    anchors takes a while, which is no time for an event loop to stand still.
    """

    def __init__(self, chain_pem: bytes, key_pem: bytes, client_roots: Sequence[bytes]) -> None:
        self._changing = threading.Lock()
        self._pair = (chain_pem, key_pem)
        self._roots = tuple(client_roots)
        self._clients: frozenset[bytes] = frozenset()
        self._inner_public, self._inner_mutual = self._build(self._pair, self._roots, self._clients)
        self._inner_grpc = _build_grpc(self._pair, self._roots)
        self.public = make_context()
        # A handshake keeps the verification mode and flags of its front context and takes
        # everything else from the inner one, the trusted roots among it.
        self.mutual = _make_mutual_context()
        self.public.sni_callback = self._enter_public
        self.mutual.sni_callback = self._enter_mutual
        self.grpc = _make_grpc_context()
        self.grpc.sni_callback = self._enter_grpc

    def install(self, chain_pem: bytes, key_pem: bytes, client_roots: Sequence[bytes]) -> None:
        """Serve this certificate and accept client certificates of these roots (DER) alone, from
        the next handshake on; raises `Invalid`, changing nothing. Open connections keep theirs.
        """
        with self._changing:
            self._change((chain_pem, key_pem), tuple(client_roots), self._clients)

    def trust_clients(self, certificates: Collection[bytes]) -> None:
        """Let in whoever shows one of these certificates (DER) too, from the next handshake on.

        They end up as anchors of the mutual-TLS listener alone, so a CA among them lets in what it
        signs: whoever reads a client certificate looks again at who signed it. What OpenSSL can't
        load is passed over; so is what bears the name of a root, which would be taken for the
        issuer of our own certificates.
        """
        wanted = frozenset(certificates)
        with self._changing:
            if wanted >= self._clients:
                # OpenSSL sorts all anchors anew for each that comes: those that are there stay.
                _load_clients(self._inner_mutual, wanted - self._clients, self._roots)
                self._clients = wanted
            else:
                self._change(self._pair, self._roots, wanted)

    def _change(
        self, pair: tuple[bytes, bytes], roots: tuple[bytes, ...], clients: frozenset[bytes]
    ) -> None:
        grpc = _build_grpc(pair, roots)
        self._inner_public, self._inner_mutual = self._build(pair, roots, clients)
        self._inner_grpc = grpc
        self._pair, self._roots, self._clients = pair, roots, clients

    @staticmethod
    def _build(
        pair: tuple[bytes, bytes], roots: tuple[bytes, ...], clients: Collection[bytes]
    ) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        public, mutual = make_context(), _make_mutual_context()
        _load_pair(public, pair)
        _load_pair(mutual, pair)
        _load_roots(mutual, roots)
        _load_clients(mutual, clients, roots)
        return public, mutual

    def _enter_public(
        self, connection: ssl.SSLObject, name: str | None, front: ssl.SSLContext
    ) -> None:
        connection.context = self._inner_public

    def _enter_mutual(
        self, connection: ssl.SSLObject, name: str | None, front: ssl.SSLContext
    ) -> None:
        connection.context = self._inner_mutual

    def _enter_grpc(
        self, connection: ssl.SSLObject, name: str | None, front: ssl.SSLContext
    ) -> None:
        connection.context = self._inner_grpc


def _build_grpc(pair: tuple[bytes, bytes], roots: tuple[bytes, ...]) -> ssl.SSLContext:
    context = _make_grpc_context()
    _load_pair(context, pair)
    _load_roots(context, roots)
    return context


def _make_grpc_context() -> ssl.SSLContext:
    """X.509-SVIDs alone get in: a proxy has one."""
    context = make_context()
    context.set_alpn_protocols(list(ALPN_GRPC))
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def make_context() -> ssl.SSLContext:
    """What every listener of ours begins with: TLS 1.3 for HTTP/1.1, no certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(list(ALPN))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # RFC 5280 to the letter: who signed is named
    return context


def _make_mutual_context() -> ssl.SSLContext:
    context = make_context()
    context.verify_mode = ssl.CERT_REQUIRED
    # A registered certificate is trusted as it is: without this OpenSSL takes the first anchor of
    # that name for the issuer, and of two certificates of one name one gets nobody in.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _load_pair(context: ssl.SSLContext, pair: tuple[bytes, bytes]) -> None:
    """Hand chain and key to OpenSSL, which reads files only: one that exists in memory alone."""
    try:
        file = os.memfd_create("troth-tls", os.MFD_CLOEXEC)
    except OSError as error:
        raise Unavailable("The kernel gave no memory file for the TLS key.") from error
    try:
        with os.fdopen(file, "wb", closefd=False) as target:
            target.write(pair[0].rstrip() + b"\n" + pair[1])
        context.load_cert_chain(f"/proc/self/fd/{file}", password=_refuse_password)
    except ssl.SSLError as error:
        reason = error.reason or "not PEM"
        raise Invalid(f"The TLS certificate and its key can't be used: {reason}.") from error
    except OSError as error:
        raise Unavailable("The TLS key can't be handed over: is /proc mounted?") from error
    finally:
        os.close(file)


def _load_roots(context: ssl.SSLContext, roots: tuple[bytes, ...]) -> None:
    if not roots:
        raise Invalid("The mutual-TLS listener needs at least one root to trust.")
    try:
        for root in roots:
            context.load_verify_locations(cadata=root)
    except ssl.SSLError as error:
        reason = error.reason or "not a certificate"
        raise Invalid(f"A root for client certificates can't be read: {reason}.") from error


def _load_clients(
    context: ssl.SSLContext, clients: Iterable[bytes], roots: Iterable[bytes]
) -> None:
    taken = {_name_subject(root) for root in roots}
    refused = 0
    for der in sorted(clients):
        # One at a time: so that one can't spoil the others, and other threads get their turn.
        try:
            if _name_subject(der) in taken:
                raise ValueError("the name of a root")
            context.load_verify_locations(cadata=der)
        except (*UNREADABLE, ssl.SSLError):
            refused += 1
    if refused:
        log.warning("tls.anchors_refused", count=refused)


def _name_subject(der: bytes) -> tuple[object, ...]:
    """Whose certificate it is, spelled so that names are alike where OpenSSL finds them so."""
    return list_words(x509.load_der_x509_certificate(der).subject)


def _refuse_password() -> str:
    raise Invalid("The TLS key is encrypted; hand it over decrypted.")
