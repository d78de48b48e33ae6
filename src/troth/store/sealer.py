"""The sealer: gives committed journal rows their positions."""

from __future__ import annotations

from datetime import timedelta

from troth.core.clock import Clock
from troth.store.engine import Store, Transaction

LEASE = "sealer"
LEASE_TTL = timedelta(seconds=10)
BATCH = 1000


class Sealer:
    """Seals in batches, one node at a time; `holder` names this node's process."""

    def __init__(self, store: Store, *, clock: Clock, holder: str) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder

    async def seal_once(self) -> int:
        """Seal all that is committed; how many events got a position.

        0 if there was nothing, or if another node holds the lease: that one is told.
        """
        total = 0
        while True:
            sealed, other = await self._store.transact_locked(self._seal_batch)
            if other is not None:
                self._store.ask_sealer(other)
            if sealed:
                total += sealed
            if sealed < BATCH:
                return total

    def _seal_batch(self, tx: Transaction) -> tuple[int, str | None]:
        """How many were sealed, and who must do it instead if something waits."""
        # The lease's row stays locked until COMMIT: nobody else numbers meanwhile, and what is
        # read afterwards is what the last one left.
        if not tx.leases.take(LEASE, self._holder, self._clock.now(), LEASE_TTL):
            return 0, tx.leases.find_holder(LEASE) if tx.journal.is_any_waiting() else None
        sealed = tx.journal.seal(BATCH)
        if sealed:
            tx.journal.notify_sealed(self._holder)
        return sealed, None
