"""Decisions that were made: listed and shown, as the log and the archive have them.

Each server has its own log: it tells what it answered itself, and what is in its archive.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from troth.archive.proof import DecisionProof
from troth.archive.record import DecisionRecord
from troth.archive.search import DecisionHistory
from troth.audit.merkle import compute_root, hash_leaf
from troth.core.clock import Clock
from troth.operations.call import Call
from troth.operations.moments import check_zones
from troth.wire.api import decisions as wire

log = structlog.get_logger(__name__)

BEGINNING = datetime(2020, 1, 1, tzinfo=UTC)
"""Before anything was decided."""
NEAR = timedelta(minutes=10)
"""The newest are looked for in the last ten minutes, then in ten times as many, and so on."""
TICK = timedelta(microseconds=1)
SAME_MOMENT = 1024
"""The most decisions of one moment, which a page holds together: those of one request."""


@dataclass(frozen=True, slots=True)
class ListDecisions:
    """``decision.ls``: what was decided, from one moment to another."""

    decisions: DecisionHistory
    clock: Clock

    async def __call__(self, call: Call[wire.ListDecisions]) -> wire.DecisionPage:
        """A page of it; `Invalid` for times without a zone."""
        body = call.body
        check_zones(since=body.since, until=body.until)
        look = self._look_forward if body.oldest else self._look_back
        return await asyncio.to_thread(look, body)

    def _look_forward(self, body: wire.ListDecisions) -> wire.DecisionPage:
        found: list[DecisionRecord] = []
        since, until = self._bound(body)
        for record in self._scan(body, since, until):
            if len(found) >= body.limit and record.at != found[-1].at:
                return _make_page(found, found[-1].at + TICK)
            found.append(record)
        return _make_page(found, None)

    def _look_back(self, body: wire.ListDecisions) -> wire.DecisionPage:
        since, until = self._bound(body)
        found: list[DecisionRecord] = []
        span = NEAR
        while until > since:
            start = max(since, until - span)
            # The last ones of this window alone are kept, whatever there is.
            most = body.limit - len(found) + SAME_MOMENT
            for record in reversed(deque(self._scan(body, start, until), maxlen=most)):
                if len(found) >= body.limit and record.at != found[-1].at:
                    return _make_page(found, found[-1].at)
                found.append(record)
            until, span = start, span * 10
        return _make_page(found, None)

    def _bound(self, body: wire.ListDecisions) -> tuple[datetime, datetime]:
        since = max(body.since or BEGINNING, BEGINNING)
        # The clock may be set back; what is written now has its time from it.
        latest = self.clock.now() + timedelta(days=1)
        return since, min(body.until or latest, latest)

    def _scan(
        self, body: wire.ListDecisions, since: datetime, until: datetime
    ) -> Iterator[DecisionRecord]:
        scan = self.decisions.scan(
            since,
            until,
            subject=body.subject or "",
            resource=body.resource or "",
            on_damage=partial(log.error, "decisions.damaged"),
        )
        return (one for one in scan if body.allowed is None or one.allowed is body.allowed)


@dataclass(frozen=True, slots=True)
class ShowDecision:
    """``decision.show``: one decision, and that it is in the log."""

    decisions: DecisionHistory

    async def __call__(self, call: Call[wire.NameDecision]) -> wire.DecisionShown:
        """Raises `NotFound` if this server didn't record it, or keeps it no more."""
        record, proof = await asyncio.to_thread(self.decisions.find, call.body.id)
        return wire.DecisionShown(
            decision=view_decision(record), proof=None if proof is None else view_proof(proof)
        )


def _make_page(found: list[DecisionRecord], following: datetime | None) -> wire.DecisionPage:
    return wire.DecisionPage(items=[view_decision(one) for one in found], next=following)


def view_decision(record: DecisionRecord) -> wire.DecisionView:
    """A record as the API shows it."""
    return wire.DecisionView(
        id=record.id,
        at=record.at,
        allowed=record.allowed,
        caller=record.caller,
        point=record.point,
        request_id=record.request_id,
        subject_type=record.subject_type,
        subject=record.subject,
        action=record.action,
        resource=record.resource,
        resource_type=record.resource_type,
        resource_id=record.resource_id,
        policies=list(record.policies),
        reason=record.reason,
        epoch=record.epoch,
        facts=dict(record.facts),
    )


def view_proof(proof: DecisionProof) -> wire.ProofView:
    """A proof as the API shows it, with the root that it leads to."""
    root = compute_root(hash_leaf(proof.entry), proof.index, proof.size, proof.path)
    return wire.ProofView(
        server=proof.server,
        segment=proof.segment,
        index=proof.index,
        size=proof.size,
        entry=proof.entry.hex(),
        path=[one.hex() for one in proof.path],
        root=root.hex(),
    )
