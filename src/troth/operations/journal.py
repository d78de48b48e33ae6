"""The journal: read what is sealed, and follow it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from troth.core.events import SealedEvent
from troth.live.snapshot import Snapshot
from troth.operations.call import Call
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import journal as wire
from troth.wire.api.nodes import Heartbeat

HEARTBEAT_SECONDS = 5.0
BATCH = 500


@dataclass(frozen=True, slots=True)
class ListJournal:
    """``journal.ls``: sealed events after a position."""

    store: Store

    async def __call__(self, call: Call[wire.ListJournal]) -> wire.JournalPage:
        """A page in order of position."""
        body = call.body

        def page(tx: Transaction) -> wire.JournalPage:
            found = tx.journal.page(
                subject=body.subject, type_prefix=body.type, after=body.after, limit=body.limit
            )
            return wire.JournalPage(items=[view_event(e) for e in found], head=tx.journal.head())

        return await self.store.read(page)


@dataclass(frozen=True, slots=True)
class TailJournal:
    """``journal.tail``: sealed events as they come."""

    store: Store
    snapshot: Snapshot

    async def __call__(
        self, call: Call[wire.TailJournal]
    ) -> AsyncIterator[wire.JournalEntry | Heartbeat]:
        """Every event after the position asked for, then each new one; heartbeats in between."""
        position = call.body.after
        if position < 0:
            position = await self.store.read(lambda tx: tx.journal.head())
        told = False
        loads = self.snapshot.loads
        while True:
            self.snapshot.check_same(loads)
            known = self.snapshot.epoch
            events = await self._read_after(position)
            for sealed in events:
                yield view_event(sealed)
                position = sealed.position
            if not events and not told:
                yield Heartbeat(epoch=position)  # a subscription says something at once
            elif not events and not await self._is_news(max(position, known)):
                yield Heartbeat(epoch=position)
            told = True

    async def _is_news(self, position: int) -> bool:
        return await self.snapshot.wait_beyond(position, HEARTBEAT_SECONDS) > position

    async def _read_after(self, position: int) -> list[SealedEvent]:
        return await self.store.read(lambda tx: tx.journal.after(position, BATCH))


def view_event(sealed: SealedEvent) -> wire.JournalEntry:
    """The event as the API shows it."""
    event = sealed.event
    return wire.JournalEntry(
        position=sealed.position,
        type=event.type,
        version=event.version,
        subject=event.subject,
        actor=event.actor,
        at=event.at,
        request_id=event.request_id,
        body=dict(event.body),
    )
