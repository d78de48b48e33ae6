"""A sealed file beside the node's credential: encrypted and authenticated, for this node alone.

Its key lies in a file of its own (0600) and is made when it is first needed. So a copy of the
sealed file by itself tells nothing, and one that was changed, cut or brought from another node
isn't opened. Whoever reads the whole directory reads everything: see docs/adr/0010.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from troth.agent.credential import read_private, write_private
from troth.core.entropy import Entropy
from troth.core.errors import Refused
from troth.drivers.durability import sync_directory

SEALED_NAME = "cache.sealed"
KEY_NAME = "cachekey.bin"
MAX_SEALED = 128 << 20
"""Bytes: ten thousand certificates with keys, and a snapshot as large as it may be."""

MAGIC = b"troth-agent-cache\n"
VERSION = 1
_KEY_SIZE = 32
_NONCE_SIZE = 12
_TAG_SIZE = 16
_HEADER = MAGIC + bytes([VERSION])


class Unsealable(Exception):
    """The file isn't what this node sealed; the text says in which way."""


def seal(secret: bytes, content: bytes, owner: str, nonce: bytes) -> bytes:
    """Header, nonce and AES-256-GCM ciphertext, bound to `owner` and to the version."""
    aead = AESGCM(_derive_key(secret))
    return _HEADER + nonce + aead.encrypt(nonce, content, _HEADER + owner.encode())


def unseal(secret: bytes, sealed: bytes, owner: str) -> bytes:
    """The content; raises `Unsealable` for whatever `seal` didn't make with the same values."""
    if not sealed.startswith(MAGIC) or len(sealed) < len(_HEADER) + _NONCE_SIZE + _TAG_SIZE:
        raise Unsealable("it is no sealed cache, or was cut")
    if not sealed.startswith(_HEADER):
        raise Unsealable(f"it has version {sealed[len(MAGIC)]}, this agent writes {VERSION}")
    nonce, body = sealed[len(_HEADER) :][:_NONCE_SIZE], sealed[len(_HEADER) + _NONCE_SIZE :]
    try:
        return AESGCM(_derive_key(secret)).decrypt(nonce, body, _HEADER + owner.encode())
    except InvalidTag as error:
        raise Unsealable("it was damaged, or sealed by another node or with another key") from error


def _derive_key(secret: bytes) -> bytes:
    info = b"troth agent cache, AES-256-GCM, 1"
    return HKDF(algorithm=hashes.SHA256(), length=_KEY_SIZE, salt=None, info=info).derive(secret)


class SealedFile:
    """The sealed file of one agent's data directory (0700), and its key."""

    def __init__(self, directory: Path, entropy: Entropy) -> None:
        self._path = directory / SEALED_NAME
        self._key_path = directory / KEY_NAME
        self._entropy = entropy

    def load(self, owner: str) -> bytes | None:
        """What was sealed, or None if nothing was.

        Raises `Unsealable` for a file that can't be used, whatever is wrong with it.
        """
        try:
            sealed = read_private(self._path, MAX_SEALED)
            if sealed is None:
                return None
            if len(sealed) > MAX_SEALED:
                raise Unsealable(f"it is larger than {MAX_SEALED >> 20} MiB")
            secret = read_private(self._key_path, _KEY_SIZE)
        except Refused as error:
            raise Unsealable(error.detail) from error
        if secret is None or len(secret) != _KEY_SIZE:
            raise Unsealable(f"its key {self._key_path} is missing or damaged")
        return unseal(secret, sealed, owner)

    def save(self, content: bytes, owner: str) -> None:
        """Seal `content` in place of what was there, durably; raises OSError if that can't be."""
        if len(content) > MAX_SEALED - 1024:
            raise OSError(errno.EFBIG, f"it would be larger than {MAX_SEALED >> 20} MiB")
        secret = self._find_secret()
        write_private(self._path, seal(secret, content, owner, self._entropy.token(_NONCE_SIZE)))

    def erase(self, *, key: bool = False) -> None:
        """Remove the file, and with `key` its key too, so that no copy of it opens any more."""
        for path in (self._path, self._key_path) if key else (self._path,):
            for one in (path, path.with_suffix(".new")):  # a crash may have left the latter
                with suppress(FileNotFoundError):
                    os.unlink(one)
        sync_directory(self._path.parent)

    def _find_secret(self) -> bytes:
        try:
            secret = read_private(self._key_path, _KEY_SIZE)
        except Refused:
            secret = None  # others may have read it: never use it again
        if secret is None or len(secret) != _KEY_SIZE:
            secret = self._entropy.token(_KEY_SIZE)
            write_private(self._key_path, secret)
        return secret
