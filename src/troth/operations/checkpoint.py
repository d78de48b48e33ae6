"""The log for its clients: the newest checkpoint with a proof, and what they hold against it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from troth.archive.tiles import LogFolder
from troth.audit.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from troth.audit.note import parse_note
from troth.audit.tile import prove_consistency
from troth.core.clock import Clock
from troth.core.errors import NotFound, Unavailable
from troth.operations.call import Call
from troth.operations.log import read_checkpoint
from troth.operations.logkeys import LogSigner
from troth.operations.recording import record_event
from troth.store.engine import Store
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
        """`Invalid` unless the log signed it."""
        note = call.body.note.encode()
        seen, _, _ = open_checkpoint(note, self.signer.keys, self.signer.origin)
        root = await asyncio.to_thread(self._find_root, seen)
        if root == seen.root:
            return wire.DisputeAnswer(
                continued=True, detail=f"The log continues its checkpoint of {seen.size} entries."
            )
        found = "is shorter" if root is None else f"has the root {root.hex()} there"
        detail = f"A checkpoint of {seen.size} entries was signed, and the log {found}."
        log.error("log.disputed", by=call.caller.principal, size=seen.size, root=seen.root.hex())
        await self.store.transact(
            lambda tx: record_event(
                tx,
                call,
                "log.disputed",
                self.signer.origin,
                self.clock.now(),
                size=seen.size,
                root=seen.root.hex(),
                detail=detail,
                note=call.body.note,
            )
        )
        return wire.DisputeAnswer(continued=False, detail=detail)

    def _find_root(self, seen: Checkpoint) -> bytes | None:
        try:
            return self.folder.compute_root(seen.size)
        except NotFound:
            pass
        newest = parse_checkpoint(parse_note(read_checkpoint(self.folder)).text)
        if newest.size >= seen.size:
            raise Unavailable("This server's copy of the log isn't complete yet: ask again.")
        return None
