"""PEM: the textual encoding of certificates, revocation lists and keys (RFC 7468)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable

_LINE = 64  # characters of base64 (RFC 7468, section 2)


def render_pem(label: str, der: bytes) -> bytes:
    """One block, with its final line end."""
    text = b64encode(der).decode()
    lines = (text[at : at + _LINE] for at in range(0, len(text), _LINE))
    return "\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", "")).encode()


def render_pem_certificates(ders: Iterable[bytes]) -> bytes:
    """DER certificates as one text."""
    return b"".join(render_pem("CERTIFICATE", der) for der in ders)


def render_pem_crls(ders: Iterable[bytes]) -> bytes:
    """DER revocation lists as one text."""
    return b"".join(render_pem("X509 CRL", der) for der in ders)
