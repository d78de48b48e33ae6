"""The local agent beside the server: started, watched, restarted, adopted.

It is a process of its own, so that it holds no signing key and outlives a crash of the server: an
agent that is still there when the server comes back is adopted, and its streams never notice.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

LOCK = "agent.lock"
RESTART_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
STOP_SECONDS = 10.0
HEALTHY_SECONDS = 60.0
"""An agent that lived longer was well: the next restart is a quick one again."""


@dataclass(frozen=True, slots=True)
class LocalAgent:
    """Keeps one agent running for this data directory.

    `make_token` gives a fresh join token, which reaches the agent on its standard input and
    nowhere else; an agent that has joined before doesn't need it. `environ` is all that it gets
    of an environment, since ours may hold the key-encryption key or a database's password.
    """

    data: Path
    server_url: str
    mutual_url: str
    environ: Mapping[str, str]
    make_token: Callable[[], Awaitable[str]]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def run(self) -> None:
        """Run until cancelled; then end the agent too. Whatever fails is tried again."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                again_at_once = await self._watch_one()
            except Exception as error:  # noqa: BLE001  # full disk, busy store: watch on
                log.error("agent.not_started", reason=f"{type(error).__name__}: {error}"[:300])
                again_at_once = False
            if again_at_once:
                continue
            if loop.time() - began > HEALTHY_SECONDS:
                failures = 0
            pause = RESTART_SECONDS[min(failures, len(RESTART_SECONDS) - 1)]
            failures += 1
            await self.sleep(pause)

    async def _watch_one(self) -> bool:
        """Start or adopt an agent and see it end; whether the next may follow at once."""
        found = find_agent(self.data / "agent" / LOCK)
        if found is None:
            code = await self._run_child()
            log.warning("agent.ended", code=code)
            return False
        pidfd, followed = found
        if followed == self.mutual_url:
            log.info("agent.adopted", data=str(self.data))
            await _wait_adopted(pidfd)
            return False
        log.info("agent.replaced", followed=followed, now=self.mutual_url)
        await _end_adopted(pidfd)
        return True

    @property
    def _command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "troth", "agent"),
            *("--server", self.server_url, "--mtls-url", self.mutual_url),
            *("--ca", str(self.data / "ca.pem"), "--data", str(self.data), "--join-token", "-"),
        ]

    async def _run_child(self) -> int:
        child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            env=dict(self.environ),
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


def find_agent(lock: Path) -> tuple[int, str] | None:
    """A pidfd of the living agent that holds `lock` and the server that it follows, or None.

    The lock file holds its holder's pid and the server's mutual-TLS URL, a line each. Between
    taking the lock and writing there, a new agent's file still names the one before. So a pid is
    believed only if the file says the same once the lock was seen held, and if that very process,
    alive to the end of the look, has the file open.
    """
    try:
        text = lock.read_text()
        lines = text.splitlines()
        pid = int(lines[0]) if lines else 0
        pidfd = os.pidfd_open(pid) if pid > 0 else None
    except (OSError, ValueError, OverflowError):
        return None
    if pidfd is None:
        return None
    try:
        held = _is_locked(lock) and lock.read_text() == text and _has_open(pid, lock)
        sure = held and _is_alive(pidfd)
    except (OSError, ValueError):
        sure = False
    if not sure:
        os.close(pidfd)
        return None
    return pidfd, lines[1] if len(lines) > 1 else ""


def _is_alive(pidfd: int) -> bool:
    poll = select.poll()  # not select(): the descriptor may be a high number
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)


def _has_open(pid: int, path: Path) -> bool:
    wanted = path.stat()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.path.samestat(descriptor.stat(), wanted):
                return True
    return False


def _is_locked(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


async def _wait_adopted(pidfd: int) -> None:
    """Wait until the adopted agent ends; end it when cancelled."""
    ended = _watch_end(pidfd)
    try:
        await ended.wait()
    except asyncio.CancelledError:
        await _terminate(pidfd, ended)
        raise
    finally:
        _forget(pidfd)


async def _end_adopted(pidfd: int) -> None:
    """End an agent that follows a server at another address."""
    ended = _watch_end(pidfd)
    try:
        await _terminate(pidfd, ended)
    finally:
        _forget(pidfd)


def _watch_end(pidfd: int) -> asyncio.Event:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(pidfd, ended.set)
    return ended


async def _terminate(pidfd: int, ended: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, TimeoutError):
            signal.pidfd_send_signal(pidfd, number)
            async with asyncio.timeout(STOP_SECONDS):
                await ended.wait()
            return


def _forget(pidfd: int) -> None:
    asyncio.get_running_loop().remove_reader(pidfd)
    os.close(pidfd)
