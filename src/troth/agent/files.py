"""SVIDs as files, for programs that speak neither the Workload API nor SDS.

No process calls here: an administrator configures a target, and only its uid can read the key. So
it counts as attested by that uid, and its identity must ask for ``unix:uid:<uid>`` and no more.

Each version is a directory of its own, and one symlink says which is current. It is switched in
one step, so a key never stands beside another key's certificate.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from troth.agent.attestation import derive_key
from troth.agent.cache import Process
from troth.agent.place import OTHERS_WRITE, open_trusted
from troth.agent.reload import Reload, Reloading
from troth.agent.sync import Sync
from troth.agent.timing import Backoff, Sleep, wait_first
from troth.agent.view import Bundle, Svid, View
from troth.agent.workloads import Workloads
from troth.core.entropy import Entropy
from troth.core.errors import Denied, Invalid, Refused, TrothError
from troth.identity.selectors import Selector

log = structlog.get_logger(__name__)

SVID, KEY, BUNDLE, CRL, WITHDRAWN = "svid.pem", "svid_key.pem", "bundle.pem", "crl.pem", "withdrawn"
CURRENT = "current"
_NAMES = (SVID, KEY, BUNDLE, CRL, WITHDRAWN)
_VERSION = re.compile(r"v[0-9a-f]{16}", re.ASCII)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FRESH = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class FileTarget:
    """Where the files of one identity go. `mode` is the key's; `uid` and `gid` own it.

    `directory` belongs to the agent's user, who alone may write there; nobody but that user and
    root may write to the directories above it.
    """

    identity: str
    directory: Path
    uid: int
    gid: int
    mode: int = 0o600
    reload: Reload | None = None

    def check(self) -> None:
        """Raise `Invalid` for a target that can't be served safely."""
        if self.mode & ~0o660 or not self.mode & 0o440:
            raise Invalid(
                f"The key's mode {self.mode:04o} in {self.directory} must let only its owner and "
                "group read it, such as 0600 or 0640."
            )
        if not self.directory.is_absolute():
            raise Invalid(f"The directory {self.directory} must be an absolute path.")
        if os.geteuid() not in (0, self.uid):
            raise Invalid(
                f"Only root can give files to uid {self.uid}; run the agent as root, or name its "
                f"own uid {os.geteuid()}."
            )

    @property
    def process(self) -> Process:
        """The instance that stands for the files."""
        selector = Selector("unix:uid", str(self.uid))
        return Process(
            instance_key=derive_key("file", str(self.directory)),
            pid=0,
            selectors=(str(selector),),
            attested=frozenset({selector}),
            is_alive=lambda: True,
            only=self.identity,
        )


class Files:
    """Keeps the files of one target in step with what its identity holds."""

    def __init__(
        self,
        target: FileTarget,
        sync: Sync,
        workloads: Workloads,
        entropy: Entropy,
        sleep: Sleep,
    ) -> None:
        target.check()
        self._target = target
        self._sync = sync
        self._workloads = workloads
        self._entropy = entropy
        self._sleep = sleep
        self._written: Mapping[str, bytes] | None = None
        self._reloading = None if target.reload is None else Reloading(target.reload, target.uid)

    async def run(self) -> None:
        """Deliver for ever.

        While the server is away what was written stays: its expiry is written in it.
        """
        try:
            await self._sync.changes.wait_beyond(0)  # before its first word there is nothing
            await self._deliver_for_ever()
        finally:
            if self._reloading is not None:
                await self._reloading.close()

    async def _deliver_for_ever(self) -> None:
        backoff = Backoff(self._entropy, first=0.5)
        while True:
            version = self._sync.changes.version
            try:
                await self._follow(backoff)
            except Denied as error:
                self._tell_failure(
                    f"{error.detail} The identity {self._target.identity} must be registered for "
                    f"this node and ask for unix:uid:{self._target.uid} alone."
                )
                await self._withdraw_denied()
            except (TrothError, OSError) as error:
                self._tell_failure(str(error))
            except Exception:  # whatever is wrong with one target must not end the whole agent
                log.exception("files.failed", identity=self._target.identity)
            await wait_first(self._sync.changes.wait_beyond(version), self._sleep(backoff.take()))

    async def _follow(self, backoff: Backoff) -> None:
        async with aclosing(self._workloads.watch(self._target.process)) as views:
            async for view in views:
                await self._deliver(view)
                backoff.reset()

    async def _withdraw_denied(self) -> None:
        snapshot = self._sync.snapshot
        bundles = () if snapshot is None else (snapshot.bundle,)
        try:
            await self._deliver(View(svids=(), bundles=bundles))
        except (TrothError, OSError) as error:
            self._tell_failure(str(error))

    async def _deliver(self, view: View) -> None:
        content = render_files(view)
        if content == self._written:
            return
        version = f"v{self._entropy.token(8).hex()}"
        await asyncio.to_thread(write_version, self._target, version, content)
        self._written = content
        log.info(
            "files.written",
            identity=self._target.identity,
            directory=str(self._target.directory),
            withdrawn=WITHDRAWN in content,
        )
        if self._reloading is not None:
            self._reloading.start()

    def _tell_failure(self, reason: str) -> None:
        log.warning(
            "files.not_written",
            identity=self._target.identity,
            directory=str(self._target.directory),
            reason=reason[:500],
        )


def render_files(view: View) -> dict[str, bytes]:
    """File names and contents for a view; without an SVID the key is left out."""
    content: dict[str, bytes] = {}
    if view.svids:
        content |= _render_svid(view.svids[0])
    else:
        content[WITHDRAWN] = b""
    if view.bundles:
        content |= _render_bundle(view.bundles[0])
    return content


def _render_svid(svid: Svid) -> dict[str, bytes]:
    key = load_der_private_key(svid.private_key, None)
    chain = (x509.load_der_x509_certificate(der) for der in svid.chain)
    return {
        SVID: b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain),
        KEY: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    }


def _render_bundle(bundle: Bundle) -> dict[str, bytes]:
    roots = (x509.load_der_x509_certificate(der) for der in bundle.x509_authorities)
    crls = (x509.load_der_x509_crl(der) for der in bundle.crls)
    return {
        BUNDLE: b"".join(root.public_bytes(Encoding.PEM) for root in roots),
        CRL: b"".join(crl.public_bytes(Encoding.PEM) for crl in crls),
    }


def write_version(target: FileTarget, version: str, content: Mapping[str, bytes]) -> None:
    """Write `content` as a new version and make it the current one; blocking.

    The version before stays for readers that are in the middle of it, unless the key has gone.
    Raises `Refused` if somebody else could tamper with the directory, or OSError.
    """
    directory = _open_directory(target.directory)
    try:
        before = _read_link(directory, CURRENT)
        os.mkdir(version, 0o700, dir_fd=directory)
        inside = os.open(version, _DIRECTORY, dir_fd=directory)
        try:
            for name, data in content.items():
                _write_file(inside, name, data, target)
            os.fchmod(inside, 0o755)
            os.fsync(inside)
        finally:
            os.close(inside)
        for name in _NAMES:  # they lead nowhere until the next line makes all of them whole at once
            _link(directory, f"{CURRENT}/{name}", name)
        _link(directory, version, CURRENT)
        os.fsync(directory)
        _remove_versions(directory, {version, before if KEY in content else None})
    finally:
        os.close(directory)


def _open_directory(path: Path) -> int:
    """The directory as a descriptor; everything is done relative to it, never by path again."""
    parent = open_trusted(path.parent)
    try:
        made = _make_directory(path.name, parent)
        directory = os.open(path.name, _DIRECTORY, dir_fd=parent)
    finally:
        os.close(parent)
    found = os.fstat(directory)
    if found.st_uid != os.geteuid() or found.st_mode & OTHERS_WRITE:
        os.close(directory)
        raise Refused(
            f"{path} must belong to the agent's user, and nobody else may write there: "
            "otherwise keys could be led astray."
        )
    if made:
        os.fchmod(directory, 0o755)  # the reader must get through, whatever our umask says
    return directory


def _make_directory(name: str, parent: int) -> bool:
    """Whether it was missing; what an administrator made is checked later, not changed."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return False
    return True


def _write_file(directory: int, name: str, data: bytes, target: FileTarget) -> None:
    """Create one file; the key gets its owner and mode before its content."""
    descriptor = os.open(name, _FRESH, 0o600, dir_fd=directory)
    with os.fdopen(descriptor, "wb") as file:
        if name == KEY:
            if os.geteuid() == 0:
                os.fchown(descriptor, target.uid, target.gid)
            os.fchmod(descriptor, target.mode)
        else:
            os.fchmod(descriptor, 0o644)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _read_link(directory: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:  # nothing was written yet
        return None


def _link(directory: int, destination: str, name: str) -> None:
    """Let the symlink `name` lead to `destination`, in one step."""
    if _read_link(directory, name) == destination:
        return
    draft = f".{name}.new"
    try:
        os.unlink(draft, dir_fd=directory)
    except FileNotFoundError:
        pass  # no crash left one behind
    os.symlink(destination, draft, dir_fd=directory)
    os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)


def _remove_versions(directory: int, kept: set[str | None]) -> None:
    for version in os.listdir(directory):
        if version in kept or not _VERSION.fullmatch(version):
            continue
        inside = os.open(version, _DIRECTORY, dir_fd=directory)
        try:
            for name in os.listdir(inside):
                os.unlink(name, dir_fd=inside)
        finally:
            os.close(inside)
        os.rmdir(version, dir_fd=directory)
