"""What tests of the agent ask the kernel for: other uids, and what lives of a program."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest


def as_root(test):
    """Mark a test that needs files or processes of another uid."""
    unless = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act for another uid")
    return pytest.mark.root(unless(test))


def await_end(leader: int, seconds: float = 10.0) -> None:
    """Wait until nothing of a process group lives: the kernel kills at once, yet not instantly."""
    end = time.monotonic() + seconds
    while alive := list_group(leader):
        if time.monotonic() > end:
            raise AssertionError(f"still there: {alive}")
        os.sched_yield()


def list_group(leader: int) -> list[str]:
    """What lives of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state != "Z":
                found.append(path.parent.name)
    return found
