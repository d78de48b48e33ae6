"""Attestors: what can be proved about a process, from the kernel and the node it runs on."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

from troth.core.errors import Invalid
from troth.identity.selectors import Selector

BUILT_IN: dict[str, str] = {
    "unix": "troth.drivers.attestors.unix:open_attestor",
    "cgroup": "troth.drivers.attestors.cgroup:open_attestor",
}
"""Name → ``module:factory``; each factory takes no arguments beyond keyword settings."""

RECHECK_AFTER = 0.02
"""Seconds between the two looks at a process. Longer than the clock tick of any kernel, so that a
file that was changed in between can't carry the same time of change."""

Examination = Generator[None, None, tuple[str, ...]]
"""Two looks at one process. It pauses after the first; what it returns after the second counts."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel told when it connected.

    `pidfd` is an open file descriptor from SO_PEERPIDFD, or -1 where the kernel has none; the
    socket's owner closes it.
    """

    pid: int
    uid: int
    gid: int
    pidfd: int = -1


class WorkloadAttestor(Protocol):
    """Turns a peer into selectors. Blocking: run in a thread.

    The selectors are ``type:attribute:value`` texts. Raises `Denied` if the process is gone or
    changed under the attestor's eyes; an empty tuple means that it has nothing to say.
    """

    name: str

    def examine(self, peer: Peer) -> Examination:
        """Begin to look at `peer`.

        It pauses once, or not at all, for `RECHECK_AFTER`: whoever runs it lets that time pass,
        once for all attestors together. Each step may run in another thread.
        """
        ...

    def attest(self, peer: Peer) -> tuple[str, ...]:
        """The selectors proved about `peer` by this attestor alone."""
        ...


def load_attestors(
    names: Iterable[str] = tuple(BUILT_IN), **settings: Any
) -> tuple[WorkloadAttestor, ...]:
    """Open the named attestors; raises `Invalid` for an unknown name.

    `settings` go to each of them: `proc`, `wait` and `recheck_after` are what all understand.
    """
    opened = []
    for name in names:
        if name not in BUILT_IN:
            known = ", ".join(BUILT_IN)
            raise Invalid(f"There is no workload attestor {name[:40]!r}; known: {known}.")
        module, _, factory = BUILT_IN[name].partition(":")
        made = getattr(import_module(module), factory)(**settings)
        opened.append(cast(WorkloadAttestor, made))
    return tuple(opened)


def attest_peer(
    attestors: Iterable[WorkloadAttestor],
    peer: Peer,
    wait: Callable[[float], None] = time.sleep,
) -> frozenset[Selector]:
    """Everything that `attestors` prove about `peer`. Blocking: call it in a thread.

    Raises `Denied` if the process is gone or changed under their eyes; what one attestor proved
    before doesn't count then.
    """
    looks = Looks(attestor.examine(peer) for attestor in attestors)
    try:
        looks.begin()
        wait(RECHECK_AFTER)
        return frozenset(Selector.parse(text) for text in looks.finish())
    finally:
        looks.close()


def attest_alone(
    examination: Examination, wait: Callable[[float], None], seconds: float
) -> tuple[str, ...]:
    """What one examination proves, with `wait` called between its looks if it has two."""
    looks = Looks((examination,))
    try:
        if looks.begin():
            wait(seconds)
        return tuple(looks.finish())
    finally:
        looks.close()


class Looks:
    """Several examinations of one process around a single pause."""

    def __init__(self, examinations: Iterable[Examination]) -> None:
        self._paused: list[Examination] = []
        self._waiting = list(examinations)
        self._proved: list[str] = []

    def begin(self) -> bool:
        """The first look of each; whether any of them wants a second."""
        while self._waiting:
            self._paused.append(self._waiting.pop(0))
            self._step(self._paused[-1])
        return bool(self._paused)

    def finish(self) -> list[str]:
        """The second look of each, and all that was proved."""
        for examination in list(self._paused):
            self._step(examination)
        if self._paused:
            raise RuntimeError("an attestor wants a third look")
        return self._proved

    def close(self) -> None:
        """Let go of what the examinations hold; nothing happens to those that have ended."""
        for examination in (*self._paused, *self._waiting):
            with suppress(ValueError):  # a thread is in it just now; it is let go when that ends
                examination.close()
        self._paused, self._waiting = [], []

    def _step(self, examination: Examination) -> None:
        try:
            next(examination)
        except StopIteration as end:
            self._paused.remove(examination)
            self._proved += end.value
