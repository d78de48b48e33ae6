"""Telling a program that its files have changed: by a signal or by a command."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

COMMAND_TIMEOUT = 30.0
_MAX_PID_FILE = 64


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


async def request_reload(reload: Reload, uid: int) -> None:
    """Tell the program; failure is told in the log, since the files are right all the same.

    A signal goes to processes of `uid` only: a stale pid file may name anybody.
    """
    try:
        match reload:
            case SignalReload():
                _send_signal(reload, uid)
            case CommandReload():
                await _run_command(reload)
    except (OSError, ValueError) as error:
        log.warning("files.reload_failed", reason=str(error)[:300])


def _send_signal(reload: SignalReload, uid: int) -> None:
    with reload.pid_file.open("rb") as file:
        text = file.read(_MAX_PID_FILE).split()
    pid = int(text[0]) if text and text[0].isdigit() else 0
    if pid <= 1:
        raise ValueError(f"{reload.pid_file} holds no pid")
    process = os.pidfd_open(pid)  # from here on the pid can't become somebody else's unnoticed
    try:
        owner = Path(f"/proc/{pid}").stat().st_uid
        if owner != uid:
            raise ValueError(f"process {pid} of {reload.pid_file} belongs to uid {owner}")
        signal.pidfd_send_signal(process, reload.number)
    finally:
        os.close(process)


async def _run_command(reload: CommandReload) -> None:
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *reload.argv, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/", start_new_session=True
    )
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT):
            code = await process.wait()
    except TimeoutError:
        log.warning("files.reload_failed", reason=f"{reload.argv[0]} took too long")
        return
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code != 0:
        log.warning("files.reload_failed", reason=f"{reload.argv[0]} exited with {code}")
