"""Telling a program that its files have changed: by a signal or by a command.

The pid file is the program's own and may hold anything: it is read with bounds, and it can't make
the agent signal a process that the program's user couldn't signal itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from troth.agent.place import OTHERS_WRITE

log = structlog.get_logger(__name__)

COMMAND_TIMEOUT = 30.0
"""Seconds that a reload may take."""
MAX_PID = 2**22
"""The kernel's PID_MAX_LIMIT, proc(5)."""
_KILL_TIMEOUT = 5.0
_MAX_PID_FILE = 64
_PID_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class SignalReload:
    """Send `number` to the process whose pid stands in `pid_file`."""

    number: int
    pid_file: Path


@dataclass(frozen=True, slots=True)
class CommandReload:
    """Run a program, as the agent's user, without a shell."""

    argv: tuple[str, ...]


Reload = SignalReload | CommandReload


class Reloading:
    """One program's reloads, each in a task of its own: files never wait for a program.

    The newest wins and ends the one before, which was about files that are no longer current.
    """

    def __init__(self, reload: Reload, uid: int) -> None:
        self._reload = reload
        self._uid = uid
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tell the program, and don't wait for it."""
        before = self._task
        if before is not None:
            before.cancel()
        self._task = asyncio.get_running_loop().create_task(self._run(before))

    async def close(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before}, timeout=_KILL_TIMEOUT)
        await request_reload(self._reload, self._uid)


async def request_reload(reload: Reload, uid: int, patience: float = COMMAND_TIMEOUT) -> None:
    """Tell the program; failure is told in the log, since the files are right all the same.

    A signal goes to processes of `uid` only: a pid file may name anybody. Gives up after
    `patience` seconds.
    """
    try:
        async with asyncio.timeout(patience):
            match reload:
                case SignalReload():
                    await asyncio.to_thread(_send_signal, reload, uid)
                case CommandReload():
                    await _run_command(reload)
    except TimeoutError:
        log.warning("files.reload_failed", reason=f"it took longer than {patience:g} s")
    except (OSError, ValueError, OverflowError) as error:
        log.warning("files.reload_failed", reason=str(error)[:300])


def _send_signal(reload: SignalReload, uid: int) -> None:
    pid = _read_pid(reload.pid_file, uid)
    process = os.pidfd_open(pid)  # from here on the pid can't become somebody else's unnoticed
    try:
        owners = _read_owners(pid)
        if owners != {uid}:
            listed = ", ".join(map(str, sorted(owners)))
            raise ValueError(
                f"process {pid} of {reload.pid_file} belongs to uid {listed}, not {uid}; signal "
                "a process of the target's user, or use a command"
            )
        signal.pidfd_send_signal(process, reload.number)
    finally:
        os.close(process)


def _read_pid(path: Path, uid: int) -> int:
    """The pid in a regular file that nobody but root, our user and `uid` can have written."""
    descriptor = os.open(path, _PID_FILE)  # a FIFO doesn't block, a symlink leads nowhere
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is not a regular file")
        if found.st_uid not in (0, os.geteuid(), uid) or found.st_mode & OTHERS_WRITE:
            raise ValueError(f"others than uid {uid} could have written {path}; chmod go-w it")
        words = file.read(_MAX_PID_FILE).split()
    pid = int(words[0]) if words and words[0].isdigit() else 0
    if not 1 < pid <= MAX_PID:
        raise ValueError(f"{path} holds no pid")
    return pid


def _read_owners(pid: int) -> set[int]:
    """Real, effective, saved and file-system uid, proc(5); all alike but in a setuid program."""
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        if line.startswith("Uid:"):
            return {int(word) for word in line.split()[1:]}
    raise ValueError(f"/proc/{pid}/status names no owner")


async def _run_command(reload: CommandReload) -> None:
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *reload.argv, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/", start_new_session=True
    )
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its session is its own: children as well
            await process.wait()
    if code != 0:
        log.warning("files.reload_failed", reason=f"{reload.argv[0]} exited with {code}")
