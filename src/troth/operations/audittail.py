"""``audit.tail``: what happens and what is decided, as it comes."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from troth.archive.following import DecisionFollower
from troth.archive.found import present_decision
from troth.archive.log import DecisionLog
from troth.archive.question import fits_named
from troth.audit.found import present_event
from troth.audit.query import Found, Kind, Query, fits
from troth.core.errors import Unavailable
from troth.live.snapshot import Snapshot
from troth.operations.auditsearch import Person, Searcher, make_query, view_found
from troth.operations.call import Call
from troth.store.engine import Store
from troth.wire.api import auditsearch as wire
from troth.wire.api.nodes import Heartbeat

HEARTBEAT_SECONDS = 5.0
LOOK_SECONDS = 0.25
"""How often the decision log is asked whether there is more. Nobody tells: whoever records a
decision has no time for that."""
BATCH = 500

_EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class TailAudit:
    """``audit.tail``: events after a position, and this server's decisions from now on."""

    searcher: Searcher
    store: Store
    snapshot: Snapshot
    decisions: DecisionLog

    async def __call__(self, call: Call[wire.TailAudit]) -> AsyncIterator[wire.Record | Heartbeat]:
        """What fits, of each kind in its order; heartbeats say up to which position of the journal
        everything was looked at. `Unavailable` for a position behind the journal's end."""
        body, loads = call.body, self.snapshot.loads
        person = await self.searcher.find_person(body.identity)
        query = make_query(body, person, *_EVER)
        follower = DecisionFollower(self.decisions)
        position = body.position
        head = await self.store.read(lambda tx: tx.journal.head())
        if position > head:
            # What comes next would have positions that the caller takes for told.
            raise Unavailable(
                f"The journal ends at position {head}, before {position}: it was set back, or it "
                f"is another one. If it stays so, begin with --position {head}, or without."
            )
        if position < 0:
            position = head
            # Before any decision: whoever loses the subscription goes on from here.
            yield Heartbeat(epoch=position)
        said: float | None = None  # a subscription says something at once
        while True:
            self.snapshot.check_same(loads)
            looked, known = position, self.snapshot.epoch
            found, position = await self._read(query, person, follower, position)
            for one in found:
                yield view_found(one)
            now = self.store.clock.monotonic()
            if said is None or now - said >= HEARTBEAT_SECONDS:
                said = now
                yield Heartbeat(epoch=position)
            if position == looked and not follower.is_behind:
                await self.snapshot.wait_beyond(max(position, known), LOOK_SECONDS)

    async def _read(
        self, query: Query, person: Person, follower: DecisionFollower, position: int
    ) -> tuple[list[Found], int]:
        """What comes next and fits, and the last position that was read."""
        events: list[Found] = []
        decisions: list[Found] = []
        if query.kind is not Kind.DECISION:
            rows = await self.store.read(lambda tx: tx.journal.list_stored(position, BATCH))
            events = [one for row in rows if fits(query, one := present_event(row))]
            position = rows[-1].position if rows else position
        if query.kind is not Kind.EVENT and follower.is_behind:
            records = await asyncio.to_thread(follower.read, BATCH)
            asked = (present_decision(record, "") for record in records)
            decisions = [one for one in asked if fits_named(query, person.names, one)]
        # By time, but events in the order of their positions: a reader goes on after the last.
        return list(heapq.merge(events, decisions, key=lambda one: one.at)), position
