"""Redaction: who did something to whom, where from and why is taken out of an event, for good.

The log's leaf stays, and with it every proof: it holds a commitment to what is gone. The request
comes first and is on record; what follows from it is done again until it is done everywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from troth.archive.tiles import LogFolder
from troth.audit.entry import read_leaf
from troth.audit.redaction import NEEDED, REDACTED
from troth.core.clock import Clock
from troth.core.errors import Refused, Unavailable
from troth.operations.call import Call
from troth.operations.recording import record_event
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import redactions as wire

CURSOR = "archive.redacted"
BATCH = 100


@dataclass(frozen=True, slots=True)
class RedactEvent:
    """``journal.redact``: of the event at a position only that it happened is kept."""

    store: Store
    clock: Clock
    folder: LogFolder

    async def __call__(self, call: Call[wire.RedactEvent]) -> wire.EventRedacted:
        """`Refused` for what must stay (proofs need it, or a legal hold keeps it)."""
        body = call.body
        if body.position > self.folder.size:
            raise Unavailable(
                f"The log has {self.folder.size} entries so far: ask again in a moment, or look up "
                "the position with `troth audit search`."
            )
        entry, _ = await asyncio.to_thread(self.folder.find_entry, body.position)
        leaf = read_leaf(entry)
        if leaf.type.startswith(NEEDED):
            raise Refused(
                f"An event {leaf.type!r} is never redacted: other records are proved by it."
            )
        digest = bytes.fromhex(leaf.detail)
        await self.store.transact(partial(self._record, call, leaf.type, leaf.microseconds, digest))
        return wire.EventRedacted(position=body.position, type=leaf.type)

    def _record(
        self, call: Call[wire.RedactEvent], type_: str, at: int, digest: bytes, tx: Transaction
    ) -> None:
        position = call.body.position
        for hold in tx.holds.list():
            if hold.covers_microseconds(at):
                raise Refused(
                    f"The legal hold {hold.name!r} keeps what happened then: release it first, "
                    "with `troth audit hold release`."
                )
        tx.journal.redact(position, digest)
        tx.dead_letters.redact("journal", position)
        record_event(
            tx,
            call,
            "journal.redacted",
            str(position),
            self.clock.now(),
            position=position,
            type=type_,
            reason=call.body.reason,
        )


class Redactor(Protocol):
    """A further place where events lie."""

    def redact_event(self, position: int) -> bool:
        """Take the event's detail out; False if it isn't here."""
        ...


@dataclass(frozen=True, slots=True)
class FollowRedactions:
    """Background: what was redacted is taken out of the archive too. Idempotent.

    The log's own files follow as they grow (`troth.operations.log`).
    """

    store: Store
    archive: Redactor
    scope: str = ""
    """Which of several archives this is."""

    async def __call__(self) -> None:
        """Do what is new; a crash in between does it again."""
        while True:
            events = await self.store.read(self._read)
            for position, target in events:
                await asyncio.to_thread(self.archive.redact_event, target)
                await self.store.transact(partial(self._save, position))
            if len(events) < BATCH:
                return

    def _read(self, tx: Transaction) -> Sequence[tuple[int, int]]:
        found = tx.journal.page(
            type_prefix=REDACTED, after=tx.cursors.get(self._cursor), limit=BATCH
        )
        return [(one.position, int(one.event.body["position"])) for one in found]

    def _save(self, position: int, tx: Transaction) -> None:
        if tx.cursors.get(self._cursor) < position:
            tx.cursors.save(self._cursor, position)

    @property
    def _cursor(self) -> str:
        return f"{CURSOR}/{self.scope}" if self.scope else CURSOR
