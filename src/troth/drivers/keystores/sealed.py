"""Sealed keystores: private keys lie encrypted on a shelf, and are opened in memory alone.

What lies there is ``troth-key/1\\n``, a random 96-bit nonce, and the PKCS #8 key sealed with
AES-256-GCM under the key-encryption key (NIST SP 800-38D). The format's version and the key's name
are the associated data, so a key that is renamed, or put in another's place, doesn't open.
``keystore.seal`` is sealed in the same way and tells at once whether the key-encryption key is the
right one. The name and the bytes are the same on every shelf: what one holds another can take as
it is.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from troth.core.entropy import Entropy, draw_nonce
from troth.core.errors import Conflict, NotFound, Unavailable
from troth.core.x509 import UNREADABLE
from troth.drivers.keystores import KeyKind
from troth.drivers.keystores.software import (
    PrivateKey,
    check_key_ref,
    derive_secret,
    encode_public,
    find_private_key,
    is_key_ref,
    make_key,
    sign_data,
)

SEAL = "keystore.seal"
MAX_SIZE = 4096
"""The most bytes that one thing on a shelf has."""

_FORMAT = b"troth-key/1\n"
_NONCE_SIZE = 12
_KEK_SIZE = 32
_SUFFIX = ".key"
_SEAL_TEXT = b"troth keystore"


class Shelf(Protocol):
    """Where sealed keys lie: small things by name. Its methods block, and any thread may call
    them. `Unavailable` when it can't be reached."""

    def put(self, name: str, content: bytes) -> None:
        """Lay down something new, all or nothing, durable on return; `Conflict` if the name is
        taken."""
        ...

    def get(self, name: str) -> bytes | None:
        """What lies under `name`; None if nothing does. May end after `MAX_SIZE` + 1 bytes."""
        ...

    def names(self) -> list[str]:
        """All names, in any order."""
        ...

    def remove(self, name: str) -> bool:
        """Destroy what lies under `name`; whether there was anything."""
        ...

    def describe(self, name: str = "") -> str:
        """The shelf, or the thing on it, in words for an error."""
        ...


def make_cipher(key_encryption_key: bytes) -> AESGCM:
    """The cipher of a key-encryption key; `Unavailable` unless that has 32 bytes."""
    if len(key_encryption_key) != _KEK_SIZE:
        raise Unavailable(f"The key-encryption key must be {_KEK_SIZE} bytes.")
    return AESGCM(key_encryption_key)


def list_refs(shelf: Shelf) -> list[str]:
    """References of all keys on a shelf, sorted; what is no key is passed over."""
    refs = (name.removesuffix(_SUFFIX) for name in shelf.names() if name.endswith(_SUFFIX))
    return sorted(ref for ref in refs if is_key_ref(ref))


def list_names(shelf: Shelf) -> list[str]:
    """Names of all that a complete keystore laid on a shelf: its keys, and then its seal."""
    return [*(ref + _SUFFIX for ref in list_refs(shelf)), SEAL]


def may_hold(name: str, content: bytes) -> bool:
    """Whether a keystore may have laid that down: a key's name or the seal, and no more bytes."""
    is_key = name.endswith(_SUFFIX) and is_key_ref(name.removesuffix(_SUFFIX))
    return (is_key or name == SEAL) and len(content) <= MAX_SIZE


def copy_keys(source: Shelf, target: Shelf) -> int:
    """Lay all of `source` on `target`, sealed as it is; how many keys there are.

    The seal goes last: a shelf that has one is complete, so what was cut short is done again.
    """
    names = list_names(source)
    for name in names:
        content = source.get(name)
        if content is None:
            raise Unavailable(f"{source.describe(name)} went away while it was copied. Try again.")
        with contextlib.suppress(Conflict):
            target.put(name, content)
    return len(names) - 1


class SealedKeystore:
    """Keys on a shelf; see `Keystore` for the meaning and errors of each method.

    Only the first use of a key goes to the shelf: signing does without it from then on.
    """

    def __init__(self, shelf: Shelf, key_encryption_key: bytes, entropy: Entropy) -> None:
        self._shelf = shelf
        self._cipher = make_cipher(key_encryption_key)
        self._root = key_encryption_key
        self._entropy = entropy
        self._opened: dict[str, PrivateKey] = {}
        self._lock = threading.Lock()

    def check_seal(self) -> None:
        """Raise `Unavailable` unless the key-encryption key is the store's; seals a new store."""
        sealed = self._shelf.get(SEAL)
        if sealed is None:
            if self.list_keys():
                raise Unavailable(
                    f"{self._shelf.describe()} has keys but no {SEAL}: it is incomplete."
                    " Restore the whole of it from its backup."
                )
            with contextlib.suppress(Conflict):  # somebody else was faster
                self._shelf.put(SEAL, self._seal(SEAL, _SEAL_TEXT))
            sealed = self._shelf.get(SEAL) or b""
        if self._unseal(SEAL, sealed) != _SEAL_TEXT:
            raise Unavailable(f"{self._shelf.describe(SEAL)} is not the seal of a keystore.")

    def create_key(self, key_ref: str, kind: KeyKind = KeyKind.P256) -> bytes:
        """Make a key and lay it down; durable when this returns."""
        name = check_key_ref(key_ref) + _SUFFIX
        key = make_key(self._entropy, kind)
        plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        try:
            self._shelf.put(name, self._seal(name, plain))
        except Conflict:
            raise Conflict(f"A key {key_ref!r} exists already.") from None
        with self._lock:
            self._opened[key_ref] = key
        return encode_public(key)

    def public_key(self, key_ref: str) -> bytes:
        """DER SubjectPublicKeyInfo."""
        return encode_public(self._find(key_ref))

    def sign(self, key_ref: str, data: bytes) -> bytes:
        """One signature."""
        return sign_data(self._find(key_ref), data)

    def sign_all(self, key_ref: str, batch: Sequence[bytes]) -> list[bytes]:
        """A signature for each."""
        key = self._find(key_ref)
        return [sign_data(key, data) for data in batch]

    def list_keys(self) -> list[str]:
        """All references on the shelf, sorted. A key that others deleted is forgotten here too."""
        with self._lock:
            refs = list_refs(self._shelf)
            for gone in self._opened.keys() - set(refs):
                del self._opened[gone]
        return refs

    def delete_key(self, key_ref: str) -> None:
        """Forget the key and remove it from the shelf.

        A disk or a database may keep old blocks; they hold the key encrypted. Whoever must be
        certain changes the key-encryption key too.
        """
        name = check_key_ref(key_ref) + _SUFFIX
        # Under the lock to the end, or another thread could open it again in between.
        with self._lock:
            self._opened.pop(key_ref, None)
            if not self._shelf.remove(name):
                raise NotFound(f"There is no key {key_ref!r}.")

    def derive_secret(self, purpose: str) -> bytes:
        """From the key-encryption key, which every server that shares these keys has."""
        return derive_secret(self._root, purpose)

    def _find(self, key_ref: str) -> PrivateKey:
        # Without the lock, which somebody may hold while a database is slow to answer.
        key = self._opened.get(check_key_ref(key_ref))
        if key is not None:
            return key
        with self._lock:
            key = self._opened.get(key_ref)
            if key is None:
                key = self._opened[key_ref] = self._open(key_ref)
        return key

    def _open(self, key_ref: str) -> PrivateKey:
        name = key_ref + _SUFFIX
        sealed = self._shelf.get(name)
        if sealed is None:
            raise NotFound(f"There is no key {key_ref!r}.")
        where = self._shelf.describe(name)
        if len(sealed) > MAX_SIZE:
            raise Unavailable(f"{where} is too large for a key; restore it from its backup.")
        try:
            key = load_der_private_key(self._unseal(name, sealed), None)
        except UNREADABLE as error:
            raise Unavailable(f"{where} holds no key; restore it from its backup.") from error
        found = find_private_key(key)
        if found is None:
            raise Unavailable(f"{where} holds a key of a kind that isn't used here.")
        return found

    def _seal(self, name: str, plain: bytes) -> bytes:
        nonce = draw_nonce(self._entropy, _NONCE_SIZE)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, plain, _FORMAT + name.encode())

    def _unseal(self, name: str, sealed: bytes) -> bytes:
        start = len(_FORMAT) + _NONCE_SIZE
        if not sealed.startswith(_FORMAT) or len(sealed) <= start:
            raise Unavailable(
                f"{self._shelf.describe(name)} is damaged or of an unknown version; restore it"
                " from its backup."
            )
        nonce, body = sealed[len(_FORMAT) : start], sealed[start:]
        try:
            return self._cipher.decrypt(nonce, body, _FORMAT + name.encode())
        except InvalidTag:
            raise Unavailable(
                f"{self._shelf.describe(name)} doesn't open: the key-encryption key is not the one"
                " that the keystore was made with, or it is damaged. Configure the right key"
                " (servers that share keys share this one too), or restore it from its backup."
            ) from None
