"""The decision log's segments and the journal: what was closed, and what was removed.

A segment's root must be in the journal exactly once. So the number of the last segment that is
there stands in a cursor of the database, moved in the transaction that holds the event: whatever
crash comes before, it is done again, and after it never. A database that was restored from a backup
has the older cursor, and gets the events anew that it lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from troth.archive.log import DecisionLog
from troth.archive.segment import ClosedSegment
from troth.core.clock import Clock
from troth.operations.recording import BACKGROUND, record_event
from troth.store.engine import Store
from troth.store.transaction import Transaction


async def find_last_journaled(store: Store, server: str) -> int:
    """The number of the server's last segment whose root is in the journal; 0 before the first.

    New segments must have higher numbers, also where the old files are gone.
    """
    return await store.read(lambda tx: tx.cursors.get(_name_closed(server)))


@dataclass(frozen=True, slots=True)
class CloseSegments:
    """Background: close the open segment if it is due, and journal what is closed. Idempotent."""

    store: Store
    clock: Clock
    decisions: DecisionLog

    async def __call__(self) -> None:
        """One event for each segment that has none, in their order."""
        log = self.decisions
        if log.is_due:
            await log.close_segment()
        last = await find_last_journaled(self.store, log.server)
        for segment in await asyncio.to_thread(log.list_closed, last):
            await self.store.transact(partial(self._record, segment))

    def _record(self, segment: ClosedSegment, tx: Transaction) -> None:
        server, footer = self.decisions.server, segment.footer
        cursor = _name_closed(server)
        if tx.cursors.get(cursor) >= segment.number:
            return
        tx.cursors.save(cursor, segment.number)
        record_event(
            tx,
            BACKGROUND,
            "decisions.closed",
            server,
            self.clock.now(),
            server=server,
            segment=segment.number,
            size=footer.count,
            bytes=segment.size,
            root=footer.root.hex(),
            first=footer.first.isoformat(),
            last=footer.last.isoformat(),
            cut=footer.cut,
            damaged=footer.damaged,
        )


@dataclass(frozen=True, slots=True)
class RemoveSegments:
    """Background: delete segments that the archive has, and others that were closed longer ago than
    `kept`, unless a legal hold keeps them. Idempotent.

    What the archive has goes with the run after the one that found it: until then whoever was at
    it has read it. `needed` tells the first segment that somebody still reads here; they are waited
    for as long as `kept`. Of others the event comes first: a crash in between leaves files that the
    next run deletes.
    """

    store: Store
    clock: Clock
    decisions: DecisionLog
    kept: timedelta
    needed: Callable[[Transaction], int | None] = lambda tx: None
    _packed: set[int] = field(default_factory=set)

    async def __call__(self) -> None:
        """Delete in their order."""
        await self._remove_packed()
        await self._remove_old()

    async def _remove_packed(self) -> None:
        log = self.decisions
        before = self.clock.now() - self.kept
        needed = await self.store.read(self.needed)
        packed = await asyncio.to_thread(log.list_packed)
        for segment in packed:
            old = segment.footer.closed_at < before
            if segment.number in self._packed and (
                needed is None or segment.number < needed or old
            ):
                await asyncio.to_thread(log.remove, segment.number)
        self._packed.clear()
        self._packed.update(segment.number for segment in packed)

    async def _remove_old(self) -> None:
        log = self.decisions
        before = self.clock.now() - self.kept
        journaled = await find_last_journaled(self.store, log.server)
        held = await self.store.read(lambda tx: tx.holds.list())
        for segment in await asyncio.to_thread(log.list_closed):
            footer = segment.footer
            if segment.number > journaled or footer.closed_at >= before:
                return
            if any(hold.covers_span(footer.first, footer.last) for hold in held):
                continue
            if await self.store.transact(partial(self._record, segment)):
                await asyncio.to_thread(log.remove, segment.number)

    def _record(self, segment: ClosedSegment, tx: Transaction) -> bool:
        """Whether it may go. Asked again where it counts: a hold may have been placed meanwhile."""
        server, footer = self.decisions.server, segment.footer
        if any(hold.covers_span(footer.first, footer.last) for hold in tx.holds.list()):
            return False
        cursor = f"decisions.removed/{server}"
        last = tx.cursors.get(cursor)
        if last == segment.number:
            return True
        if last < segment.number:  # what a hold kept may come later than the ones behind it
            tx.cursors.save(cursor, segment.number)
        record_event(
            tx,
            BACKGROUND,
            "decisions.removed",
            server,
            self.clock.now(),
            server=server,
            segment=segment.number,
            size=footer.count,
            root=footer.root.hex(),
            first=footer.first.isoformat(),
            last=footer.last.isoformat(),
        )
        return True


def _name_closed(server: str) -> str:
    return f"decisions.closed/{server}"
