"""The sealed journal, as sinks are fed from it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import msgspec
import structlog

from troth.audit.entry import StoredEvent
from troth.core.errors import Invalid
from troth.live.snapshot import Snapshot
from troth.operations.portrayal import JOURNAL, Portrayer
from troth.operations.sinking import BATCH_BYTES, ITEMS, UNRENDERED, Batch, Item, fit_item
from troth.store.engine import Store
from troth.store.transaction import Transaction

log = structlog.get_logger(__name__)

TRIMMED = "journal.trimmed"
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
        self._told: list[tuple[int, int]] = []
        """Items that tell of missing positions, and the last of these: an item counts once what
        comes behind it is read, since until then it may have reached nobody."""

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
        events, trimmed = await self._store.read(lambda tx: _read(tx, position))
        if not events:
            self._seen = epoch
            return Batch((), position)
        self._told = [told for told in self._told if told[0] <= position][-1:]
        if not position:
            self._told = [(0, trimmed)]  # a new sink begins with what there is
        return await asyncio.to_thread(self._make_batch, position, events, trimmed)

    def _make_batch(self, position: int, events: list[StoredEvent], trimmed: int) -> Batch:
        items: list[Item] = []
        size = 0
        end = position
        for event in events:
            if size >= BATCH_BYTES:
                break
            found = [*self._find_gap(end, event, trimmed), *self._make_items(event)]
            size += sum(len(item.message.content) for item in found if item.message)
            items += found
            end = event.position
        return Batch(items, end)

    def _find_gap(self, last: int, event: StoredEvent, trimmed: int) -> Iterator[Item]:
        """Positions before this one that aren't there. Where old rows are trimmed a few stay, and
        so there are many gaps: they are told of once."""
        at = event.position - 1
        if at == last or (self._told and at <= self._told[-1][1]):
            return
        missing = max(at, trimmed)
        self._told.append((at, missing))
        yield Item(at, None, _describe_gap(last + 1, missing))

    def _make_items(self, event: StoredEvent) -> Iterator[Item]:
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


def _read(tx: Transaction, position: int) -> tuple[list[StoredEvent], int]:
    """The next events; and if some are missing before or among them, up to where the journal was
    trimmed."""
    events = tx.journal.list_stored(position, ITEMS)
    if not events or events[-1].position == position + len(events):
        return events, 0
    found = tx.journal.find_stored(tx.journal.last_of(TRIMMED))
    return events, 0 if found is None else int(_read_body(found.body).last)


class _Trimmed(msgspec.Struct):
    last: int = 0


def _read_body(text: str) -> _Trimmed:
    return msgspec.json.decode(text, type=_Trimmed)


class _Kept(msgspec.Struct, frozen=True):
    """A stored event by the names of its fields: it may be read by a later version."""

    position: int
    type: str
    version: int
    subject: str
    actor: str
    at: int
    request_id: str
    body: str
    salt: bytes | None
    digest: bytes | None


def keep_event(event: StoredEvent) -> bytes:
    """An event as dead letters keep it."""
    return _encoder.encode({name: getattr(event, name) for name in _Kept.__struct_fields__})


def revive_event(content: bytes) -> StoredEvent:
    """What `keep_event` kept; `Invalid` if it is nothing of the kind."""
    try:
        return StoredEvent(**msgspec.structs.asdict(_decoder.decode(content)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid("What is kept of it is nothing that this version can read.") from error


_decoder = msgspec.json.Decoder(_Kept)


def _describe_gap(first: int, last: int) -> str:
    return (
        f"Events at positions {first} to {last} had been deleted from the journal before they "
        "could be sent. They stand in the log's tiles and in the archive."
    )
