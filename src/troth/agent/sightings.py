"""Workloads that nobody registered: asks the server once whether a template has an identity.

The caller waits until the identity has come with the server's next word, so that its first call
succeeds. What was refused is not asked again for a while, and no uid may ask too often.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import structlog

from troth.agent.cache import Process
from troth.agent.connection import Api
from troth.agent.snapshot import Snapshot
from troth.agent.sync import Sync
from troth.agent.workloads import soften
from troth.core.bucket import Bucket
from troth.core.clock import Clock
from troth.core.errors import Denied, Internal, TrothError, Unavailable
from troth.identity.identity import State
from troth.wire.api.templates import SightedWorkload, SightWorkload

log = structlog.get_logger(__name__)

PATIENCE = 5.0
"""Seconds that a caller waits for its identity to come."""
REFUSED_FOR = 10.0
"""Seconds for which a refusal is believed."""
BURST = 50
PER_SECOND = 0.2
"""How many new identities one uid may ask for: a unit that restarts under ever new names, or a
user who makes up programs, must not use up what a template may make."""
MAX_REMEMBERED = 1_000

Key = tuple[str, ...]


class NotIntroduced(Denied):
    """The server decided that this process gets nothing; `detail` is for the administrator."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    until: float
    detail: str


class Sightings:
    """Introduces processes to the server, each once at a time."""

    def __init__(self, api: Api, sync: Sync, clock: Clock, patience: float = PATIENCE) -> None:
        self._api = api
        self._sync = sync
        self._clock = clock
        self._patience = patience
        self._asking: dict[Key, asyncio.Task[Snapshot]] = {}
        self._refused: OrderedDict[Key, _Refusal] = OrderedDict()
        self._buckets: OrderedDict[int, Bucket] = OrderedDict()

    async def introduce(self, process: Process) -> Snapshot:
        """The snapshot in which the process has an identity.

        Raises `NotIntroduced` if it gets none, `Unavailable` if that can't be said now.
        """
        refusal = self._refused.get(process.selectors)
        if refusal is not None and self._clock.monotonic() < refusal.until:
            raise NotIntroduced(refusal.detail)
        try:
            return await asyncio.shield(self._ask(process))
        except NotIntroduced:
            raise
        except TrothError as error:
            raise soften(error) from error

    async def close(self) -> None:
        """Give up everything under way."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, process: Process) -> asyncio.Task[Snapshot]:
        """The one question about such a process that is under way, until its answer is known."""
        key = process.selectors
        task = self._asking.get(key)
        if task is None:
            self._check_pace(process.uid)
            task = asyncio.get_running_loop().create_task(self._meet(process))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return task

    def _finish(self, key: Key, done: asyncio.Task[Snapshot]) -> None:
        del self._asking[key]
        if not done.cancelled():
            done.exception()  # looked at, even if all who waited have gone

    async def _meet(self, process: Process) -> Snapshot:
        return await self._wait(await self._call(process))

    async def _call(self, process: Process) -> SightedWorkload:
        request = SightWorkload(selectors=list(process.selectors), pid=process.pid)
        try:
            sighted = await self._api.call("identity.sight", request)
            if not isinstance(sighted, SightedWorkload):
                raise Internal("The server answered something else than an identity.")
            if sighted.state == State.PROPOSED:
                raise NotIntroduced(
                    f"'{sighted.name}', made by template '{sighted.template}', awaits approval: "
                    f"troth identity activate {sighted.name} --reason TEXT"
                )
        except TrothError as error:
            if error.retryable or isinstance(error, Internal):
                raise
            self._remember(process.selectors, error.detail)
            raise NotIntroduced(error.detail) from error
        log.info("workload.introduced", pid=process.pid, identity=sighted.name)
        return sighted

    def _remember(self, key: Key, detail: str) -> None:
        self._refused[key] = _Refusal(self._clock.monotonic() + REFUSED_FOR, detail)
        self._refused.move_to_end(key)
        while len(self._refused) > MAX_REMEMBERED:
            self._refused.popitem(last=False)

    async def _wait(self, sighted: SightedWorkload) -> Snapshot:
        """Until the server has sent the identity to this node; it knows it already."""
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    version = self._sync.changes.version
                    snapshot = self._sync.require_snapshot()
                    found = snapshot.registrations.get(sighted.identity_id)
                    if found is not None and not found.is_lapsed(self._clock.now()):
                        return snapshot
                    await self._sync.changes.wait_beyond(version)
        except TimeoutError:
            raise Unavailable(
                "The server has made an identity for this process, and has not sent it yet; try "
                "again in a moment."
            ) from None

    def _check_pace(self, uid: int) -> None:
        now = self._clock.monotonic()
        bucket = self._buckets.get(uid)
        if bucket is None:
            bucket = self._buckets[uid] = Bucket(BURST, PER_SECOND, now)
        self._buckets.move_to_end(uid)
        while len(self._buckets) > MAX_REMEMBERED:
            self._buckets.popitem(last=False)
        if not bucket.take(1, now):
            raise Unavailable(
                f"Processes of uid {uid} ask for new identities faster than may be here; is one "
                "of them restarting under ever new names? Try again soon."
            )
