"""What the agent holds for the processes of its node: keys, certificates, tokens.

Bounded, for all together and for each uid: who isn't watching makes room for who is, and beyond
that newcomers are told to wait. Every new process costs a key, a certificate and rows in the
server's journal, so each uid may bring only so many new ones a second.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from troth.agent.snapshot import Content, Registration
from troth.agent.timing import Backoff, Broadcast
from troth.agent.view import Svid
from troth.core.bucket import Bucket
from troth.core.errors import Limited, TrothError, Unavailable
from troth.identity.selectors import Selector

MAX_WORKLOADS = 10_000
MAX_WORKLOADS_PER_UID = 2_000
NEW_BURST = MAX_WORKLOADS_PER_UID
"""An agent that restarts meets all of a uid's processes at once, and serves them all."""
NEW_PER_SECOND = 5
"""What grows back. A job that crashes and restarts in a loop brings a new process each time: the
server's journal keeps every one, so this bounds what one broken unit writes in a day."""
MAX_BUCKETS = 1_024
NOBODY = -1
"""The uid of what the agent itself holds, such as identities kept as files: not counted."""
MAX_TOKENS = 64
"""JWT-SVIDs kept for one process."""


@dataclass(frozen=True, slots=True)
class Process:
    """An attested process.

    `instance_key` is the node's stable name for it; `is_alive` tells, without blocking for long,
    whether it is still the same one, with the same program and user. `only` narrows it to the
    identity of that name. `uid` is whose allowance it uses.
    """

    instance_key: str
    pid: int
    selectors: tuple[str, ...]
    attested: frozenset[Selector]
    is_alive: Callable[[], bool] = field(compare=False, repr=False)
    only: str | None = None
    uid: int = field(default=NOBODY, compare=False)

    @property
    def key(self) -> str:
        """Its place in the cache: another program in the same process is another workload."""
        return "\n".join((self.instance_key, self.only or "", *sorted(self.selectors)))


@dataclass(frozen=True, slots=True)
class Token:
    """A kept JWT-SVID, the state of affairs in which it was issued, and the key that signed it."""

    token: str = field(repr=False)
    renew_at: datetime
    expires_at: datetime
    registration: Registration
    locked: frozenset[str]
    signer: str = ""


@dataclass(slots=True, eq=False)
class Holding:
    """One identity in the hands of one process, or on its way there.

    `registration` is what it was last seen to; `locked` the locks known at the last failure.
    `svid` is None while there is nothing to serve, for whatever reason; `instance_id` stays
    known through that, since locks name it. `signer` is the key identifier of what signed it.
    """

    registration: Registration
    backoff: Backoff
    svid: Svid | None = None
    content: Content | None = None
    serial: int = 0
    signer: str = ""
    instance_id: str = ""
    renew_at: datetime | None = None
    retry_at: datetime | None = None
    failure: TrothError | None = None
    locked: frozenset[str] = frozenset()
    task: asyncio.Task[None] | None = None
    cut_off: bool = False

    def drop(self) -> None:
        """Serve nothing any more and forget what is under way."""
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self.svid = None
        self.forgive()

    def forgive(self, retry_at: datetime | None = None) -> None:
        """Things have changed: past failures say nothing about the next try, at `retry_at`."""
        self.failure = None
        self.retry_at = retry_at
        self.backoff.reset()

    def find_due(self) -> datetime | None:
        """When somebody must look at it again."""
        moments = []
        if self.svid is not None:
            moments.append(self.svid.not_after)
        if self.task is None:
            if self.retry_at is not None:
                moments.append(self.retry_at)
            elif self.svid is not None and self.renew_at is not None:
                moments.append(self.renew_at)
        return min(moments, default=None)


@dataclass(slots=True, eq=False)
class Workload:
    """One process and all it holds. `held` maps SPIFFE IDs it was shown to their expiry.

    `ended` is set once the process is gone or another: then nothing is served any more. `default`
    is the SPIFFE ID that its default identity had in the last view.
    """

    process: Process
    changes: Broadcast = field(default_factory=Broadcast)
    holdings: dict[str, Holding] = field(default_factory=dict)
    matched: tuple[Registration, ...] = ()
    held: dict[str, datetime] = field(default_factory=dict)
    tokens: OrderedDict[tuple[str, tuple[str, ...]], Token] = field(default_factory=OrderedDict)
    default: str | None = None
    watchers: int = 0
    used_at: float = 0.0
    ended: TrothError | None = None

    def drop(self) -> None:
        """Forget every key, certificate and token."""
        for holding in self.holdings.values():
            holding.drop()
        self.matched = ()
        self.holdings.clear()
        self.tokens.clear()

    def keep_token(self, key: tuple[str, tuple[str, ...]], token: Token) -> None:
        """Remember a token, forgetting the one that was asked for the longest ago."""
        self.tokens[key] = token
        self.tokens.move_to_end(key)
        while len(self.tokens) > MAX_TOKENS:
            self.tokens.popitem(last=False)


class Cache:
    """Workloads by key, the one used the longest ago first."""

    def __init__(
        self, limit: int = MAX_WORKLOADS, limit_per_uid: int = MAX_WORKLOADS_PER_UID
    ) -> None:
        self._limit = limit
        self._limit_per_uid = limit_per_uid
        self._workloads: OrderedDict[str, Workload] = OrderedDict()
        self._counts: Counter[int] = Counter()
        self._new: OrderedDict[int, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._workloads)

    def __iter__(self) -> Iterator[Workload]:
        return iter(list(self._workloads.values()))

    def find(self, key: str) -> Workload | None:
        """The workload under `key`, if it is here."""
        return self._workloads.get(key)

    def admit(self, process: Process, now: float) -> Workload:
        """The workload of `process`, new or known. `now` is of a monotonic clock, in seconds.

        Raises `Limited` when there is no room, `Unavailable` when its uid brings new processes
        faster than it may.
        """
        workload = self._workloads.get(process.key)
        if workload is None:
            self._make_room(process.uid)
            self._check_pace(process.uid, now)
            workload = self._workloads[process.key] = Workload(process)
            self._counts[process.uid] += 1
        self._workloads.move_to_end(process.key)
        return workload

    def remove(self, workload: Workload) -> None:
        """Forget the workload and all it holds; one that has come in its place stays."""
        workload.drop()
        key, uid = workload.process.key, workload.process.uid
        if self._workloads.get(key) is workload:
            del self._workloads[key]
            self._counts[uid] -= 1
            if not self._counts[uid]:
                del self._counts[uid]

    def _make_room(self, uid: int) -> None:
        """One place for `uid`: a uid at its bound gives up its own idle one before anybody's."""
        crowded = uid != NOBODY and self._counts[uid] >= self._limit_per_uid
        if not crowded and len(self._workloads) < self._limit:
            return
        idle = [workload for workload in self._workloads.values() if not workload.watchers]
        own = (workload for workload in idle if workload.process.uid == uid)
        oldest = next(own, None) or (None if crowded else next(iter(idle), None))
        if oldest is not None:
            self.remove(oldest)
            return
        whose = f"processes of uid {uid}" if crowded else "processes"
        raise Limited(
            f"This node's agent already serves {self._counts[uid] if crowded else self._limit} "
            f"{whose}, which is all it may; end some of them, or try again later."
        )

    def _check_pace(self, uid: int, now: float) -> None:
        if uid == NOBODY:
            return
        bucket = self._new.get(uid)
        if bucket is None:
            bucket = self._new[uid] = Bucket(NEW_BURST, NEW_PER_SECOND, now)
        self._new.move_to_end(uid)
        while len(self._new) > MAX_BUCKETS:
            self._new.popitem(last=False)
        if not bucket.take(1, now):
            raise Unavailable(
                f"Uid {uid} starts new processes faster than the {NEW_PER_SECOND} a second that "
                "get an identity here; is one of them crashing and restarting? Try again soon."
            )
