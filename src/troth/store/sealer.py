"""The sealer: gives committed journal rows their positions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from troth.core.clock import Clock
from troth.core.events import SealedEvent
from troth.store.engine import Store, Transaction

LEASE = "sealer"
LEASE_TTL = timedelta(seconds=10)
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Sealed:
    """What one transaction of the sealer did: the events that it numbered, in order, the last
    position that there is now, and whether something may have been left."""

    events: list[SealedEvent]
    head: int
    more: bool


class Sealer:
    """Seals in batches, one node at a time; `holder` names this node's process."""

    def __init__(self, store: Store, *, clock: Clock, holder: str) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._leads = False

    @property
    def leads(self) -> bool:
        """Whether this node held the lease when it last looked: a guess, that spares a look."""
        return self._leads

    async def seal_once(self) -> int:
        """Seal all that is committed; how many events got a position.

        0 if there was nothing, or if another node holds the lease: that one is told.
        """
        total = 0
        while (sealed := await self.seal_batch()) is not None:
            total += len(sealed.events)
            if not sealed.more:
                break
        return total

    async def seal_batch(self) -> Sealed | None:
        """Seal what is committed, at most `BATCH` events; None if that is another node's turn.

        That one is told, now and after every commit here until it is this node's turn again.
        """
        sealed, other = await self._store.transact_locked(self._seal_batch)
        self._leads = sealed is not None
        self._store.name_sealer(other)
        return sealed

    def _seal_batch(self, tx: Transaction) -> tuple[Sealed | None, str | None]:
        """What was sealed, or who must do it instead."""
        # The lease's row stays locked until COMMIT: nobody else numbers meanwhile, and what is
        # read afterwards is what the last one left.
        if not tx.leases.take(LEASE, self._holder, self._clock.now(), LEASE_TTL):
            return None, tx.leases.find_holder(LEASE)
        events = tx.journal.seal(BATCH)
        if not events:
            return Sealed([], tx.journal.head(), more=False), None
        tx.journal.notify_sealed(self._holder)
        return Sealed(events, events[-1].position, len(events) == BATCH), None
