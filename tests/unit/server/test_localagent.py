"""The local agent: found again after a crash of the server, and only while it lives."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from troth.server.localagent import find_agent

HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "w+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(f"{os.getpid()}\\nhttps://localhost:8444\\n")
file.flush()
print("held", flush=True)
sys.stdin.read()
"""


def test_no_lock_file_no_agent(tmp_path: Path) -> None:
    assert find_agent(tmp_path / "agent.lock") is None


def test_a_lock_that_nobody_holds_is_no_agent(tmp_path: Path) -> None:
    lock = tmp_path / "agent.lock"
    for text in ("", "nonsense", "-1", "0", str(os.getpid()), "999999999"):
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


def test_looking_takes_no_lock(tmp_path: Path) -> None:
    lock = tmp_path / "agent.lock"
    lock.write_text(str(os.getpid()))
    assert find_agent(lock) is None
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
