"""The feed: seals the journal and keeps the live snapshot in step with what is sealed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from troth.core.events import SealedEvent
from troth.issuance.authorities import AuthorityState, Use
from troth.live.snapshot import CUT_OFF, Seed, Snapshot
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
        )

    return await store.read(read)


class FeedMeter(Protocol):
    """Counts what the feed did."""

    def observe_feed(self, waiting: int, lag: float | None) -> None:
        """One look: how many committed events waited to be sealed, and, if any were taken in,
        seconds from the oldest of them to the snapshot that knows it."""
        ...


@dataclass(frozen=True, slots=True)
class FollowJournal:
    """Background: seal what is committed, then take in what is sealed, whoever sealed it."""

    store: Store
    sealer: Sealer
    snapshot: Snapshot
    meter: FeedMeter | None = None

    async def __call__(self) -> set[str]:
        """Seal, apply, announce; the types of the events taken in.

        The lease is renewed only if all that was committed when this began is sealed and taken in:
        a sealer that is stuck, here or on another node, must not pass for a quiet journal.
        """
        types: set[str] = set()
        committed = await self.store.read(lambda tx: tx.journal.list_waiting(MOST_WAITING))
        await self.sealer.seal_once()
        while True:
            events, waiting = await self._read_new()
            self.snapshot.apply(events)
            types.update(sealed.event.type for sealed in events)
            self._tell(events, len(waiting))
            if events:
                await self.snapshot.announce()
            if len(events) < BATCH:
                break
        # Of more than that nobody knows which: the next look, after this much sealing, will tell.
        if len(committed) < MOST_WAITING and not committed & waiting:
            self.snapshot.hear()
        return types

    def _tell(self, events: list[SealedEvent], waiting: int) -> None:
        if self.meter is not None:
            oldest = min((sealed.event.at for sealed in events), default=None)
            lag = None if oldest is None else (self.store.clock.now() - oldest).total_seconds()
            self.meter.observe_feed(waiting, lag)

    async def _read_new(self) -> tuple[list[SealedEvent], frozenset[int]]:
        epoch = self.snapshot.epoch
        return await self.store.read(
            lambda tx: (tx.journal.after(epoch, BATCH), tx.journal.list_waiting(MOST_WAITING))
        )
