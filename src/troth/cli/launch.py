"""A program that runs in the foreground of a command: signals go on to it, its end comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass

FORWARDED = frozenset(
    {
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)
TYPED = frozenset({signal.SIGINT, signal.SIGQUIT})
"""What a terminal sends to every process in its foreground: the program has it already."""

FROM_KERNEL = 0x80
"""`si_code` of a signal that no process sent (sigaction(2), SI_KERNEL)."""

_CODE_OF_SIGNAL = 128
"""What a shell adds to the number of the signal that ended a program (POSIX, XCU 2.8.2)."""
NOT_FOUND, NOT_EXECUTABLE = 127, 126


@dataclass(frozen=True, slots=True)
class Held:
    """Signals that wait until somebody asks for them; `before` is the mask as it was."""

    before: frozenset[int]


@contextmanager
def hold_signals() -> Iterator[Held]:
    """Hold back what is to be forwarded, in this thread and those that it starts from now on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    try:
        yield Held(frozenset(map(int, before)))
    finally:
        _drop_pending(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_program(words: Sequence[str], environ: Mapping[str, str], held: Held) -> int:
    """Run a program to its end; its exit code, 128 and the signal's number if one ended it.

    Raises OSError if it can't be started.
    """
    defaults = [signal.SIGPIPE, signal.SIGXFSZ]  # Python ignores them, and programs rely on them
    pid = os.posix_spawnp(
        words[0], list(words), dict(environ), setsigmask=list(held.before), setsigdef=defaults
    )
    while True:
        info = signal.sigwaitinfo({*FORWARDED, signal.SIGCHLD})
        if info.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended == pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else _CODE_OF_SIGNAL - code
        elif info.si_signo not in TYPED or info.si_code != FROM_KERNEL:
            os.kill(pid, info.si_signo)  # it isn't gone: nobody else waits for it


def _drop_pending(before: Set[int]) -> None:
    """Take what arrived for a program that has ended: it must not end this process late."""
    while pending := (signal.sigpending() - before) & {*FORWARDED, signal.SIGCHLD}:
        signal.sigtimedwait(pending, 0)
