"""The file keystore: one encrypted file a key, in a private directory.

A file is ``troth-key/1\\n``, a random 96-bit nonce, and the PKCS #8 key sealed with AES-256-GCM
under the key-encryption key (NIST SP 800-38D). The format's version and the key's name are the
associated data, so a file that is renamed, or put in another's place, doesn't open. The file
``keystore.seal`` is sealed in the same way and tells at once whether the key-encryption key is the
right one. One server owns the directory at a time; opened keys stay in its memory.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from troth.core.entropy import Entropy
from troth.core.errors import Conflict, NotFound, Unavailable
from troth.drivers.keystores.p256 import (
    check_key_ref,
    encode_public,
    is_key_ref,
    make_key,
    sign_data,
)

_FORMAT = b"troth-key/1\n"
_NONCE_SIZE = 12
_KEK_SIZE = 32
_MAX_FILE_SIZE = 4096
_SUFFIX = ".key"
_SEAL = "keystore.seal"
_SEAL_TEXT = b"troth keystore"


def open_keystore(directory: Path, key_encryption_key: bytes, entropy: Entropy) -> FileKeystore:
    """The keystore in `directory`, which is made (0700) when it is missing.

    `key_encryption_key` is 32 bytes. Raises `Unavailable` when the directory is open to others or
    the key is not the one that the store was made with.
    """
    if len(key_encryption_key) != _KEK_SIZE:
        raise Unavailable(f"The key-encryption key must be {_KEK_SIZE} bytes.")
    _prepare_directory(directory)
    store = FileKeystore(directory, AESGCM(key_encryption_key), entropy)
    store.check_seal()
    return store


class FileKeystore:
    """Keys in encrypted files; see `Keystore` for the meaning and errors of each method."""

    def __init__(self, directory: Path, cipher: AESGCM, entropy: Entropy) -> None:
        self._directory = directory
        self._cipher = cipher
        self._entropy = entropy
        self._opened: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._lock = threading.Lock()

    def check_seal(self) -> None:
        """Raise `Unavailable` unless the key-encryption key is the store's; seals a new store."""
        try:
            sealed = _read_file(self._directory / _SEAL)
        except FileNotFoundError:
            if self.list_keys():
                raise Unavailable(
                    f"The keystore {self._directory} has keys but no {_SEAL}: it is incomplete."
                    " Restore the whole directory from its backup."
                ) from None
            with contextlib.suppress(FileExistsError):
                self._write_file(_SEAL, self._seal(_SEAL, _SEAL_TEXT))
            sealed = _read_file(self._directory / _SEAL)
        if self._unseal(_SEAL, sealed) != _SEAL_TEXT:
            raise Unavailable(f"{self._directory / _SEAL} is not the seal of a keystore.")

    def create_key(self, key_ref: str) -> bytes:
        """Make a key and write it; on the disk when this returns."""
        name = check_key_ref(key_ref) + _SUFFIX
        key = make_key(self._entropy)
        plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        try:
            self._write_file(name, self._seal(name, plain))
        except FileExistsError:
            raise Conflict(f"A key {key_ref!r} exists already.") from None
        except OSError as error:
            raise Unavailable(_explain("write", self._directory / name, error)) from error
        with self._lock:
            self._opened[key_ref] = key
        return encode_public(key)

    def public_key(self, key_ref: str) -> bytes:
        """DER SubjectPublicKeyInfo."""
        return encode_public(self._find(key_ref))

    def sign(self, key_ref: str, data: bytes) -> bytes:
        """DER signature."""
        return sign_data(self._find(key_ref), data)

    def sign_all(self, key_ref: str, batch: Sequence[bytes]) -> list[bytes]:
        """DER signatures."""
        key = self._find(key_ref)
        return [sign_data(key, data) for data in batch]

    def list_keys(self) -> list[str]:
        """All references in the directory, sorted; files that are no keys are passed over."""
        try:
            names = os.listdir(self._directory)
        except OSError as error:
            raise Unavailable(_explain("list", self._directory, error)) from error
        refs = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
        return sorted(ref for ref in refs if is_key_ref(ref))

    def delete_key(self, key_ref: str) -> None:
        """Forget the key and remove its file.

        A disk may keep old blocks; they hold the key encrypted. Whoever must be certain changes
        the key-encryption key too.
        """
        path = self._directory / (check_key_ref(key_ref) + _SUFFIX)
        # Under the lock to the end, or another thread could open the file again in between.
        with self._lock:
            self._opened.pop(key_ref, None)
            try:
                path.unlink()
                _sync_directory(self._directory)
            except FileNotFoundError:
                raise NotFound(f"There is no key {key_ref!r}.") from None
            except OSError as error:
                raise Unavailable(_explain("remove", path, error)) from error

    def _find(self, key_ref: str) -> ec.EllipticCurvePrivateKey:
        check_key_ref(key_ref)
        with self._lock:
            key = self._opened.get(key_ref)
            if key is None:
                key = self._opened[key_ref] = self._open(key_ref)
        return key

    def _open(self, key_ref: str) -> ec.EllipticCurvePrivateKey:
        path = self._directory / (key_ref + _SUFFIX)
        try:
            sealed = _read_file(path)
        except FileNotFoundError:
            raise NotFound(f"There is no key {key_ref!r}.") from None
        try:
            key = load_der_private_key(self._unseal(path.name, sealed), None)
        except ValueError as error:
            raise Unavailable(f"{path} holds no key; restore it from its backup.") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise Unavailable(f"{path} holds a key that is not P-256.")
        return key

    def _seal(self, name: str, plain: bytes) -> bytes:
        nonce = self._entropy.token(_NONCE_SIZE)
        return _FORMAT + nonce + self._cipher.encrypt(nonce, plain, _FORMAT + name.encode())

    def _unseal(self, name: str, sealed: bytes) -> bytes:
        start = len(_FORMAT) + _NONCE_SIZE
        if not sealed.startswith(_FORMAT) or len(sealed) <= start:
            raise Unavailable(
                f"{self._directory / name} is damaged or of an unknown version; restore it from"
                " its backup."
            )
        nonce, body = sealed[len(_FORMAT) : start], sealed[start:]
        try:
            return self._cipher.decrypt(nonce, body, _FORMAT + name.encode())
        except InvalidTag:
            raise Unavailable(
                f"{self._directory / name} doesn't open: the key-encryption key is not the one"
                " that the keystore was made with, or the file is damaged. Configure the right"
                " key, or restore the file from its backup."
            ) from None

    def _write_file(self, name: str, content: bytes) -> None:
        """All or nothing, and never over an existing file (`FileExistsError`)."""
        path = self._directory / name
        draft = self._directory / f".{name}.{self._entropy.token(8).hex()}"
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # A rename would replace a key that another process made meanwhile; a link can't.
            os.link(draft, path)
        finally:
            draft.unlink()
        _sync_directory(self._directory)


def _prepare_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise Unavailable(_explain("make", directory, error)) from error
    if not stat.S_ISDIR(found.st_mode):
        raise Unavailable(f"{directory} is not a directory.")
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Unavailable(
            f"The keystore {directory} must belong to this process's user and be closed to all"
            " others: chown it, and chmod 700."
        )


def _read_file(path: Path) -> bytes:
    """The content of a small private file; `FileNotFoundError`, else `Unavailable`."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
                raise Unavailable(f"{path} must be a plain file of mode 0600: chmod 600.")
            content = file.read(_MAX_FILE_SIZE + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unavailable(_explain("read", path, error)) from error
    if len(content) > _MAX_FILE_SIZE:
        raise Unavailable(f"{path} is too large for a key; restore it from its backup.")
    return content


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explain(verb: str, path: Path, error: OSError) -> str:
    return f"Can't {verb} {path}: {error.strerror or 'unknown reason'}."
