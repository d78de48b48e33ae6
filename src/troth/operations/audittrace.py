"""``audit.trace``: everything that happened because of a request, and what it came from."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from troth.archive.found import present_decision
from troth.audit.found import present_event
from troth.audit.query import Found, Kind, Query, find_spot
from troth.audit.trace import Lead, Tie, find_tie, list_causes, list_consequences
from troth.core.clock import Clock
from troth.core.errors import Invalid, NotFound
from troth.operations.auditsearch import DAY, Searcher, find_period, view_found
from troth.operations.call import Call
from troth.operations.recording import BACKGROUND
from troth.wire.api import auditsearch as wire

MOST_STEPS = 500
MOST_LOOKS = 60
"""Searches for one trace, beside the first ones."""
MOST_SECONDS = 20.0
DEEPEST = 8
MOST_FOLLOWERS = 100
"""Things that are looked at for one lead."""
REACH = timedelta(days=30)
"""How far back a request is looked for, unless it is said."""
HOUR = timedelta(hours=1)

_REQUEST = Tie("", "", "request", "was done in the request {value}")
_NAMED = Tie("", "", "named", "is what was asked about")
_DECISION_ID = "dec_"
_POSITION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


@dataclass(slots=True)
class _Step:
    """A thing in the tree, and why it is there."""

    found: Found
    tie: Tie
    value: str
    depth: int
    steps: list[_Step] = field(default_factory=list)

    def view(self) -> wire.Step:
        steps = sorted(self.steps, key=lambda one: find_spot(one.found))
        return wire.Step(
            link=self.tie.link,
            why=self.tie.words.format(value=self.value),
            record=view_found(self.found),
            steps=[one.view() for one in steps],
        )


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """``audit.trace``: the causal chain, as a tree."""

    searcher: Searcher
    clock: Clock

    async def __call__(self, call: Call[wire.TraceRequest]) -> wire.Trace:
        """The tree: what was done in the request, what followed from each of these by identifiers
        that it made, and the requests that did that. `NotFound` if nothing is recorded of it."""
        body, now = call.body, self.clock.now()
        since, until = find_period(body.since or now - REACH, None, now)
        if body.id == BACKGROUND.request_id:
            raise Invalid("What the server does by itself has no request that it came from.")
        walk = _Walk(self.searcher, self.clock.monotonic)
        request_id, roots = await self._find_roots(walk, body.id, since, until)
        causes = await walk.go_back(roots)
        return wire.Trace(
            request_id=request_id,
            steps=[one.view() for one in await walk.go_on(roots)],
            causes=[one.view() for one in causes],
            complete=not walk.notes,
            notes=list(walk.notes),
        )

    async def _find_roots(
        self, walk: _Walk, id_: str, since: datetime, until: datetime
    ) -> tuple[str, list[_Step]]:
        """The request's id, and what was done in it."""
        request_id, named = id_, await self._find_named(id_)
        if named is not None:
            request_id = named.request_id
            since, until = named.at - DAY, named.at + DAY
            if request_id in ("", BACKGROUND.request_id):
                return request_id, [_Step(named, _NAMED, "", 0)]
        # The last day first: that is where most requests are that somebody asks about.
        for begins in (max(since, until - 2 * DAY), since):
            if found := await walk.find_request(request_id, begins, until, MOST_STEPS):
                return request_id, [_Step(one, _REQUEST, request_id, 0) for one in found]
        raise NotFound(
            f"Nothing is recorded of the request {request_id[:128]!r} since {since.isoformat()}. "
            "Give an earlier --since, or look for it with `troth audit search --text`."
        )

    async def _find_named(self, id_: str) -> Found | None:
        """The one thing that an id names, unless it is a request's."""
        if id_.startswith(_DECISION_ID):
            record, _ = await asyncio.to_thread(self.searcher.archive.find, id_)
            return present_decision(record, "")
        if not _POSITION.fullmatch(id_):
            return None
        position = int(id_)
        row = await self.searcher.events.store.read(lambda tx: tx.journal.find_stored(position))
        if row is None:
            raise NotFound(
                f"The event at position {position} isn't in the journal, or is archived: give the "
                "id of its request, which `troth audit search` shows with --json."
            )
        return present_event(row)


class _Walk:
    """One trace: what was met, and how much was looked for."""

    def __init__(self, searcher: Searcher, monotonic: Callable[[], float]) -> None:
        self._searcher = searcher
        self._monotonic = monotonic
        self._ends = monotonic() + MOST_SECONDS
        self._looks = 0
        self._met: set[tuple[Kind, str]] = set()
        self._requests: set[str] = {BACKGROUND.request_id, ""}
        self.notes: dict[str, None] = {}
        """What is missing, in sentences."""

    async def find_request(
        self, request_id: str, since: datetime, until: datetime, most: int
    ) -> list[Found]:
        """What was done in a request, oldest first."""
        self._requests.add(request_id)
        return await self._look(Query(since, until, request_id=request_id), most)

    async def go_on(self, roots: Sequence[_Step]) -> list[_Step]:
        """The steps, with all that followed from them."""
        self._met |= {(one.found.kind, one.found.id) for one in roots}
        waiting = deque(roots)
        while waiting:
            step = waiting.popleft()
            if step.depth >= DEEPEST:
                self.notes[f"What followed after {DEEPEST} steps is left out."] = None
                continue
            for lead in list_consequences(step.found):
                for found in await self._follow(lead):
                    await self._join(step, lead, found, waiting)
        return list(roots)

    async def _join(self, step: _Step, lead: Lead, found: Found, waiting: deque[_Step]) -> None:
        tie = find_tie(lead, found)
        later = found.at >= step.found.at - HOUR
        if tie is None or not later or not self._meet(found):
            return
        child = _Step(found, tie, lead.value, step.depth + 1)
        step.steps.append(child)
        waiting.append(child)
        if found.request_id in self._requests or not self._may_look():
            return
        around = (found.at - HOUR, found.at + HOUR)
        for other in await self.find_request(found.request_id, *around, MOST_FOLLOWERS):
            if self._meet(other):
                sibling = _Step(other, _REQUEST, found.request_id, step.depth + 2)
                child.steps.append(sibling)
                waiting.append(sibling)

    async def go_back(self, roots: Sequence[_Step]) -> list[_Step]:
        """What the first steps came from, the nearest first."""
        own = {(one.found.kind, one.found.id) for one in roots}
        causes: list[_Step] = []
        waiting = deque((one.found, 0) for one in roots)
        while waiting:
            found, depth = waiting.popleft()
            if depth >= DEEPEST:
                continue
            for lead in list_causes(found):
                for one in await self._follow(lead):
                    tie, key = find_tie(lead, one), (one.kind, one.id)
                    if tie is not None and key not in own and one.at <= found.at + HOUR:
                        own.add(key)
                        causes.append(_Step(one, tie, lead.value, depth))
                        waiting.append((one, depth + 1))
        return causes

    async def _follow(self, lead: Lead) -> list[Found]:
        """What a lead leads to, oldest first."""
        if not self._may_look():
            return []
        self._looks += 1
        if not lead.action:
            query = Query(lead.since, lead.until, task=lead.value)
            return await self._look(query, MOST_FOLLOWERS)
        query = Query(lead.since, lead.until, action=lead.action, text=lead.value, kind=Kind.EVENT)
        return await self._look(query, MOST_FOLLOWERS, lead.needle)

    async def _look(self, query: Query, most: int, needle: str = "") -> list[Found]:
        answer = await self._searcher.search(query, most, needle=needle)
        self.notes.update(dict.fromkeys(answer.damage))
        if answer.following is not None:
            self.notes["There is more than one trace shows; search for the rest."] = None
        return list(reversed(answer.found))

    def _may_look(self) -> bool:
        if self._looks < MOST_LOOKS and self._monotonic() < self._ends:
            return True
        self.notes["There was too much to look for: the chain may go on."] = None
        return False

    def _meet(self, found: Found) -> bool:
        """Whether it is met for the first time, and there is room for it."""
        if len(self._met) >= MOST_STEPS:
            self.notes[f"Only the first {MOST_STEPS} things are shown."] = None
            return False
        before = len(self._met)
        self._met.add((found.kind, found.id))
        return len(self._met) > before
