"""The database as many issued tokens leave it: their events in the sealed journal, and the proofs
that were used up for them and aren't too old yet.

The rows are written by the store's own gateways, after the pattern of an event that the server
itself has written.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.report import say
from troth.core.clock import SystemClock
from troth.core.entropy import SystemEntropy
from troth.core.events import Event
from troth.core.ids import new_id, new_ordered_id
from troth.operations.client import LEEWAY
from troth.store.engine import Store, Transaction, open_store

PORTION = 5000
PROOF_LIFE = timedelta(seconds=600) + LEEWAY
"""How long the digest of an assertion is kept that lives for ten minutes."""


@dataclass(frozen=True, slots=True)
class Left:
    """What was written, and how long that took."""

    tokens: int
    proofs: int
    seconds: float
    size: int

    def describe(self) -> dict[str, Any]:
        """For the result."""
        return {
            "issued_before": self.tokens,
            "unexpired_proofs": self.proofs,
            "written_s": round(self.seconds, 1),
            "database_gb": round(self.size / 1e9, 2),
        }


def leave_issued(folder: Path, count: int, rate: float) -> Left:
    """Write what `count` tokens leave that were issued until now, at `rate` a second, to the
    database of the stopped server in `folder`."""
    clock = SystemClock()
    store = open_store(f"sqlite:///{folder / 'troth.db'}", clock=clock)
    began, proofs = time.perf_counter(), min(count, round(rate * PROOF_LIFE.total_seconds()))
    try:
        asyncio.run(_write(store, count, proofs, clock.now(), rate))
    finally:
        store.close()
    size = sum((folder / name).stat().st_size for name in os.listdir(folder) if "troth.db" in name)
    return Left(count, proofs, time.perf_counter() - began, size)


async def _write(store: Store, count: int, proofs: int, now: datetime, rate: float) -> None:
    (pattern,) = await store.read(lambda tx: tx.journal.page(type_prefix="token.issued", limit=1))
    clients = await store.read(_list_clients)
    entropy = SystemEntropy()

    def make_event(number: int) -> Event:
        at = now - timedelta(seconds=(count - number) / rate)
        client = clients[number * 7919 % len(clients)]
        body = dict(pattern.event.body) | {
            "jti": new_ordered_id("tok", at, entropy),
            "client": client,
            "expires_at": (at + timedelta(hours=1)).isoformat(),
            "source": f"192.0.2.{number % 250}:{10_000 + number % 50_000}",
        }
        return replace(
            pattern.event,
            subject=client,
            actor=client,
            at=at,
            request_id=new_id("req", entropy),
            body=body,
        )

    for start in range(0, count, PORTION):
        numbers = range(start, min(start + PORTION, count))
        events = [make_event(number) for number in numbers]
        used = {
            entropy.token(32).hex(): now - timedelta(seconds=(count - number) / rate) + PROOF_LIFE
            for number in numbers
            if number >= count - proofs
        }
        await store.transact(lambda tx: _leave(tx, events, used))  # noqa: B023 - it runs at once
        if (start + PORTION) % 500_000 == 0:
            say(f"{start + PORTION:,} tokens in the journal")


def _list_clients(tx: Transaction) -> list[str]:
    """The SPIFFE IDs in the last events: of all who were given a token."""
    return sorted(
        {
            sealed.event.subject
            for sealed in tx.journal.page(type_prefix="token.issued", limit=20_000)
        }
    )


def _leave(tx: Transaction, events: list[Event], used: dict[str, datetime]) -> None:
    tx.used_proofs.take_all(used)
    tx.journal.append_all(events)
    tx.journal.seal(len(events))
