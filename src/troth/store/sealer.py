"""The sealer: gives committed journal rows their positions."""

from __future__ import annotations

from collections.abc import Collection
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
    """What one transaction of the sealer did.

    It numbered what is between the positions `before` and `head`; `events` are those of them, in
    order, that weren't to be left out. `more` says whether something may have been left.
    """

    events: list[SealedEvent]
    before: int
    head: int
    more: bool


class Sealer:
    """Seals in batches, one node at a time; `holder` names this node's process.

    Events of the types in `without` are sealed and not shown.
    """

    def __init__(
        self, store: Store, *, clock: Clock, holder: str, without: Collection[str] = ()
    ) -> None:
        self._store = store
        self._without = without
        self._clock = clock
        self._holder = holder
        self._leads = False

    @property
    def leads(self) -> bool:
        """Whether this node held the lease when it last looked: a guess, that spares a look."""
        return self._leads

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
        before = tx.journal.head()
        count = tx.journal.seal(BATCH)
        if not count:
            return Sealed([], before, before, more=False), None
        tx.journal.notify_sealed(self._holder)
        events = tx.journal.after(before, BATCH, without=self._without)
        return Sealed(events, before, before + count, count == BATCH), None
