"""The database keystore: sealed keys in the store's database, for all servers on it.

The database holds what the file keystore would write, byte for byte: ciphertext, which is worth
nothing without the key-encryption key. Every server opens a key when it first signs with it, and
keeps it in its memory. The table is the store's; it is handed in as a shelf.
"""

from __future__ import annotations

from troth.core.entropy import Entropy
from troth.drivers.keystores.sealed import SealedKeystore, Shelf


def open_keystore(shelf: Shelf, key_encryption_key: bytes, entropy: Entropy) -> SealedKeystore:
    """The keystore on `shelf`.

    `key_encryption_key` is 32 bytes, the same for every server. Raises `Unavailable` when it is
    not the one that the store was made with, or the database is away.
    """
    store = SealedKeystore(shelf, key_encryption_key, entropy)
    store.check_seal()
    return store
