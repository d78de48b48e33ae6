"""The file keystore: one sealed file a key, in a private directory.

One server owns the directory at a time. What a file holds: `troth.drivers.keystores.sealed`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from troth.core.entropy import Entropy
from troth.core.errors import Conflict, Unavailable
from troth.drivers.durability import sync_directory
from troth.drivers.keystores.sealed import MAX_SIZE, SealedKeystore, make_cipher


def open_keystore(directory: Path, key_encryption_key: bytes, entropy: Entropy) -> SealedKeystore:
    """The keystore in `directory`, which is made (0700) when it is missing.

    `key_encryption_key` is 32 bytes. Raises `Unavailable` when the directory is open to others or
    the key is not the one that the store was made with.
    """
    make_cipher(key_encryption_key)  # tells what is wrong before anything is made
    store = SealedKeystore(open_folder(directory, entropy), key_encryption_key, entropy)
    store.check_seal()
    return store


def open_folder(directory: Path, entropy: Entropy) -> Folder:
    """The shelf in `directory`, which is made (0700) when it is missing; `Unavailable` when it is
    open to others."""
    _prepare_directory(directory)
    return Folder(directory, entropy)


class Folder:
    """A shelf of files, mode 0600, in a directory that nobody else may look into."""

    def __init__(self, directory: Path, entropy: Entropy) -> None:
        self._directory = directory
        self._entropy = entropy

    def put(self, name: str, content: bytes) -> None:
        """Write a new file, all or nothing; on the disk when this returns."""
        try:
            self._write_file(name, content)
        except FileExistsError:
            raise Conflict(f"{self._directory / name} exists already.") from None
        except OSError as error:
            raise Unavailable(_explain("write", self._directory / name, error)) from error

    def get(self, name: str) -> bytes | None:
        """The content of a small private file."""
        path = self._directory / name
        try:
            return _read_file(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(_explain("read", path, error)) from error

    def names(self) -> list[str]:
        """All names in the directory."""
        try:
            return os.listdir(self._directory)
        except OSError as error:
            raise Unavailable(_explain("list", self._directory, error)) from error

    def remove(self, name: str) -> bool:
        """Unlink the file."""
        path = self._directory / name
        try:
            path.unlink()
            sync_directory(self._directory)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unavailable(_explain("remove", path, error)) from error
        return True

    def describe(self, name: str = "") -> str:
        """The path."""
        return str(self._directory / name)

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
        sync_directory(self._directory)


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
    """The content of a small private file; one byte more than fits if it is larger."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            raise Unavailable(f"{path} must be a plain file of mode 0600: chmod 600.")
        return file.read(MAX_SIZE + 1)


def _explain(verb: str, path: Path, error: OSError) -> str:
    return f"Can't {verb} {path}: {error.strerror or 'unknown reason'}."
