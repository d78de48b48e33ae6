"""Looking at a process through /proc without being fooled by one that exits, or by its successor.

A pid is a name that the kernel gives to somebody else once its process is gone. Three things tell
whether it still means the process that connected: the peer's pidfd (Linux ≥ 6.5), which stays with
that one process; the start time, which a successor doesn't share; and that the
process still runs under the uid that the kernel noted on connect.
"""

from __future__ import annotations

import re
import select
from dataclasses import dataclass
from pathlib import Path

from troth.core.errors import Denied
from troth.drivers.attestors import Peer

PROC = Path("/proc")
MAX_FILE = 64 * 1024
_GONE = "The calling process has exited; connect again and stay until the answer has come."
_REPLACED = "The calling process was replaced by another one with its number; connect again."
_OTHER_USER = "The calling process has changed its user since it connected; connect again."
_STATE, _START_TIME = 0, 19  # fields 3 and 22 of proc_pid_stat(5), counted after the name
_EFFECTIVE_UID = re.compile(rb"^Uid:\s+\d+\s+(\d+)\s", re.MULTILINE)


class UserChanged(Denied):
    """The process runs under another user than the one that connected."""


@dataclass(frozen=True, slots=True)
class ProcessWatch:
    """A process that was there when the watch began; `started` is in clock ticks since boot."""

    proc: Path
    peer: Peer
    started: int

    @property
    def folder(self) -> Path:
        """The process' folder in /proc."""
        return self.proc / str(self.peer.pid)

    def check(self) -> None:
        """Raise `Denied` unless the pid still means the process that connected."""
        _check_alive(self.peer)
        if read_start_time(self.proc, self.peer.pid) != self.started:
            raise Denied(_REPLACED)
        if read_user(self.proc, self.peer.pid) != self.peer.uid:
            raise UserChanged(_OTHER_USER)
        _check_alive(self.peer)


def watch_process(proc: Path, peer: Peer) -> ProcessWatch | None:
    """Begin to watch the peer; raises `Denied` if it is gone.

    None if it lives where this process can't look: in a PID namespace that isn't a child of ours
    (the kernel then gives pid 0), or behind a /proc mounted with ``hidepid``. Then only what the
    kernel said on connect is known.
    """
    if peer.pid <= 0:
        return None
    _check_alive(peer)
    if peer.pidfd >= 0 and not (proc / str(peer.pid)).exists():
        _check_alive(peer)
        return None
    try:
        watch = ProcessWatch(proc, peer, read_start_time(proc, peer.pid))
        watch.check()
    except PermissionError:
        return None
    return watch


def read_start_time(proc: Path, pid: int) -> int:
    """When the process started, in clock ticks since boot: field 22 of proc_pid_stat(5).

    With the pid and the boot id it names one process for good. Raises `Denied` if it is gone or
    has exited and waits for its parent.
    """
    data = read_proc_file(proc / str(pid) / "stat")
    fields = data[data.rfind(b")") + 1 :].split()  # the name may hold blanks and brackets
    if len(fields) <= _START_TIME or fields[_STATE] in (b"Z", b"X"):
        raise Denied(_GONE)
    return int(fields[_START_TIME])


def read_user(proc: Path, pid: int) -> int:
    """The effective uid of the process now, -1 if it has none; raises `Denied` if it is gone."""
    found = _EFFECTIVE_UID.search(read_proc_file(proc / str(pid) / "status"))
    return -1 if found is None else int(found.group(1))


def read_program(proc: Path, pid: int) -> tuple[int, int] | None:
    """Device and inode of the program that the process runs; None if it may not be looked at."""
    try:
        found = (proc / str(pid) / "exe").stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def read_boot_id(proc: Path) -> str:
    """The random id of this boot of the machine."""
    return read_proc_file(proc / "sys/kernel/random/boot_id").decode("ascii").strip()


def read_proc_file(path: Path) -> bytes:
    """The first 64 KiB of a file in /proc; raises `Denied` if its process is gone."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE)
    except (FileNotFoundError, ProcessLookupError):
        raise Denied(_GONE) from None


def _check_alive(peer: Peer) -> None:
    """A pidfd becomes readable when its process exits (pidfd_open(2))."""
    if peer.pidfd < 0:
        return
    poll = select.poll()
    poll.register(peer.pidfd, select.POLLIN)
    if poll.poll(0):
        raise Denied(_GONE)
