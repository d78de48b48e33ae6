"""The local agent: found again after a crash of the server, and only while it lives."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from troth.core.errors import Unavailable
from troth.server.localagent import LocalAgent, find_agent

HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "w+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(f"{os.getpid()}\\nhttps://localhost:8444\\n")
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


class Watch:
    """A local agent whose program is a small script; pauses are told and pass at once."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        self.pauses: list[float] = []
        self.tokens = 0
        self.failures: list[Exception] = []
        program = folder / "program"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        self.agent = LocalAgent(
            data=folder,
            server_url="https://localhost:8443",
            mutual_url="https://localhost:8444",
            environ={"PATH": os.defpath},
            make_token=self.make_token,
            sleep=self.sleep,
        )

    async def make_token(self) -> str:
        self.tokens += 1
        if self.failures:
            raise self.failures.pop()
        return f"token-{self.tokens}"

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    async def run_until(self, condition: Callable[[], bool]) -> None:
        task = asyncio.create_task(self.agent.run())
        try:
            async with asyncio.timeout(100):
                while not condition():
                    assert not task.done(), task
                    await asyncio.sleep(0.001)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_a_store_that_fails_to_make_a_token_ends_no_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    got = tmp_path / "got"
    watch = Watch(tmp_path, monkeypatch, f"read token; echo $token >> {got}; read forever")
    watch.failures = [Unavailable("The store is busy."), OSError(28, "No space left on device")]
    # The program ends when its standard input does, and leaves what it was given.
    asyncio.run(watch.run_until(lambda: got.exists() and "token-3" in got.read_text()))
    assert watch.pauses[:2] == [1.0, 2.0]
    told = capsys.readouterr().out
    assert "The store is busy." in told
    assert "No space left on device" in told


def test_a_program_that_cannot_be_started_ends_no_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = Watch(tmp_path, monkeypatch, "true")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    asyncio.run(watch.run_until(lambda: len(watch.pauses) >= 6))
    assert watch.pauses[:6] == [1.0, 2.0, 5.0, 10.0, 30.0, 30.0]
    assert "FileNotFoundError" in capsys.readouterr().out


def test_an_agent_that_was_well_is_restarted_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(tmp_path, monkeypatch, "exit 1")

    async def scenario() -> None:
        loop, ahead = asyncio.get_running_loop(), 0.0
        real, make_token = loop.time, watch.agent.make_token

        async def live_long() -> str:
            nonlocal ahead
            ahead += 61.0 if watch.tokens == 3 else 1.0
            return await make_token()

        monkeypatch.setattr(loop, "time", lambda: real() + ahead)
        watch.agent = replace(watch.agent, make_token=live_long)
        await watch.run_until(lambda: len(watch.pauses) >= 6)

    asyncio.run(scenario())
    assert watch.pauses[:6] == [1.0, 2.0, 5.0, 1.0, 2.0, 5.0]


def test_no_lock_file_no_agent(tmp_path: Path) -> None:
    assert find_agent(tmp_path / "agent.lock") is None


def test_a_lock_that_nobody_holds_is_no_agent(tmp_path: Path) -> None:
    lock = tmp_path / "agent.lock"
    for text in ("", "nonsense", "-1", "0", str(os.getpid()), "999999999", "9" * 40, "9" * 5000):
        lock.write_text(text)
        assert find_agent(lock) is None


def test_the_holder_is_found_until_it_ends(tmp_path: Path) -> None:
    lock = tmp_path / "agent.lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        found = find_agent(lock)
        assert found is not None
        pidfd, server = found
        assert server == "https://localhost:8444"
        info = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        assert f"Pid:\t{holder.pid}\n" in info
        os.close(pidfd)
        holder.kill()
        holder.wait()
    assert find_agent(lock) is None


def test_a_pid_of_before_is_not_believed_while_another_holds_the_lock(tmp_path: Path) -> None:
    """The pid was reused by a stranger, and the new agent hasn't written its own yet."""
    lock = tmp_path / "agent.lock"
    with subprocess.Popen(["sleep", "1000"]) as stranger, lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{stranger.pid}\nhttps://localhost:8444\n")
        file.flush()
        try:
            assert find_agent(lock) is None
        finally:
            stranger.kill()


def test_a_file_that_changes_during_the_look_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "agent.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{os.getpid()}\nhttps://localhost:8444\n")
        file.flush()
        found = find_agent(lock)
        assert found is not None
        os.close(found[0])
        open_pidfd = os.pidfd_open

        def look(pid: int) -> int:
            lock.write_text(f"{pid + 1}\nhttps://localhost:8444\n")
            return open_pidfd(pid)

        monkeypatch.setattr(os, "pidfd_open", look)
        assert find_agent(lock) is None


def test_looking_takes_no_lock(tmp_path: Path) -> None:
    lock = tmp_path / "agent.lock"
    lock.write_text(str(os.getpid()))
    assert find_agent(lock) is None
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
