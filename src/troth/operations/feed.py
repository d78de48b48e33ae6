"""The feed: seals the journal and keeps the live snapshot in step with what is sealed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from troth.core.events import SealedEvent
from troth.issuance.authorities import AuthorityState, Use
from troth.issuance.profiles import JWT_TTL_CEILING
from troth.live.snapshot import CUT_OFF, INDIFFERENT, Seed, Snapshot
from troth.operations.recording import name_key
from troth.store.engine import Store
from troth.store.sealer import Sealer
from troth.store.transaction import Transaction

BATCH = 1000
MOST_WAITING = 10_000
"""How many events may wait to be sealed while the feed passes for healthy."""


async def read_seed(store: Store, now: datetime) -> Seed:
    """What a snapshot starts from, in one consistent read."""

    def read(tx: Transaction) -> Seed:
        return Seed(
            epoch=tx.journal.head(),
            cut_off={str(name): state for name, state in tx.identities.list_in_states(CUT_OFF)},
            revoked=dict(tx.certificates.list_revoked(now)),
            distrusted={
                name_key(authority): authority.not_after
                for authority in tx.authorities.list(Use.X509)
                if authority.state is AuthorityState.REVOKED and authority.not_after > now
            },
            ended={
                str(name): now + JWT_TTL_CEILING
                for name in tx.identities.list_retired_since(now - JWT_TTL_CEILING)
            },
        )

    return await store.read(read)


class FeedMeter(Protocol):
    """Counts what the feed did."""

    def observe_feed(self, waiting: int | None, lag: float | None) -> None:
        """How many committed events wait to be sealed, if that was found out; if events were taken
        in, seconds from the oldest of them to the snapshot that knows it."""
        ...


@dataclass(frozen=True, slots=True)
class FollowJournal:
    """Background: seal what is committed, and take in what is sealed, whoever sealed it.

    What is new is live after one transaction: the one that sealed it, or a read of what another
    node has sealed, before anything else is done.
    """

    store: Store
    sealer: Sealer
    snapshot: Snapshot
    meter: FeedMeter | None = None

    async def __call__(self) -> set[str]:
        """Seal, apply, announce; the types of the events taken in, but for the indifferent ones.

        The lease is renewed only if all that was committed when this began is sealed and taken in:
        a sealer that is stuck, here or on another node, must not pass for a quiet journal.
        """
        types: set[str] = set()
        before: frozenset[int] | None = None
        if not self.sealer.leads:
            before = await self._catch_up(types)
            if not before:
                self.snapshot.hear()
                return types
        if not await self._seal(types):
            after = await self._catch_up(types)
            if before is None:
                before = after  # this was the sealer until now; what had waited, nobody looked
            # Of more than that nobody knows which: the next look, after this much sealing, will.
            if len(before) < MOST_WAITING and not before & after:
                self.snapshot.hear()
        return types

    async def _seal(self, types: set[str]) -> bool:
        """Seal and take in all that is committed; False if that is another node's turn."""
        while (sealed := await self.sealer.seal_batch()) is not None:
            if sealed.before == self.snapshot.epoch:
                await self._take_in(sealed.events, sealed.head, types)
            else:
                await self._catch_up(types)  # another one has sealed in between
            if not sealed.more:
                self.snapshot.hear()
                self._tell(0, [])
                return True
        return False

    async def _catch_up(self, types: set[str]) -> frozenset[int]:
        """Take in all that is sealed; the rows that are committed and not sealed yet."""
        while True:
            events, head, waiting = await self._read_news(self.snapshot.epoch)
            all_read = len(events) < BATCH
            await self._take_in(events, head if all_read else 0, types)
            if all_read:
                self._tell(len(waiting), [])
                return waiting

    async def _take_in(self, events: list[SealedEvent], head: int, types: set[str]) -> None:
        """Apply `events`, after which nothing up to `head` is left that matters."""
        before = self.snapshot.epoch
        self.snapshot.apply(events)
        self.snapshot.advance(head)
        types.update(sealed.event.type for sealed in events)
        if events:
            self._tell(None, events)
        if self.snapshot.epoch > before:
            await self.snapshot.announce()

    def _tell(self, waiting: int | None, events: list[SealedEvent]) -> None:
        if self.meter is not None:
            oldest = min((sealed.event.at for sealed in events), default=None)
            lag = None if oldest is None else (self.store.clock.now() - oldest).total_seconds()
            self.meter.observe_feed(waiting, lag)

    async def _read_news(self, epoch: int) -> tuple[list[SealedEvent], int, frozenset[int]]:
        """The next events that matter, the last position of all, and what waits to be sealed."""

        def read(tx: Transaction) -> tuple[list[SealedEvent], int, frozenset[int]]:
            head = tx.journal.head()
            events = tx.journal.after(epoch, BATCH, without=INDIFFERENT)
            return events, head, tx.journal.list_waiting(MOST_WAITING)

        return await self.store.read(read)
