"""Revocations: the stream that tells verifiers of peers whom to refuse, from the live snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from troth.core.clock import Clock
from troth.core.events import SealedEvent
from troth.core.ids import TrustDomain
from troth.live.recent import NOTHING, Difference, mark_event, read_change, sum_up
from troth.live.snapshot import INDIFFERENT, Snapshot
from troth.operations.call import Call
from troth.store.engine import Store
from troth.wire.api import revocations as wire

HEARTBEAT_SECONDS = 5.0
RESUMABLE = 5_000
"""How many events a caller may have missed and still get the changes alone."""

_Value = wire.RevocationSnapshot | wire.RevocationChange | wire.RevocationHeartbeat


@dataclass(frozen=True, slots=True)
class FollowRevocations:
    """``revocation.follow``: a complete value, then what changes.

    A caller that names where it left off gets the changes since, if this is the journal that it
    knows and it has not missed much. While a stream is open, changes come from memory: a thousand
    streams cost the store nothing, and share what is put together for them.
    """

    store: Store
    snapshot: Snapshot
    clock: Clock
    trust_domain: TrustDomain
    lease: timedelta

    async def __call__(self, call: Call[wire.FollowRevocations]) -> AsyncIterator[_Value]:
        """Values until the snapshot is stale, which is an error to come back after."""
        opened = self.clock.monotonic()
        self.snapshot.check_fresh()
        loads = self.snapshot.loads
        missed = await self._read_missed(call.body)
        value: _Value = self._show_missed(opened, missed) if missed else self._show_all(opened)
        yield value
        epoch = value.epoch
        while True:
            # Woken by any change after `epoch`: none can be lost between two values.
            await self.snapshot.wait_beyond(epoch, HEARTBEAT_SECONDS, refusals=True)
            self.snapshot.check_fresh()
            self.snapshot.check_same(loads)
            value = self._show_news(opened, epoch)
            epoch = value.epoch
            yield value

    async def _read_missed(self, body: wire.FollowRevocations) -> list[SealedEvent]:
        """The event that the caller names and all after it; none if it can't go on from there."""
        return await read_missed(self.store, self.snapshot, body.after, body.mark)

    def _show_all(self, opened: float) -> wire.RevocationSnapshot:
        known = self.snapshot.list_refused()
        return wire.RevocationSnapshot(
            epoch=self.snapshot.last_position,
            mark=self.snapshot.mark,
            as_of=self._tell_age(opened),
            lease=self.lease.total_seconds(),
            trust_domain=str(self.trust_domain),
            cut_off=known.cut_off,
            revoked=known.revoked,
            distrusted=known.distrusted,
            tokens=known.tokens,
            issued_until=known.issued_until,
        )

    def _show_missed(self, opened: float, missed: list[SealedEvent]) -> wire.RevocationChange:
        first, last = missed[0], missed[-1]
        changes = sum_up(found for sealed in missed[1:] if (found := read_change(sealed)))
        return self._show_changes(opened, first.position, last.position, mark_event(last), changes)

    def _show_news(self, opened: float, since: int) -> _Value:
        changes = self.snapshot.recent.sum_since(since)
        if changes is None:
            return self._show_all(opened)  # a reader so slow that what it missed is forgotten
        epoch = max(self.snapshot.last_position, since)
        mark = self.snapshot.mark if epoch == self.snapshot.last_position else ""
        if changes is NOTHING:
            return wire.RevocationHeartbeat(epoch=epoch, mark=mark, as_of=self._tell_age(opened))
        return self._show_changes(opened, since, epoch, mark, changes)

    def _show_changes(
        self, opened: float, since: int, epoch: int, mark: str, changes: Difference
    ) -> wire.RevocationChange:
        return wire.RevocationChange(
            since=since,
            epoch=epoch,
            mark=mark,
            as_of=self._tell_age(opened),
            lease=self.lease.total_seconds(),
            cut_off=changes.cut_off,
            restored=changes.restored,
            revoked=changes.revoked,
            distrusted=changes.distrusted,
            tokens=changes.tokens,
            issued_until=changes.issued_until,
        )

    def _tell_age(self, opened: float) -> float:
        return self.clock.monotonic() - opened - self.snapshot.age


async def read_missed(store: Store, snapshot: Snapshot, after: int, mark: str) -> list[SealedEvent]:
    """The event at position `after`, if it is the one of that `mark`, and all after it that matter;
    none if nobody can go on from there."""
    if not after or not mark or after > snapshot.epoch:
        return []
    found = await store.read(
        lambda tx: tx.journal.after(after - 1, RESUMABLE + 1, without=INDIFFERENT)
    )
    if not found or len(found) > RESUMABLE or found[0].position != after:
        return []
    if any(one.event.redacted for one in found):
        return []
    return found if mark_event(found[0]) == mark else []
