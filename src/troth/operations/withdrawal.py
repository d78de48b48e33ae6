"""Withdrawal: what was taken away by a change of state is revoked, one certificate after another.

Normally that is done in the transaction that changes the state. Where it is very much, the state
goes first and alone: it collides with no renewal, and by itself makes whoever looks at states
refuse. The certificates follow in batches, which any server can go on with. Until the last is
revoked, nothing may bring back a state in which the remaining ones would be good again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from troth.core.clock import Clock
from troth.core.errors import Unavailable
from troth.identity.identity import Identity
from troth.operations.call import Call, Caller
from troth.operations.recording import record_revocations
from troth.store.engine import Store
from troth.store.records import HolderKind, Node, Withdrawal
from troth.store.transaction import Transaction

BATCH = 500
"""Certificates that one transaction revokes: some tens of milliseconds."""
LEASE = "certificate.withdraw"
LEASE_TTL = timedelta(seconds=10)
RETRY_SECONDS = 1.0


def withdraw_later(
    tx: Transaction, call: Call[Any], holder: Identity | Node, reason: str, now: datetime
) -> None:
    """Note that all that `holder` has is to be revoked, by `FinishWithdrawals`."""
    tx.withdrawals.add(
        Withdrawal(
            holder=holder.id,
            kind=HolderKind.NODE if isinstance(holder, Node) else HolderKind.IDENTITY,
            subject=str(holder.spiffe_id),
            reason=reason,
            actor=call.caller.principal,
            source=call.caller.source,
            request_id=call.request_id,
            began_at=now,
            reached=now,
        )
    )


def check_withdrawn(tx: Transaction, subjects: Iterable[str]) -> None:
    """Raise `Unavailable` while certificates under one of these SPIFFE IDs are still to be revoked:
    who is good under it again would make them good too."""
    found = tx.withdrawals.find_subject(subjects)
    if found is not None:
        raise Unavailable(
            f"Certificates of {found} are still being revoked; try again in a moment.",
            RETRY_SECONDS,
        )


@dataclass(frozen=True, slots=True)
class FinishWithdrawals:
    """Background: revoke what a change of state left to be revoked. Idempotent.

    `holder` names this server; a lease keeps two from doing the same batch, one of which would have
    to do it over.
    """

    store: Store
    clock: Clock
    holder: str

    async def __call__(self) -> None:
        """A batch of each withdrawal in turn, until none is left or another server is at it."""
        worked = False
        while found := await self.store.read(lambda tx: tx.withdrawals.list_open()):
            for one in found:
                if not await self.store.transact(partial(self._revoke_next, whose=one.holder)):
                    return
            worked = True
        if worked:
            await self.store.transact(lambda tx: tx.leases.release(LEASE, self.holder))

    def _revoke_next(self, tx: Transaction, whose: str) -> bool:
        """Revoke a batch; False if that is another server's turn."""
        now = self.clock.now()
        if not tx.leases.take(LEASE, self.holder, now, LEASE_TTL):
            return False
        withdrawal = tx.withdrawals.find(whose)
        if withdrawal is None:
            return True
        serials, reached = tx.certificates.revoke_batch(withdrawal, now, BATCH)
        record_revocations(tx, _recall(withdrawal), serials, withdrawal.reason, now)
        if reached is None:
            tx.withdrawals.end(whose)
        else:
            tx.withdrawals.advance(whose, reached)
        return True


def _recall(withdrawal: Withdrawal) -> Call[None]:
    """The call that took it away, as which the journal shows what follows from it."""
    caller = Caller(withdrawal.actor, frozenset(), source=withdrawal.source)
    return Call(caller, withdrawal.request_id, None)
