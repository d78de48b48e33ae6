"""Signing authorities: see that there is one for each use, made as carefully as what it signs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Refused
from troth.core.ids import AuthorityId, TrustDomain, new_id
from troth.drivers.keystores import Keystore
from troth.issuance.authorities import Authority, AuthorityState, Use
from troth.issuance.ca import draft_ca_certificate
from troth.issuance.der import check_signed
from troth.issuance.profiles import BACKDATE, CA_LIFETIME, derive_serial
from troth.issuance.x509svid import assemble_certificate
from troth.operations.recording import BACKGROUND, record_event
from troth.store.engine import Store
from troth.store.transaction import Transaction

LEASE = "authorities"
TRUST_DOMAIN = "trust_domain"
LEASE_TTL = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class PrepareAuthorities:
    """Background: an active authority for each use. Idempotent; a lease keeps two nodes apart."""

    store: Store
    clock: Clock
    entropy: Entropy
    keystore: Keystore
    trust_domain: TrustDomain

    async def __call__(self) -> None:
        """Make what is missing."""
        for use in Use:
            if not await self._is_active(use):
                await self._prepare(use)

    async def _is_active(self, use: Use) -> bool:
        return await self.store.read(lambda tx: tx.authorities.find_active(use) is not None)

    async def _prepare(self, use: Use) -> None:
        holder = new_id("hld", self.entropy)
        now = self.clock.now()
        taken = await self.store.transact(
            lambda tx: tx.leases.take(f"{LEASE}.{use}", holder, now, LEASE_TTL)
        )
        if not taken:
            return
        authority_id = AuthorityId(new_id("aut", self.entropy))
        key_ref = f"{use.value}-{authority_id}"
        await self.store.transact(
            lambda tx: record_event(
                tx, BACKGROUND, "authority.intended", authority_id, now, use=use.value, key=key_ref
            )
        )
        public_key = await asyncio.to_thread(self.keystore.create_key, key_ref)
        authority = await self._certify(use, authority_id, key_ref, public_key)

        def activate(tx: Transaction) -> None:
            tx.authorities.add(authority)
            record_event(
                tx,
                BACKGROUND,
                "authority.activated",
                authority_id,
                now,
                use=use.value,
                not_after=authority.not_after.isoformat(),
            )
            tx.leases.release(f"{LEASE}.{use}", holder)

        await self.store.transact(activate)

    async def _certify(
        self, use: Use, authority_id: AuthorityId, key_ref: str, public_key: bytes
    ) -> Authority:
        now = self.clock.now().replace(microsecond=0)
        not_before, not_after = now - BACKDATE, now + CA_LIFETIME
        certificate = b""
        if use is Use.X509:
            tbs = draft_ca_certificate(
                self.trust_domain,
                public_key,
                not_before,
                not_after,
                derive_serial(self.entropy.token(20)),
            )
            signature = await asyncio.to_thread(self.keystore.sign, key_ref, tbs)
            certificate = assemble_certificate(tbs, signature)
            check_signed(certificate, tbs, public_key)
        return Authority(
            id=authority_id,
            use=use,
            state=AuthorityState.ACTIVE,
            key_ref=key_ref,
            public_key=public_key,
            certificate=certificate,
            not_before=not_before,
            not_after=not_after,
            created_at=now,
        )


def claim_trust_domain(tx: Transaction, trust_domain: TrustDomain) -> None:
    """Note the trust domain on the first start; `Refused` if it is another one later.

    Everything ever issued here names it, so it can't change under one database.
    """
    known = tx.settings.get(TRUST_DOMAIN)
    if known is None:
        tx.settings.set(TRUST_DOMAIN, str(trust_domain))
    elif known != str(trust_domain):
        raise Refused(
            f"This database belongs to the trust domain {known}, not {trust_domain}: set "
            f"trust_domain = {known!r}, or start with another data directory."
        )
