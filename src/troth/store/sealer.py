"""The sealer: gives committed journal rows their positions.

A journal that was set back (a restored backup, a failover that lost commits) gets back from the log
what it had sealed before anything else is sealed: so no position is ever given to another event.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from troth.audit.entry import StoredEvent
from troth.core.clock import Clock
from troth.core.events import Event, SealedEvent
from troth.store.engine import Store, Transaction

LEASE = "sealer"
LEASE_TTL = timedelta(seconds=10)
BATCH = 1000
ACTOR = "troth"
REQUEST = "background"


@dataclass(frozen=True, slots=True)
class Sealed:
    """What one transaction of the sealer did.

    It numbered what is between the positions `before` and `head`; `events` are those of them, in
    order, that weren't to be left out. `more` says whether something may have been left. If they
    were `restored`, they had been sealed before and were lost: the state that they tell of may be
    another one.
    """

    events: list[SealedEvent]
    before: int
    head: int
    more: bool
    restored: bool = False


class Memory(Protocol):
    """What remembers sealed events beside the journal: the log."""

    def list_lost(self, last: StoredEvent | None, limit: int) -> list[StoredEvent]:
        """What it has after the journal's last sealed event, in order; nothing if it has another
        event in that one's place."""
        ...


class Sealer:
    """Seals in batches, one node at a time; `holder` names this node's process.

    Events of the types in `without` are sealed and not shown.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        holder: str,
        without: Collection[str] = (),
        memory: Memory | None = None,
    ) -> None:
        self._memory = memory
        self._store = store
        self._without = without
        self._clock = clock
        self._holder = holder
        self._leads = False

    @property
    def holder(self) -> str:
        """The name under which this node takes the lease."""
        return self._holder

    @property
    def signs(self) -> bool:
        """Whether this node signs the log: the one that seals, or the only one there is."""
        return self._leads or not self._store.shared

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

    async def put_back_lost(self) -> None:
        """Give a database file the events that it lost, before anything is appended to it.

        On a shared database that is part of sealing.
        """
        first = last = 0
        while not self._store.shared and (some := await self._store.transact(self._put_back_some)):
            first, last = first or some[0], some[1]
        if last:
            await self._store.transact(lambda tx: self._record(tx, first, last))

    def _put_back_some(self, tx: Transaction) -> tuple[int, int] | None:
        head = tx.journal.head()
        lost = self._list_lost(tx, head)
        if not lost:
            return None
        tx.journal.put_back(lost)
        return head + 1, head + len(lost)

    def _list_lost(self, tx: Transaction, head: int) -> list[StoredEvent]:
        if self._memory is None:
            return []
        return self._memory.list_lost(tx.journal.find_stored(head), BATCH)

    def _seal_batch(self, tx: Transaction) -> tuple[Sealed | None, str | None]:
        """What was sealed, or who must do it instead."""
        # The lease's row stays locked until COMMIT: nobody else numbers meanwhile, and what is
        # read afterwards is what the last one left.
        if not tx.leases.take(LEASE, self._holder, self._clock.now(), LEASE_TTL):
            return None, tx.leases.find_holder(LEASE)
        before = tx.journal.head()
        lost = self._list_lost(tx, before)
        if lost:
            return self._put_back(tx, before, lost), None
        count = tx.journal.seal(BATCH)
        if not count:
            return Sealed([], before, before, more=False), None
        tx.journal.notify_sealed(self._holder)
        events = tx.journal.after(before, BATCH, without=self._without)
        return Sealed(events, before, before + count, count == BATCH), None

    def _put_back(self, tx: Transaction, before: int, lost: Sequence[StoredEvent]) -> Sealed:
        head = before + len(lost)
        tx.journal.remove_waiting([event.salt for event in lost if event.salt is not None])
        tx.journal.put_back(lost)
        self._record(tx, before + 1, head)
        tx.journal.notify_sealed(self._holder)
        return Sealed([], before, head, more=True, restored=True)

    def _record(self, tx: Transaction, first: int, last: int) -> None:
        body = {"first": first, "last": last}
        now = self._clock.now()
        tx.journal.append(Event("log.restored", "log", ACTOR, now, REQUEST, body))
