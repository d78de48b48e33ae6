"""Reports of what a service decided: gathered, kept in a spool, and sent in batches.

A decision is given before it is kept. What isn't in the spool yet is lost with the process: at most
what was decided within `FLUSH_SECONDS`, and with a spool in memory all that no server has.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from troth.core.errors import Invalid, Passing, TooLarge, TrothError
from troth.live.judge import Judgement
from troth.policy.fact import render_value
from troth.policy.inquiry import Inquiry
from troth.sdk.spool import MAX_LINE, Spool
from troth.wire.api.rules import (
    DecisionsReported,
    ReportDecisions,
    ReportedDecision,
)

log = logging.getLogger("troth.sdk")

FLUSH_SECONDS = 1.0
FLUSH_COUNT = 500
MOST_WAITING = 50_000
"""Decisions that wait for the spool; more are lost, and counted."""
BATCH = 500
BATCH_BYTES = 512 << 10
RETRY_SECONDS = 5.0


class Made(NamedTuple):
    """A decision as it was made; a tuple, since one is made for each decision."""

    id: str
    at: datetime
    request_id: str
    subject_type: str
    subject: str
    inquiry: Inquiry
    judgement: Judgement
    epoch: int


class Sender(Protocol):
    """Sends a report to some server."""

    async def __call__(self, report: ReportDecisions, /) -> DecisionsReported:
        """What the server says of it; raises a kind of `TrothError`."""
        ...


class Reporter:
    """Takes decisions from any thread, and reports them in that of `run`."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._waiting: deque[Made] = deque()
        self._dropped = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._full: asyncio.Event | None = None
        self.reported = 0
        self.lost = 0
        """How many were never reported, of which the servers were told."""

    @property
    def waiting(self) -> int:
        """How many aren't in the spool yet."""
        return len(self._waiting)

    def put(self, made: Made) -> None:
        """Report a decision, in a while."""
        waiting = self._waiting
        if len(waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        waiting.append(made)
        if len(waiting) == FLUSH_COUNT and self._loop is not None and self._full is not None:
            self._loop.call_soon_threadsafe(self._full.set)

    async def run(self, send: Sender) -> None:
        """Keep and send for ever; when it is cancelled, what waits is kept and sent once more."""
        self._loop, self._full = asyncio.get_running_loop(), asyncio.Event()
        clock, next_try = self._loop.time, 0.0
        try:
            while True:
                try:
                    await asyncio.wait_for(self._full.wait(), FLUSH_SECONDS)
                except TimeoutError:
                    pass
                self._full.clear()
                try:
                    await self.keep()
                    if clock() >= next_try and not await self._send_all(send):
                        next_try = clock() + RETRY_SECONDS
                except Exception:
                    # Decisions go on, whatever becomes of their reports.
                    log.exception("reporting decisions broke")
                    next_try = clock() + RETRY_SECONDS
        finally:
            self._loop = None

    async def finish(self, send: Sender, seconds: float = 2.0) -> None:
        """Keep what waits, and send what can be sent within `seconds`."""
        await self.keep()
        try:
            async with asyncio.timeout(seconds):
                await self._send_all(send)
        except TimeoutError:
            pass
        self._spool.close()

    async def keep(self) -> None:
        """Put all that waits into the spool."""
        while self._waiting:
            count = min(len(self._waiting), BATCH)
            made = [self._waiting.popleft() for _ in range(count)]
            try:
                await asyncio.to_thread(self._append, made)
            except OSError as error:
                log.warning("decisions can't be kept: %s", error.strerror)
                self._dropped += len(made)
                return

    def _append(self, made: Sequence[Made]) -> None:
        self._spool.append([encode_made(one) for one in made])

    async def _send_all(self, send: Sender) -> bool:
        """Send what the spool has; whether nothing is left to be tried again."""
        most = BATCH
        while True:
            batch = await asyncio.to_thread(self._spool.read, most, BATCH_BYTES)
            lost = self._dropped + self._spool.lost
            if not batch.entries and not lost:
                return True
            decisions = [one for entry in batch.entries if (one := _decode(entry)) is not None]
            try:
                answer = await send(ReportDecisions(decisions=decisions, lost=lost))
            except Passing as error:
                log.debug("decisions wait: %s", error.detail)
                return False
            except (Invalid, TooLarge) as error:
                # One of them isn't understood there, and must not keep the others.
                if len(decisions) > 1:
                    most = max(1, most // 8)
                    continue
                log.warning("a decision can't be reported: %s", error.detail)
                self._dropped += len(decisions)
                await asyncio.to_thread(self._spool.remove, batch)
                continue
            except TrothError as error:
                log.warning("decisions can't be reported: %s", error.detail)
                return False
            for refusal in answer.refused:
                log.warning("the decision %s isn't kept: %s", refusal.id, refusal.reason)
            self.reported += answer.kept + answer.known
            self.lost += lost
            from_spool = min(lost, self._spool.lost)
            self._spool.lost -= from_spool
            self._dropped -= lost - from_spool
            await asyncio.to_thread(self._spool.remove, batch)
            most = BATCH


def encode_made(made: Made) -> bytes:
    """A decision as it is reported, in one line."""
    judgement, inquiry = made.judgement, made.inquiry
    report = ReportedDecision(
        id=made.id,
        at=made.at,
        request_id=made.request_id[:128],
        subject_type=made.subject_type[:512],
        subject=made.subject[:2048],
        action=inquiry.action[:512],
        resource="" if judgement.resource is None else judgement.resource.name,
        resource_type=inquiry.resource_type[:512],
        resource_id=inquiry.resource_id[:2048],
        allowed=judgement.allowed,
        policies=judgement.decision.determining[:256],
        reason=judgement.refusal[:1024],
        epoch=made.epoch,
        facts={name: render_value(value) for name, value in judgement.decision.read.items()},
    )
    try:
        line = msgspec.json.encode(report)
    except (TypeError, ValueError, OverflowError, RecursionError):
        line = b""  # what somebody told isn't JSON; that it was decided is
    if 0 < len(line) < MAX_LINE:
        return line
    plain: dict[str, Any] = {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in msgspec.structs.asdict(report).items()
    }
    return msgspec.json.encode(ReportedDecision(**plain | {"facts": {}}))


def _decode(entry: bytes) -> ReportedDecision | None:
    """An entry of the spool; None if a crash or somebody else damaged it."""
    try:
        return msgspec.json.decode(entry, type=ReportedDecision)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        log.warning("a decision in the spool was unreadable and is left out")
        return None
