"""Revocation lists: made anew when something is revoked, and before the present one grows old."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from datetime import timedelta

from troth.core.clock import Clock
from troth.core.errors import Conflict
from troth.core.ids import AuthorityId
from troth.drivers.keystores import Keystore
from troth.issuance.authorities import Authority, Use
from troth.issuance.crl import (
    RevocationReason,
    RevokedCertificate,
    check_crl,
    draft_crl,
    list_serials,
)
from troth.issuance.drafter import Drafter
from troth.issuance.profiles import BACKDATE, trim_seconds
from troth.issuance.x509svid import assemble_certificate
from troth.operations.recording import BACKGROUND, record_event
from troth.store.engine import Store
from troth.store.records import CrlRecord, IssuanceState, Revocation
from troth.store.transaction import Transaction

LEASE = "crl.publish"
LEASE_TTL = timedelta(seconds=10)
"""How long after its last list a server that lives and stands still keeps others from the next."""


@dataclass(frozen=True, slots=True)
class PublishCrls:
    """Background: the newest CRL of each X.509 authority says what is revoked. Idempotent.

    `holder` names this server. Each revocation wakes all of them; whoever made a list last makes
    the next one too, and the others leave it to that one as long as it holds the lease. Two at once
    do no harm: a number is taken once.
    """

    store: Store
    clock: Clock
    keystore: Keystore
    drafter: Drafter
    lifetime: timedelta
    period: timedelta
    holder: str
    _listed: dict[AuthorityId, tuple[int, frozenset[int]]] = field(default_factory=dict)

    async def __call__(self) -> None:
        """Publish where the list changed or is older than its period.

        An authority whose key can't be used holds up no other one's list; its error is raised at
        the end.
        """
        authorities = await self.store.read(self._list_authorities)
        failed: Exception | None = None
        for authority in authorities:
            if authority.published:
                try:
                    await self._publish(authority)
                except Exception as error:  # noqa: BLE001  # raised below, after the others
                    failed = failed or error
        if failed is not None:
            # Another one may be luckier: its key may be at hand.
            await self.store.transact(lambda tx: tx.leases.release(LEASE, self.holder))
            raise failed

    def _list_authorities(self, tx: Transaction) -> list[Authority]:
        """All of which a list is due from this server; none while another one makes them."""
        if tx.leases.is_taken(LEASE, self.holder, self.clock.now()):
            return []
        return tx.authorities.list(Use.X509)

    async def _publish(self, authority: Authority) -> None:
        latest, number, revoked = await self._read(authority)
        if not await asyncio.to_thread(self._is_due, authority, latest, revoked):
            return
        # Before anything is recorded: an intent for each run would be left by a key that is lost.
        await asyncio.to_thread(self.keystore.public_key, authority.key_ref)
        planned = await asyncio.to_thread(self._draft, authority, number, revoked)
        try:
            if not await self.store.transact(lambda tx: self._reserve(tx, planned)):
                return  # another server began meanwhile, and was woken by what woke this one
        except Conflict:
            return  # another one took the number; its list, or the next, holds what ours would
        signature = await asyncio.to_thread(self.keystore.sign, authority.key_ref, planned.tbs)
        der = assemble_certificate(planned.tbs, signature)
        check_crl(der, planned.tbs, authority.public_key)
        await self.store.transact(lambda tx: self._finish(tx, planned, der, len(revoked)))

    def _reserve(self, tx: Transaction, planned: CrlRecord) -> bool:
        if not tx.leases.take(LEASE, self.holder, self.clock.now(), LEASE_TTL):
            return False
        tx.crls.add_intended(planned)
        return True

    async def _read(self, authority: Authority) -> tuple[CrlRecord | None, int, list[Revocation]]:
        return await self.store.read(
            lambda tx: (
                tx.crls.latest(authority.id),
                tx.crls.next_number(authority.id),
                tx.certificates.revoked(authority.id, self.clock.now()),
            )
        )

    def _is_due(
        self, authority: Authority, latest: CrlRecord | None, revoked: list[Revocation]
    ) -> bool:
        if latest is None:
            return True
        age = self.clock.now() - latest.this_update
        if age >= self.period or age < timedelta(0):
            return True  # a list from the future is of no use after the clock was set back
        number, listed = self._listed.get(authority.id, (0, frozenset()))
        if number != latest.number:
            listed = list_serials(latest.der or b"")
            self._listed[authority.id] = (latest.number, listed)
        # By serial, not by time: a revocation may commit after a list that is dated later.
        return not all(int(entry.serial, 16) in listed for entry in revoked)

    def _draft(self, authority: Authority, number: int, revoked: list[Revocation]) -> CrlRecord:
        """The list, dated back as certificates are: a verifier's clock may be slow."""
        now = self.clock.now()
        this_update = trim_seconds(now - BACKDATE)
        lifetime = self.lifetime + BACKDATE
        tbs = draft_crl(
            issuer=authority,
            number=number,
            revoked=[_entry(entry) for entry in revoked],
            now=this_update,
            lifetime=lifetime,
            drafter=self.drafter,
        )
        return CrlRecord(
            authority_id=authority.id,
            number=number,
            state=IssuanceState.INTENDED,
            tbs=tbs,
            this_update=this_update,
            next_update=this_update + lifetime,
        )

    def _finish(self, tx: Transaction, planned: CrlRecord, der: bytes, entries: int) -> None:
        if tx.crls.find(planned.authority_id, planned.number) is None:
            # A later number is published already. Who took it had seen ours, and so looked for
            # revocations after we did: its list holds what ours would.
            return
        tx.crls.mark_issued(planned.authority_id, planned.number, der)
        tx.crls.drop_superseded(planned.authority_id, planned.number)
        record_event(
            tx,
            BACKGROUND,
            "crl.published",
            planned.authority_id,
            self.clock.now(),
            number=planned.number,
            entries=entries,
            next_update=planned.next_update.isoformat(),
            sha256=hashlib.sha256(der).hexdigest(),
        )


def _entry(revocation: Revocation) -> RevokedCertificate:
    return RevokedCertificate(
        serial=int(revocation.serial, 16),
        revoked_at=revocation.revoked_at,
        reason=RevocationReason(revocation.reason),
    )
