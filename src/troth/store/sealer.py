"""The sealer: gives committed journal rows their positions and wakes those who read them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from troth.core.clock import Clock
from troth.store.engine import Store, Transaction

LEASE = "sealer"
LEASE_TTL = timedelta(seconds=10)
BATCH = 1000


class Wake:
    """A reader's bell. Several rings before one look are one ring."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - the answer is not an error
        """Wait until there may be something new, at most `timeout` seconds; whether it rang.

        Look either way: a lost ring costs a period, never a result.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def ring(self) -> None:
        """Wake the reader, now or when it next waits."""
        self._event.set()


class Sealer:
    """Seals in batches, one node at a time; `holder` names this node's process."""

    def __init__(self, store: Store, *, clock: Clock, holder: str) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._wakes: list[Wake] = []

    def subscribe(self) -> Wake:
        """A bell that rings whenever events were sealed here; `unsubscribe` gives it back."""
        wake = Wake()
        self._wakes.append(wake)
        return wake

    def unsubscribe(self, wake: Wake) -> None:
        """Stop ringing `wake`; again is no error."""
        if wake in self._wakes:
            self._wakes.remove(wake)

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
                self._ring()
            if sealed < BATCH:
                return total

    def _seal_batch(self, tx: Transaction) -> tuple[int, str | None]:
        """How many were sealed, and who must do it instead if something waits."""
        # The lease's row stays locked until COMMIT: nobody else numbers meanwhile, and what is
        # read afterwards is what the last one left.
        if not tx.leases.take(LEASE, self._holder, self._clock.now(), LEASE_TTL):
            return 0, tx.leases.find_holder(LEASE) if tx.journal.is_any_waiting() else None
        sealed = len(tx.journal.seal(BATCH))
        if sealed:
            tx.journal.notify_sealed(self._holder)
        return sealed, None

    def _ring(self) -> None:
        for wake in self._wakes:
            wake.ring()
