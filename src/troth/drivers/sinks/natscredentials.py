"""NATS credentials: a user's token, and the key by which the user proves to be meant.

Source: nats-io/nkeys (seeds: base32 of two bytes that say whose it is, the Ed25519 seed, and a
CRC-16) and nats-io/jwt (files). The client's library would want another package for it.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from troth.core.errors import Invalid

BEGINNING = "-----BEGIN NATS USER JWT-----"
_PARTS = re.compile(
    r"-----BEGIN NATS USER JWT-----\s+(?P<token>[\w=.-]+)\s+-{3,}END NATS USER JWT-{3,}"
    r".*-----BEGIN USER NKEY SEED-----\s+(?P<seed>[A-Z2-7]+)\s+-{3,}END USER NKEY SEED-{3,}",
    re.ASCII | re.DOTALL,
)
_USER = (18 << 3 | 20 << 3 >> 5, (20 << 3 & 31) << 3)
"""The first two bytes of a user's seed: that it is a seed, and whose."""
_SEED_SIZE = 32


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a file of credentials holds."""

    token: str = field(repr=False)
    key: Ed25519PrivateKey = field(repr=False)

    def show_token(self) -> bytes:
        """The token, as the client asks for it."""
        return self.token.encode()

    def sign(self, nonce: str) -> bytes:
        """The answer to a server's challenge: base64url without padding."""
        return base64.urlsafe_b64encode(self.key.sign(nonce.encode())).rstrip(b"=")


def parse_credentials(text: str) -> Credentials:
    """The content of a credentials file; `Invalid`, which repeats nothing of it, if it is none."""
    parts = _PARTS.search(text)
    seed = None if parts is None else _read_seed(parts["seed"])
    if parts is None or seed is None:
        raise Invalid(
            "The secret begins as a file of NATS credentials and is none: it must hold a user's "
            "token and a user's seed, whole, as `nsc generate creds` writes them."
        )
    return Credentials(parts["token"], Ed25519PrivateKey.from_private_bytes(seed))


def _read_seed(text: str) -> bytes | None:
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error:
        return None
    content, checksum = raw[:-2], raw[-2:]
    whole = len(content) == 2 + _SEED_SIZE and tuple(content[:2]) == _USER
    if not whole or binascii.crc_hqx(content, 0) != int.from_bytes(checksum, "little"):
        return None
    return content[2:]
