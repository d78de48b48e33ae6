"""The sealed journal, as sinks are fed from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import msgspec
import structlog

from troth.audit.entry import StoredEvent
from troth.live.snapshot import Snapshot
from troth.operations.portrayal import JOURNAL, Portrayer
from troth.operations.sinking import BATCH_BYTES, ITEMS, UNRENDERED, Batch, Item, fit_item
from troth.store.engine import Store

log = structlog.get_logger(__name__)

_encoder = msgspec.json.Encoder()


class JournalSource:
    """Implements `Source`. Events whose type begins with none of `types` are left out; without any,
    none is."""

    name = JOURNAL

    def __init__(
        self,
        store: Store,
        snapshot: Snapshot,
        portrayer: Portrayer,
        types: Sequence[str] = (),
        largest: int = 1 << 20,
    ) -> None:
        self._store = store
        self._snapshot = snapshot
        self._portrayer = portrayer
        self._types = tuple(types)
        self._largest = largest
        self._seen = -1

    def has_news(self) -> bool:
        """Whether the live snapshot, which follows the journal, is elsewhere than it was."""
        return self._snapshot.epoch != self._seen

    async def find_end(self) -> int:
        """The last sealed position."""
        return await self._store.read(lambda tx: tx.journal.head())

    def count_behind(self, position: int) -> int:
        """Sealed events after that one, as far as the live snapshot knows."""
        return max(0, self._snapshot.epoch - position)

    async def read(self, position: int) -> Batch:
        """Positions that aren't there any more become an item with that problem."""
        epoch = self._snapshot.epoch
        events = await self._store.read(lambda tx: tx.journal.list_stored(position, ITEMS))
        if not events:
            self._seen = epoch
            return Batch((), position)
        return await asyncio.to_thread(self._make_batch, position, events)

    def _make_batch(self, position: int, events: list[StoredEvent]) -> Batch:
        items: list[Item] = []
        size = 0
        end = position
        for event in events:
            if size >= BATCH_BYTES:
                break
            found = list(self._make_items(end, event))
            size += sum(len(item.message.content) for item in found if item.message)
            items += found
            end = event.position
        return Batch(items, end)

    def _make_items(self, last: int, event: StoredEvent) -> Iterator[Item]:
        if event.position != last + 1:
            yield Item(event.position - 1, None, _describe_gap(last + 1, event.position - 1))
        if not self._types or event.type.startswith(self._types):
            yield self.make_item(event)

    def make_item(self, event: StoredEvent) -> Item:
        """An event, ready to be sent or not."""
        content = keep_event(event)
        try:
            message = self._portrayer.portray_event(event)
        except Exception:
            # Whatever is wrong with this one, the next must not wait for it.
            log.exception("sink.not_portrayed", position=event.position)
            return Item(event.position, None, UNRENDERED, content)
        return fit_item(event.position, message, content, self._largest)


def keep_event(event: StoredEvent) -> bytes:
    """An event as dead letters keep it."""
    return _encoder.encode(event)


def _describe_gap(first: int, last: int) -> str:
    return (
        f"The events at positions {first} to {last} had been deleted from the journal before they "
        "could be sent. They stand in the log's tiles and in the archive."
    )
