"""Attestors: what can be proved about a process, from the kernel and the node it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
