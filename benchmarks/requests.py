"""HTTP requests that cost the asking side next to nothing: bytes made before, on open connections.

A client library would take longer for a request than the server does, and be what is measured.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from urllib.parse import urlsplit


class Line:
    """One kept-alive connection with TLS."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        parts = urlsplit(url)
        host, port = str(parts.hostname), int(parts.port or 443)
        raw = socket.create_connection((host, port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(raw, server_hostname=host)

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a whole request."""
        self._socket.sendall(request)
        received = self._socket.recv(65536)
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._read()
        head = received[:end].lower()
        start = head.index(b"content-length: ") + 16
        length = int(head[start:].split(b"\r\n", 1)[0])
        while len(received) < end + 4 + length:
            received += self._read()
        return int(received[9:12]), received[end + 4 :]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _read(self) -> bytes:
        found = self._socket.recv(65536)
        if not found:
            raise ConnectionError("the server hung up")
        return found


def make_post(host: str, path: str, body: bytes, *headers: str) -> bytes:
    """A POST as bytes."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {host}",
        *headers,
        f"content-length: {len(body)}",
    ]
    return "\r\n".join((*lines, "", "")).encode("ascii") + body


def quantile(seconds: Iterable[float], share: float) -> float:
    """The time that `share` of these are below."""
    found = sorted(seconds)
    return found[min(len(found) - 1, int(len(found) * share))]
