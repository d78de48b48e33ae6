"""Who calls: runs the attestors on a peer and names the process for as long as it lives."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from troth.agent.cache import Process
from troth.core.errors import Denied, Internal, Invalid, TrothError
from troth.drivers.attestors import Peer, WorkloadAttestor
from troth.drivers.attestors.procfs import PROC, read_boot_id, read_start_time, watch_process
from troth.identity.selectors import Selector
from troth.wire.api.certificates import MAX_SELECTORS

log = structlog.get_logger(__name__)

MAX_THREADS = 16
"""Attestors mostly wait for files and for their second look, so more threads than cores."""


class Attestation:
    """Turns peers into processes, in a few threads of its own."""

    def __init__(self, attestors: Iterable[WorkloadAttestor], proc: Path = PROC) -> None:
        self._attestors = tuple(attestors)
        self._proc = proc
        self._boot_id = read_boot_id(proc)
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="attest")

    async def examine(self, peer: Peer) -> Process:
        """The process behind `peer`; raises `Denied` if it is gone or changes while looked at."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._examine, peer)

    def close(self) -> None:
        """End the threads; what they do now is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _examine(self, peer: Peer) -> Process:
        watch = watch_process(self._proc, peer)
        texts = [text for attestor in self._attestors for text in _ask(attestor, peer)]
        attested = frozenset(_read_selectors(texts))
        if not attested:
            raise Denied("Nothing could be proved about this process; the agent's log says why.")
        if watch is not None:
            watch.check()
        started = None if watch is None else watch.started
        proc, pid = self._proc, peer.pid
        return Process(
            instance_key=self._name_instance(peer, started),
            pid=max(pid, 0),
            selectors=tuple(sorted(str(selector) for selector in attested))[:MAX_SELECTORS],
            attested=attested,
            is_alive=lambda: started is not None and _is_running(proc, pid, started),
        )

    def _name_instance(self, peer: Peer, started: int | None) -> str:
        """One process for good: a pid comes back, but not with the same start in the same boot.

        Processes that live where /proc shows nothing (see `watch_process`) share an instance by
        user and group, since nothing else is known of them.
        """
        if started is None:
            return derive_key(self._boot_id, "unseen", str(peer.uid), str(peer.gid))
        return derive_key(self._boot_id, str(peer.pid), str(started))


def derive_key(*parts: str) -> str:
    """A stable name from `parts`: the first 32 hexadecimal digits of their SHA-256."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _ask(attestor: WorkloadAttestor, peer: Peer) -> tuple[str, ...]:
    try:
        return attestor.attest(peer)
    except TrothError:
        raise
    except Exception as error:  # a driver's bug refuses one caller, it doesn't end the agent
        log.exception("attestor.failed", attestor=attestor.name, pid=peer.pid)
        raise Internal("An attestor failed; the agent's log has the reason.") from error


def _read_selectors(texts: Iterable[str]) -> Iterable[Selector]:
    for text in texts:
        try:
            yield Selector.parse(text)
        except Invalid as error:
            log.warning("attestor.selector_unusable", reason=error.detail)


def _is_running(proc: Path, pid: int, started: int) -> bool:
    try:
        return read_start_time(proc, pid) == started
    except Denied:
        return False
