"""Who calls: runs the attestors on a peer and names the process for as long as it lives."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from troth.agent.cache import Process
from troth.agent.lanes import Lanes
from troth.agent.timing import Sleep
from troth.agent.view import Stale
from troth.core.errors import Denied, Internal, Invalid, TrothError
from troth.drivers.attestors import (
    RECHECK_AFTER,
    Examination,
    Looks,
    Peer,
    WorkloadAttestor,
)
from troth.drivers.attestors.procfs import (
    PROC,
    ProcessWatch,
    UserChanged,
    read_boot_id,
    read_program,
    read_start_time,
    read_user,
    watch_process,
)
from troth.identity.selectors import Selector
from troth.wire.api.certificates import MAX_SELECTORS

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_THREADS = 16
THREADS_PER_UID = 2
"""Reading a large program takes a thread long, so no uid gets them all."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as it was attested: start in clock ticks since boot, effective uid, program."""

    started: int
    uid: int
    program: tuple[int, int] | None


class Attestation:
    """Turns peers into processes, in a few threads of its own; none of them ever sleeps."""

    def __init__(
        self,
        attestors: Iterable[WorkloadAttestor],
        proc: Path = PROC,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._attestors = tuple(attestors)
        self._proc = proc
        self._boot_id = read_boot_id(proc)
        self._sleep = sleep
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="attest")
        # What queues is bounded before it comes here, see `PeerHandle.run`.
        self._lanes = Lanes(THREADS_PER_UID, sys.maxsize)

    async def examine(self, peer: Peer) -> Process:
        """The process behind `peer`.

        Raises `Denied` if it is gone or changes while looked at, `Stale` if it runs under another
        user than the one that connected.
        """
        looks = Looks(_guard(attestor, peer) for attestor in self._attestors)
        try:
            watch, seen = await self._run(peer.uid, self._look_first, peer, looks)
            await self._sleep(RECHECK_AFTER)
            return await self._run(peer.uid, self._look_again, peer, looks, watch, seen)
        except UserChanged as error:
            raise Stale(error.detail) from error
        finally:
            looks.close()

    def close(self) -> None:
        """End the threads; what they do now is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, uid: int, work: Callable[..., T], *arguments: object) -> T:
        await self._lanes.enter(uid)
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, work, *arguments)
        finally:
            self._lanes.leave(uid)

    def _look_first(self, peer: Peer, looks: Looks) -> tuple[ProcessWatch | None, Seen | None]:
        watch = watch_process(self._proc, peer)
        seen = None if watch is None else look_at_process(self._proc, peer.pid)
        looks.begin()
        return watch, seen

    def _look_again(
        self, peer: Peer, looks: Looks, watch: ProcessWatch | None, seen: Seen | None
    ) -> Process:
        attested = frozenset(_read_selectors(looks.finish()))
        if not attested:
            raise Denied("Nothing could be proved about this process; the agent's log says why.")
        if watch is not None:
            watch.check()
        proc, pid = self._proc, peer.pid
        return Process(
            instance_key=self._name_instance(peer, None if watch is None else watch.started),
            pid=max(pid, 0),
            selectors=tuple(sorted(str(selector) for selector in attested))[:MAX_SELECTORS],
            attested=attested,
            is_alive=lambda: seen is None or _is_same(proc, pid, seen),
            uid=peer.uid,
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


def look_at_process(proc: Path, pid: int) -> Seen:
    """What tells a process from its successor, under its number or in its place."""
    return Seen(read_start_time(proc, pid), read_user(proc, pid), read_program(proc, pid))


def _guard(attestor: WorkloadAttestor, peer: Peer) -> Examination:
    try:
        return (yield from attestor.examine(peer))
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


def _is_same(proc: Path, pid: int, seen: Seen) -> bool:
    """Whether the process still is what it was; yes, as long as that can't be looked at."""
    try:
        now = look_at_process(proc, pid)
    except Denied:
        return False
    except OSError as error:  # no descriptors left, or no right any more: look again later
        log.warning("process.not_looked_at", pid=pid, error=error.strerror)
        return True
    unknown = now.program is None or seen.program is None
    return (now.started, now.uid) == (seen.started, seen.uid) and (
        unknown or now.program == seen.program
    )
