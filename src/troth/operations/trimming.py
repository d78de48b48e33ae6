"""The journal's old rows leave the database once the log, the archive and all sinks have them.

What state is worked out from stays: the rows about authorities (the bundle's sequence number) and
about the decision log's segments, which are few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from troth.archive.tiles import LogFolder
from troth.audit.tile import WIDTH
from troth.core.clock import Clock
from troth.operations.recording import BACKGROUND, record_event
from troth.store.engine import Store
from troth.store.transaction import Transaction

KEPT = ("authority.", "decisions.", "journal.", "log.", "policy.recorded")
BATCH = 1000
BATCHES = 100
"""Per run: the writer has others to serve."""


@dataclass(frozen=True, slots=True)
class TrimJournal:
    """Background: delete rows that are older than `kept` and lie elsewhere. Idempotent.

    `archived` says up to which position the archive has all, `needed` after which one somebody else
    still reads. On a shared database rows go only
    if `shared_place`: a server that joins later makes its tiles from them otherwise.
    """

    store: Store
    clock: Clock
    folder: LogFolder
    archived: Callable[[Transaction], int]
    kept: timedelta
    needed: Callable[[Transaction], int | None] = lambda tx: None
    shared_place: bool = False

    async def __call__(self) -> None:
        """Delete in their order, some at a time."""
        if self.store.shared and not self.shared_place:
            return
        for _ in range(BATCHES):
            if await self.store.transact(self._trim) < BATCH:
                return

    def _trim(self, tx: Transaction) -> int:
        # The last row stays: positions are counted on from it.
        # So do those of the bundle that isn't full: a damaged edge is written anew from them.
        full = self.folder.size // WIDTH * WIDTH
        last = min(full, self.archived(tx), tx.journal.head() - 1)
        others = self.needed(tx)
        last = last if others is None else min(last, others)
        before = self.clock.now() - self.kept
        count, end = tx.journal.trim(last, before, BATCH, keep=KEPT)
        if count:
            record_event(
                tx, BACKGROUND, "journal.trimmed", "journal", self.clock.now(), rows=count, last=end
            )
        return count
