"""The local agent beside the server: started, watched, restarted, adopted.

It is a process of its own, so that it holds no signing key and outlives a crash of the server: an
agent that is still there when the server comes back is adopted, and its streams never notice.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

NODE = "local"
LOCK = "agent.lock"
RESTART_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LocalAgent:
    """Keeps one agent running for this data directory.

    `make_token` gives a fresh join token, which reaches the agent on its standard input and
    nowhere else; an agent that has joined before doesn't need it.
    """

    data: Path
    server_url: str
    mutual_url: str
    make_token: Callable[[], Awaitable[str]]

    async def run(self) -> None:
        """Run until cancelled; then end the agent too."""
        failures = 0
        while True:
            pidfd = find_agent(self.data / "agent" / LOCK)
            if pidfd is not None:
                log.info("agent.adopted", data=str(self.data))
                await _wait_adopted(pidfd)
            else:
                code = await self._run_child()
                log.warning("agent.ended", code=code)
            pause = RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)]
            failures += 1
            await asyncio.sleep(pause)

    async def _run_child(self) -> int:
        command = [
            *(sys.executable, "-m", "troth", "agent"),
            *("--server", self.server_url, "--mtls-url", self.mutual_url),
            *("--ca", str(self.data / "ca.pem"), "--data", str(self.data), "--join-token", "-"),
        ]
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            # A terminal's Ctrl-C reaches the server, which then ends its agent in order.
            start_new_session=True,
        )
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                assert child.stdin is not None
                child.stdin.write((await self.make_token()).encode() + b"\n")
                child.stdin.close()
            return await child.wait()
        finally:
            await _end_child(child)


async def _end_child(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    child.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


def find_agent(lock: Path) -> int | None:
    """A pidfd of the living agent that holds `lock`, or None.

    The lock file holds its holder's pid. The pid is believed only while somebody holds the lock,
    looked at after the pidfd was opened, so a reused pid is never taken for the agent.
    """
    try:
        pid = int(lock.read_text() or "0")
        pidfd = os.pidfd_open(pid) if pid > 0 else None
    except (OSError, ValueError):
        return None
    if pidfd is not None and not _is_locked(lock):
        os.close(pidfd)
        return None
    return pidfd


def _is_locked(lock: Path) -> bool:
    import fcntl

    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


async def _wait_adopted(pidfd: int) -> None:
    """Wait until the adopted agent ends; end it when cancelled."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await ended.wait()
        raise
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
