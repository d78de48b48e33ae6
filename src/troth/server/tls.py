"""TLS of the server: two contexts that live as long as the server, with certificates that change.

What a listener holds never changes: a front context without any certificate. Each handshake is
moved, by the server-name callback, to the newest inner context. A rotation builds and tries new
inner contexts first and swaps them in last, so a bad certificate leaves everything as it was, a
handshake sees the old pair or the new one, and a new key type or other roots need no special case.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence

from troth.core.errors import Invalid, Unavailable

ALPN = ("http/1.1",)


class ServerTls:
    """The contexts of the public and of the mutual-TLS listener.

    `chain_pem` is leaf first, `key_pem` an unencrypted private key, `client_roots` the DER
    certificates that client certificates must lead to. Raises `Invalid` when these don't belong
    together or can't be read. TLS 1.3 only; no session tickets, since a resumed session would skip
    the check of the client's certificate.
    """

    def __init__(self, chain_pem: bytes, key_pem: bytes, client_roots: Sequence[bytes]) -> None:
        self._pair = (chain_pem, key_pem)
        self._roots = tuple(client_roots)
        self._inner_public, self._inner_mutual = self._build(self._pair, self._roots)
        self.public = _make_context()
        self.mutual = _make_context()
        # A handshake keeps the verification mode of its front context and takes everything else
        # from the inner one, the trusted roots among it.
        self.mutual.verify_mode = ssl.CERT_REQUIRED
        self.public.sni_callback = self._enter_public
        self.mutual.sni_callback = self._enter_mutual

    def rotate(self, chain_pem: bytes, key_pem: bytes) -> None:
        """Serve another certificate from the next handshake on; raises `Invalid`, changing nothing.

        Open connections keep theirs.
        """
        self._install((chain_pem, key_pem), self._roots)

    def trust_roots(self, client_roots: Sequence[bytes]) -> None:
        """Accept client certificates of these roots (DER) alone, from the next handshake on."""
        self._install(self._pair, tuple(client_roots))

    def _install(self, pair: tuple[bytes, bytes], roots: tuple[bytes, ...]) -> None:
        self._inner_public, self._inner_mutual = self._build(pair, roots)
        self._pair, self._roots = pair, roots

    @staticmethod
    def _build(
        pair: tuple[bytes, bytes], roots: tuple[bytes, ...]
    ) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        public, mutual = _make_context(), _make_context()
        _load_pair(public, pair)
        _load_pair(mutual, pair)
        _load_roots(mutual, roots)
        mutual.verify_mode = ssl.CERT_REQUIRED
        return public, mutual

    def _enter_public(
        self, connection: ssl.SSLObject, name: str | None, front: ssl.SSLContext
    ) -> None:
        connection.context = self._inner_public

    def _enter_mutual(
        self, connection: ssl.SSLObject, name: str | None, front: ssl.SSLContext
    ) -> None:
        connection.context = self._inner_mutual


def _make_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(list(ALPN))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # RFC 5280 to the letter: who signed is named
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


def _refuse_password() -> str:
    raise Invalid("The TLS key is encrypted; hand it over decrypted.")
