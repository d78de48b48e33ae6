"""This server's decisions, as sinks are fed from them: each server sends its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import structlog

from troth.archive.log import DecisionLog, Edge
from troth.archive.record import decode_record
from troth.archive.resuming import DecisionReader, Resumed, make_place, split_place
from troth.core.errors import Invalid
from troth.operations.portrayal import Portrayer
from troth.operations.sinking import (
    BATCH_BYTES,
    ITEMS,
    UNRENDERED,
    Batch,
    Item,
    fit_item,
    name_cursor,
)
from troth.store.engine import Store
from troth.store.transaction import Transaction

log = structlog.get_logger(__name__)

CLOSED = "decisions.closed"
_PAGE = 1000


class DecisionSource:
    """Implements `Source`. With `denied` only those that weren't permitted are sent."""

    def __init__(
        self,
        store: Store,
        decisions: DecisionLog,
        portrayer: Portrayer,
        *,
        denied: bool = False,
        largest: int = 1 << 20,
    ) -> None:
        self.name = name_source(decisions.server)
        self._store = store
        self._decisions = decisions
        self._reader = DecisionReader(decisions)
        self._portrayer = portrayer
        self._denied = denied
        self._largest = largest
        self._seen: Edge | None = None
        self._numbers: list[int] = []

    def has_news(self) -> bool:
        """Whether the log is elsewhere than it was."""
        return self._decisions.edge != self._seen

    async def find_end(self) -> int:
        """The place behind all that is durable."""
        return await asyncio.to_thread(self._reader.find_end)

    def count_behind(self, position: int) -> int:
        """Segments after that of the position, as of the last look."""
        segment, _ = split_place(position)
        return sum(number > segment for number in self._numbers)

    async def read(self, position: int) -> Batch:
        """Segments that aren't there any more become an item with that problem."""
        edge = self._decisions.edge
        before = await asyncio.to_thread(self._reader.list_numbers)
        found, end = await asyncio.to_thread(self._reader.read, position, ITEMS, BATCH_BYTES)
        self._numbers = await asyncio.to_thread(self._reader.list_numbers)
        if end == position:
            self._seen = edge
            return Batch((), position)
        # One that was removed meanwhile may have been read before that, or not.
        present = {*before} & {*self._numbers} | {split_place(one.place)[0] for one in found}
        items = await self._find_lost(position, split_place(end)[0], present)
        items += await asyncio.to_thread(lambda: list(self._make_items(found)))
        return Batch(items, end)

    def make_item(self, position: int, entry: bytes) -> Item:
        """A decision, ready to be sent or not."""
        try:
            message = self._portrayer.portray_decision(decode_record(entry), self.name)
        except Invalid as error:
            return Item(position, None, error.detail, entry)
        except Exception:
            log.exception("sink.not_portrayed", source=self.name, position=position)
            return Item(position, None, UNRENDERED, entry)
        return fit_item(position, message, entry, self._largest)

    def _make_items(self, found: Sequence[Resumed]) -> Iterable[Item]:
        for one in found:
            if one.damage:
                yield Item(one.place, None, one.damage)
            elif not self._denied or _is_denied(one.entry):
                yield self.make_item(one.place, one.entry)

    async def _find_lost(self, position: int, last: int, present: set[int]) -> list[Item]:
        """What the journal knows of segments that were removed before they were read."""
        first, done = split_place(position)
        missing = set(range(first, last)) - present
        if not position or not missing:
            return []
        sizes = await self._store.read(lambda tx: _find_sizes(tx, self._decisions.server, missing))
        sizes[first] = max(0, sizes.get(first, 0) - done)
        lost = sum(sizes.values())
        if not lost:
            return []
        problem = (
            f"{lost} decisions of the segments {min(missing)} to {max(missing)} had been removed "
            "before they could be sent (decisions.keep_days). The archive may have them."
        )
        return [Item(make_place(max(missing) + 1, 0) - 1, None, problem)]


def name_source(server: str) -> str:
    """The source's name for the decisions of one server."""
    return f"decisions/{server}"


def find_oldest_needed(tx: Transaction, server: str, sinks: Iterable[str]) -> int | None:
    """The number of the first segment of this server that one of these sinks hasn't been sent
    whole; None if no sink is named. What is older may go."""
    source = name_source(server)
    places = [tx.cursors.get(name_cursor(sink, source)) for sink in sinks]
    return min((split_place(place)[0] for place in places), default=None)


async def find_last_fed(store: Store, server: str, sinks: Iterable[str]) -> int:
    """The number of the last segment of this server that one of these sinks was sent something of;
    0 if there is none.

    New segments must have higher numbers, also where the old files are gone: what they begin with
    would be taken for what was sent already.
    """
    cursors = [name_cursor(sink, name_source(server)) for sink in sinks]
    places = await store.read(lambda tx: [tx.cursors.get(cursor) for cursor in cursors])
    return max((split_place(place)[0] for place in places), default=0)


def _is_denied(entry: bytes) -> bool:
    try:
        return not decode_record(entry).allowed
    except Invalid:
        return True  # told as what can't be read


def _find_sizes(tx: Transaction, server: str, wanted: set[int]) -> dict[int, int]:
    """How many records each of these segments had, as the journal says of those it knows."""
    found: dict[int, int] = {}
    after = 0
    while page := tx.journal.page(subject=server, type_prefix=CLOSED, after=after, limit=_PAGE):
        for sealed in page:
            body = sealed.event.body
            if body.get("segment") in wanted:
                found[body["segment"]] = body["size"]
        after = page[-1].position
    return found
