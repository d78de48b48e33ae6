"""Keystores: where private keys live. A key is made there, signs there and never leaves."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

BUILT_IN: dict[str, str] = {
    "database": "troth.drivers.keystores.database:open_keystore",
    "file": "troth.drivers.keystores.file:open_keystore",
    "memory": "troth.drivers.keystores.memory:open_keystore",
}
"""Name → ``module:factory``; loaded only when configured."""


class KeyKind(StrEnum):
    """What a key is, and so how it signs.

    `P256`: ECDSA with SHA-256, as DER Ecdsa-Sig-Value (RFC 3279, section 2.2.3). `ED25519`: EdDSA,
    64 bytes (RFC 8032, section 5.1.6). `RSA`: 2,048 bits, RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017,
    section 8.2). `ML_DSA_44`: ML-DSA without a context, 2,420 bytes (FIPS 204, section 5.2).
    """

    P256 = "p-256"
    ED25519 = "ed25519"
    RSA = "rsa-2048"
    ML_DSA_44 = "ml-dsa-44"


class Keystore(Protocol):
    """A home of private keys. All methods may block (file, HSM): call them in a thread.

    Errors: `NotFound` for an unknown `key_ref`, `Conflict` for one that exists, `Unavailable`
    when the store can't be reached or unsealed.
    """

    def create_key(self, key_ref: str, kind: KeyKind = KeyKind.P256) -> bytes:
        """Make a key under `key_ref`; returns DER SubjectPublicKeyInfo. Durable on return."""
        ...

    def public_key(self, key_ref: str) -> bytes:
        """DER SubjectPublicKeyInfo of `key_ref`."""
        ...

    def sign(self, key_ref: str, data: bytes) -> bytes:
        """The signature over `data`, in the form of the key's kind."""
        ...

    def sign_all(self, key_ref: str, batch: Sequence[bytes]) -> list[bytes]:
        """A signature, as `sign` makes it, for each of `batch`, in order; all or an error."""
        ...

    def list_keys(self) -> list[str]:
        """All key references, sorted."""
        ...

    def delete_key(self, key_ref: str) -> None:
        """Destroy the key for good."""
        ...

    def derive_secret(self, purpose: str) -> bytes:
        """32 secret bytes for `purpose`: the same on every server that shares these keys, and
        nothing that anybody could find out from those of another purpose."""
        ...
