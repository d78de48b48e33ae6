"""Feeding sinks: what is recorded is passed on, in order and at least once.

How far a sink is stands in a cursor, which is saved once the receiver has a batch, together with
what it refused. So a crash, or days without a receiver, cost repetitions at the seam and nothing
else: what is to be sent lies where it was recorded until then.

A sink's troubles are no events. They would be sent to that very sink, and a receiver that refuses
one would make another one of it for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
import structlog

from troth.core.clock import Clock
from troth.core.errors import Conflict
from troth.drivers.sinks import Message
from troth.operations.outlet import Outcome, Outlet
from troth.operations.portrayal import JOURNAL, Portrayer
from troth.store.dead_letters import DeadLetter
from troth.store.engine import Store
from troth.store.transaction import Transaction

log = structlog.get_logger(__name__)

LEASE_TTL = timedelta(seconds=60)
"""Longer than one delivery takes. A server that lost it does no harm: its cursor isn't taken."""
ITEMS = 250
"""Events or decisions of a batch, at most."""
BATCH_BYTES = 1 << 20
"""Bytes of a batch, after which no message joins it."""
UNRENDERED = "It can't be rendered; the server's log says why."


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was recorded, at its `position`.

    Without a message it can't be sent: `problem` says why. `content` finds it as it was recorded.
    """

    position: int
    message: Message | None
    problem: str = ""
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Batch:
    """What comes after a position: `items` in their order, and the position behind all that was
    looked at, items that nobody wants among it."""

    items: Sequence[Item]
    end: int


class Source(Protocol):
    """What is recorded in one place, in order."""

    name: str
    """``journal`` or ``decisions/SERVER``: part of the cursor's name."""

    def has_news(self) -> bool:
        """Whether something may have come since `read` last found nothing. Looks at no disk."""
        ...

    async def find_end(self) -> int:
        """The position behind all that there is now."""
        ...

    def count_behind(self, position: int) -> int:
        """How much there is behind `position`: events, or segments of decisions."""
        ...

    async def read(self, position: int) -> Batch:
        """What comes next, at most `ITEMS` and about `BATCH_BYTES`; nothing if that is all."""
        ...


@dataclass(frozen=True, slots=True)
class Channel:
    """One sink: where it delivers, what it is fed from, how that is rendered, and how many bytes a
    message may have. `from_now` leaves out what was there before it was first configured."""

    outlet: Outlet
    portrayer: Portrayer
    sources: tuple[Source, ...]
    largest: int
    from_now: bool = False

    @property
    def name(self) -> str:
        """The sink's name."""
        return self.outlet.name


class SinkMeter(Protocol):
    """Told what sinks do."""

    def count_sent(self, sink: str, delivered: int, refused: int, *, failed: bool) -> None:
        """One batch was tried."""
        ...

    def show_sink(self, sink: str, source: str, behind: int, lag: float) -> None:
        """How much of a source (``journal`` or ``decisions``) the receiver doesn't have: in events
        or segments, and as the age of the oldest, in seconds."""
        ...


class Trouble(msgspec.Struct, frozen=True):
    """Why a sink stands still, and since when. Kept for all servers to tell."""

    reason: str
    since: datetime


@dataclass(frozen=True, slots=True)
class FeedSink:
    """Background: pass on what a source has to one sink. Idempotent.

    A lease spares the receiver the same from two servers. `from_now` leaves out what was there
    before the sink was first configured.
    """

    store: Store
    clock: Clock
    outlet: Outlet
    source: Source
    meter: SinkMeter | None = None
    from_now: bool = False

    @property
    def cursor(self) -> str:
        """The name of the cursor, of the lease and of the stored trouble."""
        return name_cursor(self.outlet.name, self.source.name)

    async def __call__(self) -> None:
        """Send until the receiver has all, or can't take more now."""
        if not self.outlet.is_due or not self.source.has_news():
            return
        position = await self._begin()
        while position is not None:
            batch = await self.source.read(position)
            if batch.end == position:
                self._show(position, 0.0)
                return
            position = await self._pass_on(batch, position)

    async def _begin(self) -> int | None:
        """Where to go on; None while another server does this."""
        taken, found = await self.store.read(self._look)
        if taken:
            if self.meter is not None:  # that one shows it
                self.meter.show_sink(self.outlet.name, self.source.name.partition("/")[0], 0, 0.0)
            return None
        first = await self.source.find_end() if self.from_now and found is None else 0

        def begin(tx: Transaction) -> int | None:
            now = self.clock.now()
            if not tx.leases.take(self.cursor, self.store.holder, now, LEASE_TTL):
                return None
            position = tx.cursors.find(self.cursor)
            if position is None:
                # Also where there was nothing yet: what comes now is behind this place.
                tx.cursors.save(self.cursor, first)
                return first
            return position

        return await self.store.transact(begin)

    def _look(self, tx: Transaction) -> tuple[bool, int | None]:
        """Whether another server does this, and what was saved."""
        taken = tx.leases.is_taken(self.cursor, self.store.holder, self.clock.now())
        return taken, tx.cursors.find(self.cursor)

    async def _pass_on(self, batch: Batch, position: int) -> int | None:
        """Send a batch; the position to go on from, or None to stop."""
        sendable = [(item, item.message) for item in batch.items if item.message is not None]
        if sendable:
            lag = (self.clock.now() - sendable[0][1].at).total_seconds()
            self._show(position, max(0.0, lag))
            outcome = await self.outlet.send([message for _, message in sendable])
        else:
            outcome = Outcome(0)
        done = _find_done(batch, [item for item, _ in sendable], outcome, position)
        letters = [
            self._make_letter(sendable[place][0], why) for place, why in outcome.refused.items()
        ]
        letters += [
            self._make_letter(item, item.problem)
            for item in batch.items
            if item.message is None and item.position <= done
        ]
        self._measure(outcome, len(letters))
        mine = await self._save(position, done, letters, outcome.trouble)
        return done if mine and not outcome.trouble else None

    async def _save(
        self, position: int, done: int, letters: list[DeadLetter], trouble: str
    ) -> bool:
        """Whether this server is to go on."""

        def save(tx: Transaction) -> bool:
            if done != position:
                tx.cursors.save(self.cursor, done)
            tx.dead_letters.add_all(letters)
            if not tx.leases.take(self.cursor, self.store.holder, self.clock.now(), LEASE_TTL):
                return False
            self._note(tx, trouble)
            return True

        try:
            return await self.store.transact(save)
        except Conflict:
            return False  # another server is further already: what it sent needn't be saved

    def _note(self, tx: Transaction, trouble: str) -> None:
        """Keep why it stands still, when that changes."""
        before = find_trouble(tx, self.cursor)
        if trouble == (before.reason if before else ""):
            return
        if not trouble:
            tx.settings.drop(self.cursor)
            return
        kept = Trouble(trouble, before.since if before else self.clock.now())
        tx.settings.set(self.cursor, msgspec.json.encode(kept).decode())

    def _make_letter(self, item: Item, why: str) -> DeadLetter:
        return DeadLetter(
            sink=self.outlet.name,
            source=self.source.name,
            position=item.position,
            at=self.clock.now(),
            reason=why,
            content=item.content,
        )

    def _measure(self, outcome: Outcome, letters: int) -> None:
        if self.meter is not None:
            delivered = outcome.done - len(outcome.refused)
            failed = bool(outcome.trouble)
            self.meter.count_sent(self.outlet.name, delivered, letters, failed=failed)

    def _show(self, position: int, lag: float) -> None:
        if self.meter is not None:
            source = self.source.name.partition("/")[0]
            behind = self.source.count_behind(position)
            self.meter.show_sink(self.outlet.name, source, behind, lag)


def find_needed(tx: Transaction, sinks: Iterable[str]) -> int | None:
    """The position up to which all these sinks have been sent the journal; None if there are none.
    What comes after it must stay."""
    return min((tx.cursors.get(name_cursor(sink, JOURNAL)) for sink in sinks), default=None)


def fit_item(position: int, message: Message, content: bytes, largest: int) -> Item:
    """What was recorded with its message, unless that is larger than the receiver takes."""
    size = len(message.content)
    if size <= largest:
        return Item(position, message, content=content)
    problem = (
        f"It has {size} bytes, and this sink sends at most {largest}. If the receiver takes more, "
        "raise largest_bytes."
    )
    return Item(position, None, problem, content)


def find_trouble(tx: Transaction, cursor: str) -> Trouble | None:
    """Why a sink stands still, as the one that feeds it has said."""
    stored = tx.settings.get(cursor)
    return None if stored is None else msgspec.json.decode(stored, type=Trouble)


def name_cursor(sink: str, source: str) -> str:
    """How far a sink is with a source stands under this name."""
    return f"sink/{sink}/{source}"


def _find_done(batch: Batch, sendable: Sequence[Item], outcome: Outcome, position: int) -> int:
    """The position up to which nothing needs to be looked at again."""
    if outcome.done == len(sendable):
        return batch.end
    before = [
        item.position for item in batch.items if item.position < sendable[outcome.done].position
    ]
    return max(before, default=position)
