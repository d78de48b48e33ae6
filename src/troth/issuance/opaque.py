"""Opaque access tokens: a JWT of ours, sealed so that only the issuer can read it.

What a resource that wants them gives out of its hands tells nobody who calls whom. Inside is the
same signed JWT as elsewhere, so everything that judges tokens judges these too, and a leaked
sealing key betrays what tokens say and forges none.

A token is ``troth_`` and, in base64url, a version, the span (32 bits) in which it was sealed, a
random 96-bit nonce, and the JWT sealed with AES-256-GCM (NIST SP 800-38D) under the key of that
span; all before the sealed part is its associated data. A key serves one span, so that the number
of random nonces under it stays far below 2^32 (section 8.3 there).
"""

from __future__ import annotations

from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from troth.core.errors import Invalid
from troth.core.jose.jwk import decode_base64url, encode_base64url
from troth.issuance.profiles import ACCESS_TTL_CEILING

PREFIX = "troth_"
"""By which people and secret scanners know one."""
SPAN = 3600
"""Seconds for which a sealing key seals."""
SPANS = -(-int(ACCESS_TTL_CEILING.total_seconds()) // SPAN)
"""How many spans back a token may still live that was sealed there."""
NONCE_SIZE = 12
MAX_SIZE = 16 * 1024
"""The most characters of a token."""

_VERSION = 1
_START = 5
_TAG = 16


def find_span(now: datetime) -> int:
    """The span that `now` lies in, counted from the Unix epoch."""
    return int(now.timestamp()) // SPAN


def name_purpose(span: int) -> str:
    """What a keystore is to derive the key of a span for."""
    return f"opaque access tokens/{span}"


def is_opaque(text: str) -> bool:
    """Whether a token says that it is one."""
    return text.startswith(PREFIX)


def seal_token(jwt: str, key: bytes, span: int, nonce: bytes) -> str:
    """The opaque form of a signed token; `nonce` is 12 random bytes."""
    start = bytes([_VERSION]) + span.to_bytes(_START - 1, "big")
    sealed = AESGCM(key).encrypt(nonce, jwt.encode("ascii"), start + nonce)
    return PREFIX + encode_base64url(start + nonce + sealed)


def read_span(text: str, now: datetime) -> int:
    """The span in which a token says that it was sealed; `Invalid` if it can't live any more, or
    is none of ours."""
    raw = _decode(text)
    span = int.from_bytes(raw[1:_START], "big")
    if not 0 <= find_span(now) + 1 - span <= SPANS + 1:  # one ahead, for a clock that is fast
        raise Invalid("The token has expired; get a fresh one.")
    return span


def open_token(text: str, key: bytes) -> str:
    """The signed token inside; `Invalid` unless it was sealed with `key`."""
    raw = _decode(text)
    start = raw[: _START + NONCE_SIZE]
    try:
        return AESGCM(key).decrypt(start[_START:], raw[len(start) :], start).decode("ascii")
    except (InvalidTag, UnicodeDecodeError):
        raise Invalid("The token is none of this server's.") from None


def _decode(text: str) -> bytes:
    if not is_opaque(text) or len(text) > MAX_SIZE:
        raise Invalid("The token is none of this server's.")
    raw = decode_base64url(text[len(PREFIX) :])
    if len(raw) <= _START + NONCE_SIZE + _TAG or raw[0] != _VERSION:
        raise Invalid("The token is none of this server's.")
    return raw
