"""Anchors are given the newest published checkpoint: places that the server can't change later."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
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

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mooring:
    """A configured anchor: where it is, as it may be shown, and after how many seconds it gets
    another checkpoint."""

    where: str
    anchor: Anchor
    every: float

    @property
    def cursor(self) -> str:
        """What the size that it has is kept under."""
        return f"log.anchored/{sha256(self.where.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class AnchorCheckpoints:
    """Background: give each anchor the newest published checkpoint, if it is due and has changed.

    Idempotent; a crash may give an anchor the same checkpoint twice.
    """

    store: Store
    clock: Clock
    moorings: tuple[Mooring, ...]
    _due: dict[str, float] = field(default_factory=dict)

    async def __call__(self) -> None:
        """One after the other; one that fails is tried again by the next run."""
        now = self.clock.monotonic()
        due = [one for one in self.moorings if self._due.get(one.cursor, now) <= now]
        if not due:
            return
        newest, held = await self.store.read(
            lambda tx: (
                tx.checkpoints.newest_published(),
                {one.cursor: tx.cursors.get(one.cursor) for one in due},
            )
        )
        if newest is None:
            return
        wanting = [one for one in due if held[one.cursor] < newest.size]
        if not wanting or not await self.store.transact(self._take_lease):
            return
        for mooring in wanting:
            await self._deliver(mooring, newest)

    def _take_lease(self, tx: Transaction) -> bool:
        return tx.leases.take(LEASE, self.store.holder, self.clock.now(), LEASE_TTL)

    async def _deliver(self, mooring: Mooring, newest: StoredCheckpoint) -> None:
        try:
            await mooring.anchor.deliver(newest.note.encode())
            await self.store.transact(lambda tx: tx.cursors.save(mooring.cursor, newest.size))
        except Conflict:
            pass  # another server gave it a newer one
        except TrothError as error:
            log.error("log.unanchored", anchor=mooring.where, detail=error.detail)
            return
        self._due[mooring.cursor] = self.clock.monotonic() + mooring.every
