"""What the kernel knows of a process at the other end of a Unix socket: user, group, program.

How far each selector can be trusted:

- ``unix:uid`` and ``unix:gid`` are the credentials that the kernel noted when the peer connected
  (unix(7), SO_PEERCRED). They hold.
- ``unix:path`` and ``unix:sha256`` describe the program that the peer's process runs *when it is
  looked at*. A process can connect, leave the socket to a child, and execute another program: then
  they describe that one, while the child reads the answer. No look at /proc can tell. So they
  narrow a uid down and never stand in for it; `troth check` warns where they stand alone.
- ``unix:path`` is the path as the kernel writes it. For a process in another mount namespace it is
  a path in there, where its creator decides what the file holds.

What the guards below do exclude: a number that passes to another process, a program that is
exchanged while it is being read, a file that is replaced or deleted under its name.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from pathlib import Path
from threading import Lock

from troth.core.errors import Denied, Invalid
from troth.drivers.attestors import (
    RECHECK_AFTER,
    Examination,
    Peer,
    WorkloadAttestor,
    attest_alone,
)
from troth.drivers.attestors.procfs import PROC, ProcessWatch, watch_process
from troth.identity.selectors import Selector

MAX_PROGRAM = 512 << 20
CACHE_SIZE = 256
_CHUNK = 1 << 20
_DELETED = " (deleted)"
_ALL_USERS = ["0", "0", "4294967295"]
_CHANGED = "The calling process changed its program while it was looked at; connect again."
_REWRITTEN = "The calling program's file was being written while it was read; connect again."

FileKey = tuple[int, int, int, int, int]
"""Device, inode, times of modification and change in nanoseconds, size."""


class HashCache:
    """SHA-256 by what a file can't keep when its content changes. Bounded, for many threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[FileKey, str] = OrderedDict()
        self._lock = Lock()

    def find(self, key: FileKey) -> str | None:
        """The digest of the file, if it is known."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def keep(self, key: FileKey, digest: str) -> None:
        """Remember a digest, forgetting the one that wasn't asked for the longest."""
        with self._lock:
            self._known[key] = digest
            self._known.move_to_end(key)
            while len(self._known) > self._size:
                self._known.popitem(last=False)


class UnixAttestor:
    """Proves uid, gid, path and SHA-256 of the program. See the module for what each is worth."""

    name = "unix"

    def __init__(
        self,
        *,
        proc: Path,
        wait: Callable[[float], None],
        recheck_after: float,
        max_program: int,
        cache_size: int,
    ) -> None:
        self._proc = proc
        self._wait = wait
        self._recheck_after = recheck_after
        self._max_program = max_program
        self._cache = HashCache(cache_size)
        self._unmapped_uid = _find_unmapped(proc, "uid")
        self._unmapped_gid = _find_unmapped(proc, "gid")

    def attest(self, peer: Peer) -> tuple[str, ...]:
        """The selectors of `peer`; raises `Denied` if it is gone or changes while looked at."""
        return attest_alone(self.examine(peer), self._wait, self._recheck_after)

    def examine(self, peer: Peer) -> Examination:
        """The same in two looks; see `WorkloadAttestor`."""
        proved = []
        if peer.uid != self._unmapped_uid:
            proved.append(f"unix:uid:{peer.uid}")
        if peer.gid != self._unmapped_gid:
            proved.append(f"unix:gid:{peer.gid}")
        watch = watch_process(self._proc, peer)
        if watch is not None:
            proved += yield from self._examine_program(watch)
        return tuple(proved)

    def _examine_program(self, watch: ProcessWatch) -> Generator[None, None, list[str]]:
        """Path and digest; nothing for a program that may not be looked at or was deleted."""
        link = watch.folder / "exe"
        pinned = _open_quietly(link, os.O_PATH)  # holds the inode, so its number can't be reused
        if pinned is None:
            watch.check()
            return []
        try:
            first = os.fstat(pinned)
            path = _read_link(link)
            if first.st_nlink == 0 or path is None or path.endswith(_DELETED):
                watch.check()
                return []
            digest = self._hash_program(link, first)
            yield
            watch.check()
            if not _is_same(link, first) or _read_link(link) != path:
                raise Denied(_CHANGED)
            if digest is not None:
                if _key_of(os.fstat(pinned)) != _key_of(first):
                    raise Denied(_REWRITTEN)
                self._cache.keep(_key_of(first), digest)
        finally:
            os.close(pinned)
        proved = [f"unix:path:{path}"] if _is_selector(f"unix:path:{path}") else []
        return [*proved, f"unix:sha256:{digest}"] if digest is not None else proved

    def _hash_program(self, link: Path, first: os.stat_result) -> str | None:
        """SHA-256 of the file that `first` describes; None if it may not or need not be read."""
        if not stat.S_ISREG(first.st_mode) or first.st_size > self._max_program:
            return None
        known = self._cache.find(_key_of(first))
        if known is not None:
            return known
        opened = _open_quietly(link, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        if opened is None:
            return None
        try:
            if _key_of(os.fstat(opened)) != _key_of(first):
                raise Denied(_CHANGED)
            digest = hashlib.sha256()
            done = 0
            while chunk := os.pread(opened, _CHUNK, done):
                digest.update(chunk)
                done += len(chunk)
                if done > first.st_size:
                    break
            if done != first.st_size or _key_of(os.fstat(opened)) != _key_of(first):
                raise Denied(_REWRITTEN)
            return digest.hexdigest()
        finally:
            os.close(opened)


def open_attestor(
    *,
    proc: Path = PROC,
    wait: Callable[[float], None] = time.sleep,
    recheck_after: float = RECHECK_AFTER,
    max_program: int = MAX_PROGRAM,
    cache_size: int = CACHE_SIZE,
) -> WorkloadAttestor:
    """The attestor. `wait` takes seconds; programs above `max_program` bytes aren't hashed."""
    return UnixAttestor(
        proc=proc,
        wait=wait,
        recheck_after=recheck_after,
        max_program=max_program,
        cache_size=cache_size,
    )


def _find_unmapped(proc: Path, kind: str) -> int:
    """The number that stands for every user unknown in our user namespace; -1 if all are known.

    In a namespace with a partial map (user_namespaces(7)) all strangers look like 'nobody', who
    is somebody else: then that number proves nothing.
    """
    try:
        if (proc / f"self/{kind}_map").read_text("ascii").split() == _ALL_USERS:
            return -1
        return int((proc / f"sys/kernel/overflow{kind}").read_text("ascii"))
    except FileNotFoundError:  # a kernel without user namespaces
        return -1


def _open_quietly(path: Path, flags: int) -> int | None:
    """A descriptor, or None: not ours to read, a kernel thread, or gone (`check` tells which)."""
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:
        return None


def _read_link(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:  # unreadable, or longer than the kernel can write
        return None


def _is_same(link: Path, first: os.stat_result) -> bool:
    try:
        now = link.stat()
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (first.st_dev, first.st_ino)


def _key_of(found: os.stat_result) -> FileKey:
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def _is_selector(text: str) -> bool:
    """Whether a registration could name it: no control characters, no broken encoding."""
    try:
        text.encode("utf-8")
        Selector.parse(text)
    except (Invalid, UnicodeEncodeError):
        return False
    return True
