"""Revocation lists: made anew when something is revoked, and before the present one grows old."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from troth.core.clock import Clock
from troth.drivers.keystores import Keystore
from troth.issuance.authorities import Authority, AuthorityState, Use
from troth.issuance.crl import (
    RevocationReason,
    RevokedCertificate,
    check_crl,
    draft_crl,
    list_serials,
)
from troth.issuance.drafter import Drafter
from troth.issuance.profiles import trim_seconds
from troth.issuance.x509svid import assemble_certificate
from troth.operations.recording import BACKGROUND, record_event
from troth.store.engine import Store
from troth.store.records import CrlRecord, IssuanceState, Revocation
from troth.store.transaction import Transaction


@dataclass(frozen=True, slots=True)
class PublishCrls:
    """Background: the newest CRL of each X.509 authority says what is revoked. Idempotent."""

    store: Store
    clock: Clock
    keystore: Keystore
    drafter: Drafter
    lifetime: timedelta
    period: timedelta

    async def __call__(self) -> None:
        """Publish where the list changed or is older than its period."""
        authorities = await self.store.read(lambda tx: tx.authorities.list(Use.X509))
        for authority in authorities:
            if authority.state is not AuthorityState.ENDED:
                await self._publish(authority)

    async def _publish(self, authority: Authority) -> None:
        planned = await self.store.transact(lambda tx: self._intend(tx, authority))
        if planned is None:
            return
        signature = await asyncio.to_thread(self.keystore.sign, authority.key_ref, planned.tbs)
        der = assemble_certificate(planned.tbs, signature)
        check_crl(der, planned.tbs, authority.public_key)

        def finish(tx: Transaction) -> None:
            tx.crls.mark_issued(authority.id, planned.number, der)
            record_event(
                tx,
                BACKGROUND,
                "crl.published",
                authority.id,
                self.clock.now(),
                number=planned.number,
                next_update=planned.next_update.isoformat(),
            )

        await self.store.transact(finish)

    def _intend(self, tx: Transaction, authority: Authority) -> CrlRecord | None:
        now = self.clock.now()
        revoked = tx.certificates.revoked(authority.id, now)
        latest = tx.crls.latest(authority.id)
        if latest is not None and now - latest.this_update < self.period:
            # By serial, not by time: a revocation may commit after a list that is dated later.
            listed = list_serials(latest.der or b"")
            if all(int(entry.serial, 16) in listed for entry in revoked):
                return None
        number = tx.crls.next_number(authority.id)
        tbs = draft_crl(
            issuer=authority,
            number=number,
            revoked=[_entry(entry) for entry in revoked],
            now=now,
            lifetime=self.lifetime,
            drafter=self.drafter,
        )
        this_update = trim_seconds(now)
        record = CrlRecord(
            authority_id=authority.id,
            number=number,
            state=IssuanceState.INTENDED,
            tbs=tbs,
            this_update=this_update,
            next_update=this_update + self.lifetime,
        )
        tx.crls.add_intended(record)
        return record


def _entry(revocation: Revocation) -> RevokedCertificate:
    return RevokedCertificate(
        serial=int(revocation.serial, 16),
        revoked_at=revocation.revoked_at,
        reason=RevocationReason(revocation.reason),
    )
