"""How one signing authority follows another: making a key, and each step as a transaction.

The steps look at the state in the transaction that changes it, so it doesn't matter who else is at
it: background work, an administrator, another node.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Conflict
from troth.core.ids import AuthorityId, TrustDomain, new_id
from troth.drivers.keystores import KeyKind, Keystore
from troth.issuance.authorities import TOKEN_ALGORITHMS, Authority, AuthorityState, Use
from troth.issuance.ca import draft_ca_certificate
from troth.issuance.der import check_signed
from troth.issuance.drafter import Drafter
from troth.issuance.profiles import (
    ACCESS_TTL_CEILING,
    BACKDATE,
    CA_LIFETIME,
    derive_serial,
    trim_seconds,
)
from troth.issuance.x509svid import assemble_certificate
from troth.operations.call import Call
from troth.operations.recording import record_authority
from troth.store.engine import Store
from troth.store.records import (
    CertificateKind,
    CertificateRecord,
    IssuanceState,
    format_serial,
)
from troth.store.transaction import Transaction

KEY_KINDS = {Use.TOKEN_EDDSA: KeyKind.ED25519, Use.TOKEN_RS256: KeyKind.RSA}
"""What the keys of a use are, where they aren't P-256."""

LEASE = "authorities"
LEASE_TTL = timedelta(seconds=30)


@asynccontextmanager
async def hold_lease(store: Store, clock: Clock, use: Use, holder: str) -> AsyncIterator[bool]:
    """Whether `holder` alone makes authorities of `use` for now; given back at the end."""
    name, now = f"{LEASE}.{use}", clock.now()
    held = await store.transact(lambda tx: tx.leases.take(name, holder, now, LEASE_TTL))
    try:
        yield held
    finally:
        if held:
            await store.transact(lambda tx: tx.leases.release(name, holder))


@dataclass(frozen=True, slots=True)
class AuthorityMaker:
    """Makes keys, and for X.509 their self-signed certificates."""

    store: Store
    clock: Clock
    entropy: Entropy
    keystore: Keystore
    trust_domain: TrustDomain

    async def make(self, call: Call[Any], use: Use) -> Authority:
        """A new authority, not stored yet: intent, act; `add_prepared` is the result.

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
        await self.store.transact(lambda tx: record_authority(tx, call, "intended", planned, now))
        kind = KEY_KINDS.get(use, KeyKind.P256)
        public_key = await asyncio.to_thread(self.keystore.create_key, key_ref, kind)
        made = replace(planned, public_key=public_key)
        if use is not Use.X509:
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


def add_prepared(
    tx: Transaction, call: Call[Any], made: Authority, now: datetime, **body: Any
) -> Authority:
    """Publish what was made; `Conflict` if somebody else has prepared one meanwhile.

    It counts as known from now on, however long the making took.
    """
    for other in tx.authorities.list(made.use):
        if other.state is AuthorityState.PREPARED and other.is_valid(now):
            raise Conflict(f"Authority {other.id} was prepared meanwhile; see authority.ls.")
    prepared = replace(made, state=AuthorityState.PREPARED, created_at=now)
    _store(tx, prepared)
    record_authority(tx, call, "prepared", prepared, now, **body)
    return prepared


def add_active(tx: Transaction, call: Call[Any], made: Authority, now: datetime) -> None:
    """Let what was made sign at once, since nothing else can."""
    _retire_active(tx, call, made.use, now)
    active = replace(made, state=AuthorityState.ACTIVE, created_at=now)
    _store(tx, active)
    record_authority(tx, call, "activated", active, now)


def _store(tx: Transaction, authority: Authority) -> None:
    tx.authorities.add(authority)
    if authority.certificate:
        serial = x509.load_der_x509_certificate(authority.certificate).serial_number
        tx.certificates.mark_issued(format_serial(serial), authority.certificate)


def activate(
    tx: Transaction, call: Call[Any], prepared: Authority, now: datetime, **body: Any
) -> Authority:
    """Let a prepared authority sign; the one that did retires."""
    _retire_active(tx, call, prepared.use, now)
    active = replace(prepared, state=AuthorityState.ACTIVE)
    tx.authorities.save(active)
    record_authority(tx, call, "activated", active, now, **body)
    return active


def _retire_active(tx: Transaction, call: Call[Any], use: Use, now: datetime) -> None:
    active = tx.authorities.find_active(use)
    if active is not None:
        tx.authorities.save(replace(active, state=AuthorityState.RETIRED, retired_at=now))
        record_authority(tx, call, "retired", active, now)


def end_dead(tx: Transaction, call: Call[Any], use: Use, now: datetime) -> None:
    """End what nobody needs published any more: a retired authority of which nothing lives, and
    whatever has outlived itself. A tainted one is for somebody to revoke."""
    for authority in tx.authorities.list(use):
        if not authority.published or authority.state is AuthorityState.ACTIVE:
            continue
        idle = authority.state is AuthorityState.RETIRED and not has_living(tx, authority, now)
        if idle or authority.not_after <= now:
            tx.authorities.save(replace(authority, state=AuthorityState.ENDED))
            record_authority(tx, call, "ended", authority, now)


def has_living(tx: Transaction, authority: Authority, now: datetime) -> bool:
    """Whether anything that it signed lives. Nothing is added once it no longer is active: each
    intent is recorded in a transaction that looks (`may_record`)."""
    if authority.use in TOKEN_ALGORITHMS:
        end = last_token_end(authority)  # access tokens have no rows
        return end is None or now < end
    signed = tx.certificates if authority.use is Use.X509 else tx.jwt_svids
    return signed.has_living(authority.id, now)


def last_token_end(authority: Authority) -> datetime | None:
    """When the last access token that it signed is dead; None while it signs."""
    return authority.retired_at + ACCESS_TTL_CEILING if authority.retired_at else None


def may_record(tx: Transaction, authority_id: AuthorityId) -> bool:
    """Whether an intent to sign with this authority may be recorded: it still is the active one."""
    return tx.authorities.get(authority_id).state is AuthorityState.ACTIVE


def may_hand_out(tx: Transaction, authority_id: AuthorityId) -> bool:
    """Whether what this authority has signed may be handed out: it may have retired meanwhile,
    but not worse."""
    state = tx.authorities.get(authority_id).state
    return state in (AuthorityState.ACTIVE, AuthorityState.RETIRED)
