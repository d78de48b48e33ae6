"""Signing authorities: one active for each use, the next one published before it signs.

At half of an authority's life its successor is prepared: published in the bundle, not signing. At a
sixth left the successor becomes active and the old one retires: still published, until nothing that
it signed can live. So every verifier knows a root before it meets a leaf of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Refused
from troth.core.ids import AuthorityId, TrustDomain, new_id
from troth.drivers.keystores import Keystore
from troth.issuance.authorities import Authority, AuthorityState, Use
from troth.issuance.ca import draft_ca_certificate
from troth.issuance.der import check_signed
from troth.issuance.drafter import Drafter
from troth.issuance.profiles import BACKDATE, CA_LIFETIME, derive_serial, trim_seconds
from troth.issuance.x509svid import assemble_certificate
from troth.operations.recording import BACKGROUND, record_event
from troth.store.engine import Store
from troth.store.records import (
    CertificateKind,
    CertificateRecord,
    IssuanceState,
    format_serial,
)
from troth.store.transaction import Transaction

TRUST_DOMAIN = "trust_domain"
LEASE = "authorities"
LEASE_TTL = timedelta(seconds=30)
KNOWN_AFTER = timedelta(minutes=10)
"""How long a prepared authority is published before it may sign."""


@dataclass(frozen=True, slots=True)
class PrepareAuthorities:
    """Background: for each use an active authority, and its successor in time. Idempotent.

    `holder` names this node; a lease keeps two nodes from making the same authority twice.
    """

    store: Store
    clock: Clock
    entropy: Entropy
    keystore: Keystore
    trust_domain: TrustDomain
    holder: str

    async def __call__(self) -> None:
        """Take the next step for each use, if one is due."""
        for use in Use:
            lease = f"{LEASE}.{use}"
            now = self.clock.now()
            if not await self._take(lease, now):
                continue
            try:
                await self._advance(use, now)
            finally:
                await self._release(lease)

    async def _release(self, lease: str) -> None:
        await self.store.transact(lambda tx: tx.leases.release(lease, self.holder))

    async def _take(self, lease: str, now: datetime) -> bool:
        return await self.store.transact(
            lambda tx: tx.leases.take(lease, self.holder, now, LEASE_TTL)
        )

    async def _advance(self, use: Use, now: datetime) -> None:
        known = await self.store.read(lambda tx: tx.authorities.list(use))
        active = next((a for a in known if a.state is AuthorityState.ACTIVE), None)
        prepared = next((a for a in known if a.state is AuthorityState.PREPARED), None)
        if active is None or not active.not_before <= now < active.not_after:
            # Nothing can be signed: better a root that verifiers learn of late than none. (One
            # that isn't valid yet was made under a clock that has been set back since.)
            await self._replace(use, active, prepared or await self._make(use))
        elif prepared is None and now >= active.not_after - _life(active) / 2:
            made = await self._make(use)
            await self.store.transact(lambda tx: self._add(tx, made, "prepared"))
        elif (
            prepared is not None
            and now >= active.not_after - _life(active) / 6
            and now >= prepared.created_at + KNOWN_AFTER
        ):
            await self._replace(use, active, prepared)
        await self.store.transact(lambda tx: self._end_dead(tx, known, now))

    async def _replace(self, use: Use, active: Authority | None, successor: Authority) -> None:
        def replace_active(tx: Transaction) -> None:
            now = self.clock.now()
            if active is not None:
                tx.authorities.save(replace(active, state=AuthorityState.RETIRED))
                self._note(tx, "retired", active, now)
            if tx.authorities.find(successor.id) is None:
                self._add(tx, successor, "activated", AuthorityState.ACTIVE)
            else:
                tx.authorities.save(replace(successor, state=AuthorityState.ACTIVE))
                self._note(tx, "activated", successor, now)

        await self.store.transact(replace_active)

    def _add(
        self,
        tx: Transaction,
        authority: Authority,
        verbed: str,
        state: AuthorityState = AuthorityState.PREPARED,
    ) -> None:
        tx.authorities.add(replace(authority, state=state))
        if authority.certificate:
            serial = x509.load_der_x509_certificate(authority.certificate).serial_number
            tx.certificates.mark_issued(format_serial(serial), authority.certificate)
        self._note(tx, verbed, authority, self.clock.now())

    def _end_dead(self, tx: Transaction, known: list[Authority], now: datetime) -> None:
        """A retired authority signed nothing that outlives it, so it ends with its own time."""
        for authority in known:
            if authority.state is AuthorityState.RETIRED and authority.not_after <= now:
                tx.authorities.save(replace(authority, state=AuthorityState.ENDED))
                self._note(tx, "ended", authority, now)

    def _note(self, tx: Transaction, verbed: str, authority: Authority, now: datetime) -> None:
        record_event(
            tx,
            BACKGROUND,
            f"authority.{verbed}",
            authority.id,
            now,
            use=authority.use.value,
            key=authority.key_ref,
            not_after=authority.not_after.isoformat(),
        )

    async def _make(self, use: Use) -> Authority:
        """A new key, and for X.509 its self-signed certificate: intent, act; `_add` is the result.

        What a crash leaves behind is a key that nothing names and, for X.509, an intended
        certificate, which the reconciler abandons.
        """
        now = trim_seconds(self.clock.now())
        authority_id = AuthorityId(new_id("aut", self.entropy))
        key_ref = f"{use.value}-{authority_id}"
        planned = Authority(
            id=authority_id,
            use=use,
            state=AuthorityState.PREPARED,
            key_ref=key_ref,
            public_key=b"",
            certificate=b"",
            not_before=now - BACKDATE,
            not_after=now + CA_LIFETIME,
            created_at=now,
        )
        await self.store.transact(lambda tx: self._note(tx, "intended", planned, now))
        public_key = await asyncio.to_thread(self.keystore.create_key, key_ref)
        made = replace(planned, public_key=public_key)
        if use is Use.JWT:
            return made
        tbs, serial = self._draft(made)
        await self.store.transact(lambda tx: self._intend(tx, made, tbs, serial))
        signature = await asyncio.to_thread(self.keystore.sign, key_ref, tbs)
        certificate = assemble_certificate(tbs, signature)
        check_signed(certificate, tbs, public_key)
        return replace(made, certificate=certificate)

    def _draft(self, made: Authority) -> tuple[bytes, str]:
        serial = derive_serial(self.entropy.token(20))
        tbs = draft_ca_certificate(
            self.trust_domain,
            made.public_key,
            made.not_before,
            made.not_after,
            serial,
            Drafter(),
        )
        return tbs, format_serial(serial)

    def _intend(self, tx: Transaction, made: Authority, tbs: bytes, serial: str) -> None:
        tx.certificates.add_intended(
            CertificateRecord(
                serial=serial,
                kind=CertificateKind.CA,
                subject=self.trust_domain.id,
                identity_id=None,
                instance_id=None,
                node_id=None,
                authority_id=made.id,
                state=IssuanceState.INTENDED,
                tbs=tbs,
                not_before=made.not_before,
                not_after=made.not_after,
                created_at=made.created_at,
            )
        )


def _life(authority: Authority) -> timedelta:
    return authority.not_after - authority.not_before


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
