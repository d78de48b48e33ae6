"""The feed: seals the journal and keeps the live snapshot in step with what is sealed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

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


@dataclass(frozen=True, slots=True)
class FollowJournal:
    """Background: seal what is committed, then take in what is sealed, whoever sealed it."""

    store: Store
    sealer: Sealer
    snapshot: Snapshot

    async def __call__(self) -> set[str]:
        """Seal, apply, announce; the types of the events taken in, but for the indifferent ones.

        The lease is renewed only if all that was committed when this began is sealed and taken in:
        a sealer that is stuck, here or on another node, must not pass for a quiet journal.
        """
        types: set[str] = set()
        committed = await self.store.read(lambda tx: tx.journal.list_waiting(MOST_WAITING))
        await self.sealer.seal_once()
        while True:
            before = self.snapshot.epoch
            events, head, waiting = await self._read_new()
            self.snapshot.apply(events)
            types.update(sealed.event.type for sealed in events)
            if len(events) < BATCH:
                self.snapshot.advance(head)
            if self.snapshot.epoch > before:
                await self.snapshot.announce()
            if len(events) < BATCH:
                break
        # Of more than that nobody knows which: the next look, after this much sealing, will tell.
        if len(committed) < MOST_WAITING and not committed & waiting:
            self.snapshot.hear()
        return types

    async def _read_new(self) -> tuple[list[SealedEvent], int, frozenset[int]]:
        """The next events that matter, the last position of all, and what waits to be sealed."""
        epoch = self.snapshot.epoch

        def read(tx: Transaction) -> tuple[list[SealedEvent], int, frozenset[int]]:
            head = tx.journal.head()
            events = tx.journal.after(epoch, BATCH, without=INDIFFERENT)
            return events, head, tx.journal.list_waiting(MOST_WAITING)

        return await self.store.read(read)
