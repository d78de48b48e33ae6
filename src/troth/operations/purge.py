"""Forgetting what nobody needs any more: used-up tokens, long-dead certificates, old lists."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from troth.core.clock import Clock
from troth.live.snapshot import Snapshot
from troth.store.engine import Store
from troth.store.transaction import Transaction

KEPT = timedelta(days=30)
"""How long records of dead credentials stay; the journal keeps their history for good."""

BATCH = 500
MARGIN = timedelta(minutes=5)
"""How long used proofs stay beyond their age: another server's clock may be behind."""
LEASE = "store.purge"
LEASE_TTL = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class PurgeRecords:
    """Background: delete in batches what ended more than `KEPT` ago. Idempotent.

    `holder` names this server; a lease keeps two from deleting the same, one of which would have to
    do it over.
    """

    store: Store
    clock: Clock
    snapshot: Snapshot
    holder: str

    async def __call__(self) -> None:
        """Delete until nothing is left to delete, or it is another server's turn."""
        self.snapshot.drop_expired()
        now = self.clock.now()
        before = now - KEPT

        def purge(tx: Transaction) -> bool:
            if not tx.leases.take(LEASE, self.holder, self.clock.now(), LEASE_TTL):
                return True
            tx.join_tokens.purge(before)
            tx.enrolment_codes.purge(before)
            tx.client_secrets.purge(now)
            tx.crls.purge(before)
            counts = (
                tx.certificates.purge_expired(before, BATCH),
                tx.jwt_svids.purge(before, BATCH),
                tx.instances.purge(before, BATCH),
                tx.used_proofs.purge(now - MARGIN, BATCH),
                tx.token_revocations.purge(now, BATCH),
                tx.evidence.purge(now, BATCH),
            )
            return max(counts) < BATCH

        while not await self.store.transact(purge):
            pass
        await self.store.transact(lambda tx: tx.leases.release(LEASE, self.holder))
