"""The sealer: gives committed journal rows their positions.

A journal that was set back (a restored backup, a failover that lost commits) gets back from the log
what it had sealed before anything else is sealed: so no position is ever given to another event.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from troth.audit.entry import StoredEvent, read_leaf, render_entry
from troth.audit.redaction import REDACTED, read_redacted
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
        if self._memory is not None and not self._store.shared:
            memory = self._memory
            await self._store.transact(lambda tx: put_back_lost(tx, memory, self._clock.now()))

    def _seal_batch(self, tx: Transaction) -> tuple[Sealed | None, str | None]:
        """What was sealed, or who must do it instead."""
        # The lease's row stays locked until COMMIT: nobody else numbers meanwhile, and what is
        # read afterwards is what the last one left.
        if not tx.leases.take(LEASE, self._holder, self._clock.now(), LEASE_TTL):
            return None, tx.leases.find_holder(LEASE)
        before = tx.journal.head()
        if self._memory is not None:
            head = put_back_lost(tx, self._memory, self._clock.now())
            if head:
                tx.journal.notify_sealed(self._holder)
                return Sealed([], before, head, more=True, restored=True), None
        count = tx.journal.seal(BATCH)
        if not count:
            return Sealed([], before, before, more=False), None
        tx.journal.notify_sealed(self._holder)
        events = tx.journal.after(before, BATCH, without=self._without)
        return Sealed(events, before, before + count, count == BATCH), None


def put_back_lost(tx: Transaction, memory: Memory, now: datetime) -> int:
    """Give the journal the sealed events that it has lost, and record that; up to which position,
    or 0 if it lost none."""
    before = head = tx.journal.head()
    while lost := memory.list_lost(tx.journal.find_stored(head), BATCH):
        tx.journal.remove_waiting([event.salt for event in lost if event.salt is not None])
        tx.journal.put_back(lost)
        for event in lost:
            if event.type == REDACTED:
                _redact_again(tx, event)
        head += len(lost)
    if head == before:
        return 0
    body = {"first": before + 1, "last": head}
    tx.journal.append(Event("log.restored", "log", ACTOR, now, REQUEST, body))
    return head


def _redact_again(tx: Transaction, event: StoredEvent) -> None:
    """What was redacted after the backup was made is in it whole."""
    position = read_redacted(event)
    if not position:
        return
    row = tx.journal.find_stored(position)
    if row is not None and row.digest is None:
        tx.journal.redact(position, bytes.fromhex(read_leaf(render_entry(row)[0]).detail))
    tx.dead_letters.redact("journal", position)
