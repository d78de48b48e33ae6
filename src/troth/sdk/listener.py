"""uvicorn with the ASGI TLS extension, and with the guard's context: what it doesn't do by itself.

Use it as ``uvicorn.run(app, http=TlsProtocol, ws="none", ssl_context_factory=use_guard(guard))``
and without `ssl_keyfile` and `ssl_certfile`. WebSockets build their own scope, so they are off.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, cast

from cryptography import x509
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from troth.core.x509 import UNREADABLE
from troth.sdk.guard import PeerGuard

TLS_1_3 = 0x0304
"""RFC 8446, section 4.1.2: the only version that the guard's contexts speak."""


class TlsProtocol(HttpToolsProtocol):
    """HTTP/1.1 with ``scope["extensions"]["tls"]``."""

    _tls: dict[str, Any] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected, and the handshake is done."""
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._tls = describe_tls(tls)

    def on_message_begin(self) -> None:
        """The first byte of a request: its scope was made."""
        super().on_message_begin()
        if self._tls is not None:
            scope: dict[str, Any] = cast("dict[str, Any]", self.scope)
            scope.setdefault("extensions", {})["tls"] = self._tls


def describe_tls(tls: ssl.SSLObject) -> dict[str, Any]:
    """What the TLS extension tells of a connection."""
    der = tls.getpeercert(True)
    chain, name = [], None
    if der is not None:
        chain = [ssl.DER_cert_to_PEM_cert(der)]
        with suppress(*UNREADABLE):  # a name for a log; the guard judges the certificate
            name = x509.load_der_x509_certificate(der).subject.rfc4514_string()
    return {
        "server_cert": None,
        "client_cert_chain": chain,
        "client_cert_name": name,
        "client_cert_error": None,
        "tls_version": TLS_1_3,
        "cipher_suite": None,
    }


def use_guard(
    guard: PeerGuard, accept: Collection[str] | None = None
) -> Callable[..., ssl.SSLContext]:
    """What uvicorn takes as `ssl_context_factory`; `accept` as in `PeerGuard.server_context`."""

    def make(config: Any, make_default: Any) -> ssl.SSLContext:
        return guard.server_context(accept)

    return make
