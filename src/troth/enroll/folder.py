"""Where a device keeps its key and certificate: a directory whose content changes in one step.

Each version is a directory of its own, and the symlink `current` says which one counts, so a key
never stands beside another key's certificate, also after a power cut. The next key is on disk
before anybody is told of it: an answer that gets lost can be asked for again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from troth.core.errors import Conflict, Invalid, Refused
from troth.core.x509 import UNREADABLE

SVID, KEY, BUNDLE, STATE = "svid.pem", "svid_key.pem", "bundle.pem", "enrolment.json"
CURRENT, NEXT_KEY, LOCK = "current", "next_key.pem", "lock"
_VERSION = re.compile(r"v([0-9]{12})", re.ASCII)
_OTHERS_WRITE = 0o022
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the device is enrolled as, and where; times are RFC 3339."""

    server: str
    mtls_url: str
    identity: str
    instance_id: str
    spiffe_id: str
    not_before: str
    not_after: str
    renew_after: str

    @property
    def end(self) -> datetime:
        """The end of the certificate."""
        return datetime.fromisoformat(self.not_after)

    @property
    def due(self) -> datetime:
        """When the server would like to be asked for the next one."""
        return datetime.fromisoformat(self.renew_after)


class Folder:
    """The directory of one device. Used by one process at a time (`hold`)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def current(self) -> Path:
        """The version that counts: a symlink."""
        return self.path / CURRENT

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the directory for this process, made if it is missing; `Conflict` if it is held.

        `Refused` if somebody else could put a key of theirs there.
        """
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        found = self.path.stat()
        if found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
            raise Refused(
                f"{self.path} must belong to this user and be writable by nobody else: it holds a "
                "private key. Mend it with chown and chmod 755, or choose another directory."
            )
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(self.path / LOCK, flags, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Conflict(
                f"Another process keeps {self.path}; stop it first, or leave the work to it."
            ) from None
        try:
            yield
        finally:
            os.close(lock)

    def load(self) -> Enrolment | None:
        """What the device is enrolled as, or None; `Invalid` if that can't be read."""
        try:
            content = (self.current / STATE).read_bytes()
        except FileNotFoundError:
            return None
        try:
            found = Enrolment(**json.loads(content))
            texts = all(isinstance(value, str) for value in asdict(found).values())
            zones = texts and None not in (found.end.utcoffset(), found.due.utcoffset())
            # Renewal is spread around its time, which mustn't lead before the first of all days.
            if not zones or found.due - (found.end - found.due) > found.due:
                raise ValueError("no texts, times without a zone, or renewal after the end")
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise Invalid(
                f"{self.current / STATE} can't be read; remove {self.current} and enrol anew."
            ) from error
        return found

    def read(self, name: str) -> bytes:
        """One file of the version that counts."""
        return (self.current / name).read_bytes()

    def prepare_key(self, *, reuse: bool = False) -> ec.EllipticCurvePrivateKey:
        """The key that is to be certified next, on disk before it is used.

        One that was prepared before comes first: the server may know it already. With `reuse` the
        present key is taken where there is one.
        """
        path = self.path / NEXT_KEY
        for candidate in (path, self.current / KEY) if reuse else (path,):
            if (key := _load_key(candidate)) is not None:
                return key
        key = ec.generate_private_key(ec.SECP256R1())
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        _write(fresh, render_key(key), 0o600)
        fresh.replace(path)
        _sync(self.path)
        return key

    def save(self, files: Mapping[str, bytes], enrolment: Enrolment) -> None:
        """Make a new version of `files` and the enrolment, and let it count, in one step.

        The version before stays for readers in the middle of it.
        """
        number = max((number for number, _ in self._versions()), default=0) + 1
        version = self.path / f"v{number:012d}"
        version.mkdir(mode=0o755)
        state = json.dumps(asdict(enrolment), indent=2).encode() + b"\n"
        for name, content in {**files, STATE: state}.items():
            _write(version / name, content, 0o600 if name == KEY else 0o644)
        _sync(version)
        link = self.path / f"{CURRENT}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(version.name)
        link.replace(self.current)
        _sync(self.path)
        for old, path in self._versions():
            if old < number - 1:
                shutil.rmtree(path)

    def drop_next_key(self) -> None:
        """The prepared key counts now, or never will."""
        (self.path / NEXT_KEY).unlink(missing_ok=True)

    def _versions(self) -> list[tuple[int, Path]]:
        found = ((_VERSION.fullmatch(path.name), path) for path in self.path.iterdir())
        return sorted((int(match[1]), path) for match, path in found if match)


def render_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 in PEM, not encrypted: the file's mode protects it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    """The key in a file, or None if there is none that could be certified."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (FileNotFoundError, *UNREADABLE):
        return None
    fits = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1"
    return key if fits and isinstance(key, ec.EllipticCurvePrivateKey) else None


def _write(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, _FRESH, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """What was renamed stays renamed, whatever happens to the power."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
