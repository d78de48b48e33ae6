"""Evidence for who asks: an event or a decision, the way from it to the log's checkpoint."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

import msgspec

from troth.archive.log import DecisionLog
from troth.archive.proof import DecisionProof
from troth.archive.search import DecisionHistory
from troth.archive.tiles import LogFolder
from troth.audit.bundle import SEGMENT_CLOSED, Bundle, DecisionEvidence, render_bundle
from troth.audit.checkpoint import Checkpoint, parse_checkpoint
from troth.audit.note import parse_note
from troth.audit.proving import add_decision, prove_entry
from troth.core.errors import Refused, Unavailable
from troth.operations.call import Call
from troth.operations.decisionlog import CloseSegments
from troth.operations.log import read_checkpoint
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import auditproofs as wire

PAGE = 1000
REST = 10.0
"""Seconds from one segment that is closed because somebody asks to the next."""


@dataclass(slots=True)
class _Watch:
    """When a segment was closed for somebody who asked, on the monotonic clock."""

    closed: float | None = None


@dataclass(frozen=True, slots=True)
class ProveEntry:
    """``audit.prove``: evidence that an event or a decision is in the log.

    Of decisions, those that this server made and those in its archive. One whose segment is open
    has it closed: what waits for an hour otherwise is wanted now.
    """

    store: Store
    log: LogFolder
    decisions: DecisionLog
    history: DecisionHistory
    close: CloseSegments
    _watch: _Watch = field(default_factory=_Watch)

    async def __call__(self, call: Call[wire.ProveEntry]) -> wire.Evidence:
        """`NotFound` if the log, or this server, doesn't have it; `Unavailable` until the log has
        what was closed for it."""
        name = call.body.entry
        if name.isdecimal():
            bundle = await asyncio.to_thread(self._prove, int(name))
        else:
            bundle = await self._prove_decision(name)
        document = await asyncio.to_thread(render_bundle, bundle)
        return msgspec.json.decode(document, type=wire.Evidence)

    def _prove(self, position: int) -> Bundle:
        return prove_entry(self.log.read, read_checkpoint(self.log), position)

    async def _prove_decision(self, name: str) -> Bundle:
        try:
            found = await asyncio.to_thread(self.history.find_proof, name)
        except Refused:
            await self._close_segment()
            found = await asyncio.to_thread(self.history.find_proof, name)
        position = await self.store.read(partial(find_event, found))
        if position is None:  # such rows stay, so this one isn't sealed yet
            raise Unavailable(
                f"The log doesn't tell yet of segment {found.segment} of server {found.server}: "
                "ask again in a second.",
                1.0,
            )
        checkpoint = await asyncio.to_thread(self._find_checkpoint)
        if position > checkpoint.size:
            raise Unavailable("The log takes the decision in just now: ask again in a second.", 1.0)
        bundle = await asyncio.to_thread(self._prove, position)
        evidence = DecisionEvidence(
            found.server, found.segment, found.index, found.size, found.entry, found.path
        )
        return add_decision(bundle, evidence)

    async def _close_segment(self) -> None:
        """Close the open segment and record its root, at most once in `REST` seconds: many small
        segments would cost more than the wait."""
        now, watch = self.close.clock.monotonic(), self._watch
        if watch.closed is not None and now - watch.closed < REST:
            wait = REST - (now - watch.closed)
            raise Unavailable(
                f"Decisions are proved once their segment is closed, and one was closed a moment "
                f"ago: ask again in {wait:.0f} seconds.",
                wait,
            )
        watch.closed = now
        await self.decisions.close_segment()
        await self.close()

    def _find_checkpoint(self) -> Checkpoint:
        return parse_checkpoint(parse_note(read_checkpoint(self.log)).text)


def find_event(proof: DecisionProof, tx: Transaction) -> int | None:
    """The position of the event that tells of a decision's segment; None if the journal has none.

    There is one an hour, so a year of them is some pages.
    """
    after = 0
    while True:
        page = tx.journal.page(
            subject=proof.server, type_prefix=SEGMENT_CLOSED, after=after, limit=PAGE
        )
        for sealed in page:
            if sealed.event.body.get("segment") == proof.segment:
                return sealed.position
        if len(page) < PAGE:
            return None
        after = page[-1].position
