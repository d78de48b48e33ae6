"""Erasing signing keys that nobody will sign with again: of authorities that are over, or that
never came to be."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.core.clock import Clock
from troth.core.errors import NotFound
from troth.core.ids import AuthorityId
from troth.drivers.keystores import Keystore
from troth.issuance.authorities import Use
from troth.operations.recording import BACKGROUND, record_event
from troth.store.engine import Store
from troth.store.transaction import Transaction

LEASE = "keys.erase"
LEASE_TTL = timedelta(minutes=1)
UNUSED_AFTER = timedelta(days=1)
"""How long a key may wait for its authority to be recorded; making one takes seconds."""


@dataclass(frozen=True, slots=True)
class EraseKeys:
    """Background: delete the private key of every ended or revoked authority. Idempotent.

    A key that no authority has goes too, if this database recorded the intent to make it more than
    `UNUSED_AFTER` ago: what it doesn't know may belong to a newer state of it than was restored.
    `holder` names this node; a lease keeps two from recording the same.
    """

    store: Store
    clock: Clock
    keystore: Keystore
    holder: str

    async def __call__(self) -> None:
        """Record each, then delete it; a crash in between has it recorded again."""
        now = self.clock.now()
        refs = await asyncio.to_thread(self.keystore.list_keys)
        if not await self.store.read(lambda tx: _list_idle(tx, refs, now)):
            return
        if not await self.store.transact(
            lambda tx: tx.leases.take(LEASE, self.holder, now, LEASE_TTL)
        ):
            return
        try:
            # Looked up again: who held the lease before may have deleted some.
            refs = await asyncio.to_thread(self.keystore.list_keys)
            idle = await self.store.transact(lambda tx: _record_idle(tx, refs, now))
            for key_ref in idle:
                with suppress(NotFound):
                    await asyncio.to_thread(self.keystore.delete_key, key_ref)
        finally:
            await self.store.transact(lambda tx: tx.leases.release(LEASE, self.holder))


def _record_idle(tx: Transaction, refs: list[str], now: datetime) -> list[str]:
    idle = _list_idle(tx, refs, now)
    for key_ref, authority_id in idle.items():
        record_event(tx, BACKGROUND, "key.erased", authority_id, now, key=key_ref)
    return list(idle)


def _list_idle(tx: Transaction, refs: list[str], now: datetime) -> dict[str, AuthorityId]:
    """The keys of `refs` to be erased, with the authority that each was made for."""
    known = {authority.key_ref: authority for authority in tx.authorities.list()}
    idle = {}
    for key_ref in refs:
        authority = known.get(key_ref)
        if authority is not None:
            if not authority.published:
                idle[key_ref] = authority.id
        elif (made_for := _find_intent(tx, key_ref, now)) is not None:
            idle[key_ref] = made_for
    return idle


def _find_intent(tx: Transaction, key_ref: str, now: datetime) -> AuthorityId | None:
    """The authority for which `key_ref` was made so long ago that nobody waits for it."""
    for use in Use:
        authority_id = key_ref.removeprefix(f"{use.value}-")
        if authority_id == key_ref:
            continue
        for sealed in tx.journal.page(subject=authority_id, limit=1):
            event = sealed.event
            if event.type == "authority.intended" and event.at < now - UNUSED_AFTER:
                return AuthorityId(authority_id)
    return None
