"""Attestors: what can be proved about a process, from the kernel and the node it runs on."""

from __future__ import annotations

from collections.abc import Iterable
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
    """Turns a peer into selectors. Blocking: called in a thread.

    Returns ``type:attribute:value`` texts. Raises `Denied` if the process is gone or changed
    under the attestor's eyes; returns an empty tuple if it has nothing to say.
    """

    name: str

    def attest(self, peer: Peer) -> tuple[str, ...]:
        """The selectors proved about `peer`."""
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


def attest_peer(attestors: Iterable[WorkloadAttestor], peer: Peer) -> frozenset[Selector]:
    """Everything that `attestors` prove about `peer`. Blocking: call it in a thread.

    Raises `Denied` if the process is gone or changed under their eyes; what one attestor proved
    before doesn't count then.
    """
    texts = [text for attestor in attestors for text in attestor.attest(peer)]
    return frozenset(Selector.parse(text) for text in texts)
