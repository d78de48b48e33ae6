"""The memory keystore: keys that live as long as the process. For tests, and for trying out."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from troth.core.entropy import Entropy
from troth.core.errors import Conflict, NotFound
from troth.drivers.keystores import KeyKind
from troth.drivers.keystores.software import (
    PrivateKey,
    check_key_ref,
    derive_secret,
    encode_public,
    make_key,
    sign_data,
)


def open_keystore(entropy: Entropy) -> MemoryKeystore:
    """An empty keystore."""
    return MemoryKeystore(entropy)


class MemoryKeystore:
    """Keys in a dictionary; see `Keystore` for the meaning and errors of each method."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._keys: dict[str, PrivateKey] = {}
        self._root = entropy.token(32)
        self._lock = threading.Lock()

    def create_key(self, key_ref: str, kind: KeyKind = KeyKind.P256) -> bytes:
        """Make a key; gone when the process ends."""
        check_key_ref(key_ref)
        key = make_key(self._entropy, kind)
        with self._lock:
            if key_ref in self._keys:
                raise Conflict(f"A key {key_ref!r} exists already.")
            self._keys[key_ref] = key
        return encode_public(key)

    def public_key(self, key_ref: str) -> bytes:
        """DER SubjectPublicKeyInfo."""
        return encode_public(self._find(key_ref))

    def sign(self, key_ref: str, data: bytes) -> bytes:
        """One signature."""
        return sign_data(self._find(key_ref), data)

    def sign_all(self, key_ref: str, batch: Sequence[bytes]) -> list[bytes]:
        """A signature for each."""
        return [self.sign(key_ref, data) for data in batch]

    def list_keys(self) -> list[str]:
        """All references, sorted."""
        with self._lock:
            return sorted(self._keys)

    def delete_key(self, key_ref: str) -> None:
        """Forget the key."""
        check_key_ref(key_ref)
        with self._lock:
            if self._keys.pop(key_ref, None) is None:
                raise NotFound(f"There is no key {key_ref!r}.")

    def derive_secret(self, purpose: str) -> bytes:
        """From a secret that is as old as this store."""
        return derive_secret(self._root, purpose)

    def _find(self, key_ref: str) -> PrivateKey:
        check_key_ref(key_ref)
        with self._lock:
            key = self._keys.get(key_ref)
        if key is None:
            raise NotFound(f"There is no key {key_ref!r}.")
        return key
