"""Anchors are given the newest published checkpoint: places that the server can't change later."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256

import structlog

from troth.core.clock import Clock
from troth.core.errors import Conflict, TrothError
from troth.drivers.anchors import Anchor
from troth.store.checkpoints import StoredCheckpoint
from troth.store.engine import Store
from troth.store.transaction import Transaction

LEASE = "log.anchor"
LEASE_TTL = timedelta(seconds=60)
PATIENCE = 15.0
"""Seconds for one delivery, whatever the driver does; all of them together are within the lease."""
LONGEST_PAUSE = 60.0
"""Seconds until an anchor that fails is tried again."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mooring:
    """A configured anchor: where it is, as it may be shown, after how many seconds it gets another
    checkpoint, and its whole target, which may hold what others mustn't know."""

    where: str
    anchor: Anchor
    every: float
    target: str = field(repr=False)

    @property
    def cursor(self) -> str:
        """What the size that it has, and since when, are kept under."""
        return f"log.anchored/{sha256(self.target.encode()).hexdigest()[:16]}"


@dataclass(slots=True)
class _Memory:
    """When an anchor is looked at again, and how often it failed since it took a checkpoint."""

    due: float = 0.0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class AnchorCheckpoints:
    """Background: give each anchor the newest published checkpoint, if it is due and has changed.

    Idempotent; a crash may give an anchor the same checkpoint twice.
    """

    store: Store
    clock: Clock
    moorings: tuple[Mooring, ...]
    _memories: dict[str, _Memory] = field(default_factory=dict)

    async def __call__(self) -> None:
        """All that are due at once; one that fails is tried again, less and less often."""
        now = self.clock.monotonic()
        due = [one for one in self.moorings if self._recall(one).due <= now]
        if not due:
            return
        newest, wanting = await self.store.read(partial(self._look, due))
        if newest is None or not wanting or not await self.store.transact(self._take_lease):
            return
        ended = await asyncio.gather(
            *(self._deliver(one, newest) for one in wanting), return_exceptions=True
        )
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome

    def _look(
        self, due: list[Mooring], tx: Transaction
    ) -> tuple[StoredCheckpoint | None, list[Mooring]]:
        """The newest checkpoint, and who hasn't got it and wasn't given another one lately by any
        server."""
        newest, wanting = tx.checkpoints.newest_published(), []
        for one in due:
            if newest is not None and tx.cursors.get(one.cursor) < newest.size:
                wait = self._wait(tx.settings.get(one.cursor), one.every)
                if wait > 0:
                    self._recall(one).due = self.clock.monotonic() + wait
                else:
                    wanting.append(one)
        return newest, wanting

    def _wait(self, given: str | None, every: float) -> float:
        """Seconds until `every` are over; a clock that was set back makes nobody wait longer."""
        if given is None:
            return 0.0
        passed = (self.clock.now() - datetime.fromisoformat(given)).total_seconds()
        return every - passed if passed >= 0 else 0.0

    def _recall(self, mooring: Mooring) -> _Memory:
        return self._memories.setdefault(mooring.cursor, _Memory())

    def _take_lease(self, tx: Transaction) -> bool:
        return tx.leases.take(LEASE, self.store.holder, self.clock.now(), LEASE_TTL)

    async def _deliver(self, mooring: Mooring, newest: StoredCheckpoint) -> None:
        memory = self._recall(mooring)
        pause = min(LONGEST_PAUSE, 2.0 ** min(memory.failures, 10))
        memory.failures += 1  # unless it takes it, whatever comes in between
        memory.due = self.clock.monotonic() + pause
        try:
            async with asyncio.timeout(PATIENCE):
                await mooring.anchor.deliver(newest.note.encode())
            await self.store.transact(partial(self._save, mooring, newest))
        except Conflict:
            pass  # another server gave it a newer one
        except TimeoutError:
            detail = f"It didn't answer in {PATIENCE:g} seconds."
            log.error("log.unanchored", anchor=mooring.where, detail=detail)
            return
        except TrothError as error:
            log.error("log.unanchored", anchor=mooring.where, detail=error.detail)
            return
        memory.failures, memory.due = 0, self.clock.monotonic() + mooring.every

    def _save(self, mooring: Mooring, newest: StoredCheckpoint, tx: Transaction) -> None:
        tx.cursors.save(mooring.cursor, newest.size)
        tx.settings.set(mooring.cursor, self.clock.now().isoformat())
