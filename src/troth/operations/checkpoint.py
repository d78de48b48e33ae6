"""The log for its clients: the newest checkpoint with a proof, and what they hold against it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

import structlog

from troth.archive.tiles import LogFolder
from troth.audit.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from troth.audit.merkle import EMPTY_ROOT
from troth.audit.note import parse_note
from troth.audit.tile import Tiles, prove_consistency
from troth.core.clock import Clock
from troth.core.errors import Conflict, Refused, Unavailable
from troth.operations.call import Call
from troth.operations.log import read_checkpoint
from troth.operations.logkeys import LogSigner
from troth.operations.recording import record_event, record_once
from troth.store.checkpoints import StoredCheckpoint
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import checkpoints as wire

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ShowCheckpoint:
    """``checkpoint.show``: what is published, for anybody."""

    folder: LogFolder
    signer: LogSigner

    async def __call__(self, call: Call[wire.ShowCheckpoint]) -> wire.CheckpointShown:
        """`Unavailable` before the first one."""
        return await asyncio.to_thread(self._show, call.body.since)

    def _show(self, since: int) -> wire.CheckpointShown:
        note = read_checkpoint(self.folder)
        size = parse_checkpoint(parse_note(note).text).size
        known = 0 < since < size
        proof = prove_consistency(self.folder.read, since, size) if known else ()
        return wire.CheckpointShown(
            note=note.decode(),
            keys=[key.render() for key in self.signer.keys],
            proof=[one.hex() for one in proof],
        )


@dataclass(frozen=True, slots=True)
class DisputeCheckpoint:
    """``checkpoint.dispute``: a client has seen a checkpoint that this log doesn't continue.

    It must be signed with the log's own keys, so nobody can make one up.
    """

    store: Store
    clock: Clock
    folder: LogFolder
    signer: LogSigner

    async def __call__(self, call: Call[wire.DisputeCheckpoint]) -> wire.DisputeAnswer:
        """`Invalid` unless the log signed it, `Unavailable` while this server can't say."""
        note = call.body.note.encode()
        seen, _, _ = open_checkpoint(note, self.signer.keys, self.signer.origin)
        root = await find_root(self.store, self.folder, seen.size)
        if root == seen.root:
            return wire.DisputeAnswer(
                continued=True, detail=f"The log continues its checkpoint of {seen.size} entries."
            )
        found = "is shorter" if root is None else f"has the root {root.hex()} there"
        detail = f"A checkpoint of {seen.size} entries was signed, and the log {found}."
        if await self.store.transact(partial(self._record, call, seen, detail)):
            log.error(
                "log.disputed", by=call.caller.principal, size=seen.size, root=seen.root.hex()
            )
        return wire.DisputeAnswer(continued=False, detail=detail)

    def _record(
        self, call: Call[wire.DisputeCheckpoint], seen: Checkpoint, detail: str, tx: Transaction
    ) -> bool:
        """Once a checkpoint, however many have seen it."""
        size, root = seen.size, seen.root.hex()
        return record_once(
            tx,
            call,
            "log.disputed",
            self.signer.origin,
            self.clock.now(),
            mark=f"{size}/{root}",
            size=size,
            root=root,
            detail=detail,
            note=call.body.note,
        )


@dataclass(frozen=True, slots=True)
class AbandonCheckpoint:
    """``checkpoint.abandon``: go on with the log as it is, though another one was signed.

    The way out after ``log.forked``. Whoever remembers the other one will say so.
    """

    store: Store
    clock: Clock
    folder: LogFolder
    signer: LogSigner

    async def __call__(self, call: Call[wire.AbandonCheckpoint]) -> wire.CheckpointAbandoned:
        """`Refused` unless the checkpoint that was signed last contradicts the log."""
        newest = await self.store.read(lambda tx: tx.checkpoints.newest())
        if newest is None:
            raise Refused("No checkpoint is signed: there is nothing to abandon.")
        root = await find_root(self.store, self.folder, newest.size)
        if root == newest.root:
            raise Refused(
                f"The log continues its checkpoint of {newest.size} entries: there is nothing to "
                "abandon."
            )
        await self.store.transact(partial(self._abandon, call, newest))
        return wire.CheckpointAbandoned(size=newest.size, root=newest.root.hex())

    def _abandon(
        self, call: Call[wire.AbandonCheckpoint], seen: StoredCheckpoint, tx: Transaction
    ) -> None:
        newest = tx.checkpoints.newest()
        if newest is None or newest.root != seen.root:
            raise Conflict("Another checkpoint was signed meanwhile: look again.")
        tx.checkpoints.remove_all()
        record_event(
            tx,
            call,
            "checkpoint.abandoned",
            self.signer.origin,
            self.clock.now(),
            size=newest.size,
            root=newest.root.hex(),
            note=newest.note,
            reason=call.body.reason,
        )


async def find_root(store: Store, folder: LogFolder, size: int) -> bytes | None:
    """The root of the log's first `size` entries, as this server has them; None if the log has
    fewer. `Unavailable` while this server alone has. Writes nothing."""
    held = folder.size
    if size > held:
        if await store.read(lambda tx: tx.journal.head()) >= size:
            raise Unavailable(
                "This server's copy of the log isn't complete yet: ask again in a moment.", 1.0
            )
        return None
    if not size:
        return EMPTY_ROOT
    return await asyncio.to_thread(Tiles(folder.read, held).hash_range, 0, size)
