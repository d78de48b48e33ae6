"""How each program of the demo lives: as one user, told what to do, telling what happens.

Commands come as words on standard input, events go as JSON Lines to standard output. The end of
the input is the end of the program, so nothing outlives the demo.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from concurrent.futures import thread
from typing import Any

from troth.core.clock import Clock, SystemClock

_LOADED_EARLY = (thread,)
"""What asyncio loads late, when this user may not be able to read it."""

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, prctl(2)


def make_parser(purpose: str | None) -> ArgumentParser:
    """A parser of arguments with the one that all programs take."""
    parser = ArgumentParser(description=purpose)
    parser.add_argument("--uid", type=int, help="the user (and group) to become")
    return parser


def become(uid: int | None) -> None:
    """Give up root for user and group `uid`, for good; None keeps the present user.

    Call it when everything is imported: the new user may not be able to read the interpreter's
    own files. The process dies with its parent from here on.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.umask(0o077)
    # After the change of user, which clears it.
    if libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "can't ask to die with the parent process")


class Voice:
    """Writes events; each carries the machine's monotonic time, which all processes share."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return self._clock.monotonic()

    def tell(self, event: str, **facts: Any) -> None:
        """One event, in one write: threads don't mix their lines."""
        line = json.dumps({"event": event, "at": self.now(), **facts})
        try:
            os.write(1, line.encode() + b"\n")
        except BrokenPipeError:
            os._exit(0)  # nobody listens any more


def hear() -> Iterator[str]:
    """The commands, until the input ends."""
    for line in sys.stdin:
        if word := line.strip():
            yield word
