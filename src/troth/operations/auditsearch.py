"""``audit.search``: what happened and what was decided, wherever it lies by now.

New events are in the journal, older ones and decisions in the archive: both are asked, and what
they find is put together by time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from troth.archive.search import Answer, Archive
from troth.audit.query import Found, Kind, Query, Spot, find_spot
from troth.core.clock import Clock
from troth.core.errors import Invalid
from troth.core.ids import SpiffeId
from troth.operations.call import Call
from troth.operations.eventsearch import EventSearch, Looked
from troth.operations.moments import check_zones
from troth.store.transaction import Transaction
from troth.wire.api import auditsearch as wire

MOST_NAMES = 200
"""Retired identities at one SPIFFE ID whose names are looked for."""
DAY = timedelta(days=1)
AHEAD = timedelta(days=1)
"""Clocks may have been set back: what seems to lie in the future is found too."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)
_LAST = datetime.max.replace(tzinfo=UTC) - DAY
"""What lies behind the end of a period is computed as well."""


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a search is about: a principal, and the names that it has or had."""

    principal: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Searcher:
    """Searches the journal and the archive as if they were one."""

    events: EventSearch
    archive: Archive

    async def search(
        self,
        query: Query,
        limit: int,
        after: Spot | None = None,
        *,
        names: Iterable[str] = (),
        needle: str = "",
    ) -> Answer:
        """At most `limit` things that fit, newest first, behind `after` if given.

        `names` as for `Archive.search`. Who looks for events with a `needle` in their bodies has
        it in `query.text` too. `Limited` or `TooLarge` if the archive has too much to do for it.
        """
        low = self.archive.find_last_event()
        looked, answer = await asyncio.gather(
            self.events.search(query, limit, after, low=low, needle=needle),
            asyncio.to_thread(
                self.archive.search,
                query,
                limit,
                after,
                names=tuple(names),
                events_before=low + 1 if low else 0,
            ),
        )
        return merge_answers(looked, answer, limit)

    async def find_person(self, text: str) -> Person:
        """Whom a text means: a principal as it is, or the name of an identity."""
        if not text:
            return Person("")

        def read(tx: Transaction) -> Person:
            if text.startswith("spiffe://"):
                return Person(text, _list_names(tx, text))
            named = None if ":" in text else tx.identities.find_named(text)
            if named is None:
                return Person(text, () if ":" in text else (text,))
            spiffe_id = str(named.spiffe_id)
            return Person(spiffe_id, tuple({text, *_list_names(tx, spiffe_id)}))

        return await self.events.store.read(read)


def _list_names(tx: Transaction, text: str) -> tuple[str, ...]:
    """The names of who has or had a SPIFFE ID: decisions tell of identities by name."""
    try:
        spiffe_id = SpiffeId.parse(text)
    except Invalid:
        return ()
    names = {spiffe_id.path.removeprefix("/")}  # unless a manifest says otherwise
    names |= set(tx.identities.list_names_at(spiffe_id, MOST_NAMES))
    return tuple(sorted(names - {""}))


def merge_answers(looked: Looked, answer: Answer, limit: int) -> Answer:
    """What both found, newest first. Where one of them stopped, nothing older is certain."""
    edges = [one for one in (looked.following, answer.following) if one is not None]
    edge = max(edges, default=None)
    both = heapq.merge(looked.found, answer.found, key=find_spot, reverse=True)
    found = [one for one in both if edge is None or find_spot(one) >= edge]
    shown = tuple(found[:limit])
    if len(found) > limit:
        return Answer(shown, find_spot(shown[-1]), answer.damage)
    return Answer(shown, edge, answer.damage)


@dataclass(frozen=True, slots=True)
class SearchAudit:
    """``audit.search``: one page of it."""

    searcher: Searcher
    clock: Clock

    async def __call__(self, call: Call[wire.SearchAudit]) -> wire.AuditPage:
        """The page; `Invalid` for a period that is empty."""
        body = call.body
        since, until = find_period(body.since, body.until, self.clock.now())
        person = await self.searcher.find_person(body.identity)
        query = make_query(body, person, since, until)
        after = parse_spot(body.after) if body.after else None
        found = await self.searcher.search(query, body.limit, after, names=person.names)
        return wire.AuditPage(
            items=[view_found(one) for one in found.found],
            next=None if found.following is None else render_spot(found.following),
            since=since,
            until=until,
            notes=list(found.damage),
        )


def find_period(
    since: datetime | None, until: datetime | None, now: datetime
) -> tuple[datetime, datetime]:
    """From when to when: the last day where nothing is said."""
    check_zones(since=since, until=until)
    if since is not None and until is not None and since >= until:
        raise Invalid(
            f"The period is empty: since {since.isoformat()} isn't before until "
            f"{until.isoformat()}. Exchange them, or leave one out."
        )
    try:
        ends = now + AHEAD if until is None else until
        begins = (now if until is None else until) - DAY if since is None else since
        # In UTC: what lies beyond every calendar there is beyond this one too.
        begins, ends = begins.astimezone(UTC), min(ends.astimezone(UTC), _LAST)
    except OverflowError:
        raise Invalid("The period lies beyond every calendar; give a later `since`.") from None
    if begins >= ends:
        raise Invalid(f"The period is empty: since {begins.isoformat()} lies in the future.")
    return max(begins, _EPOCH), max(ends, _EPOCH + _TICK)


def make_query(body: wire.Filters, person: Person, since: datetime, until: datetime) -> Query:
    """What the API asks for, as the searches understand it."""
    return Query(
        since=since,
        until=until,
        identity=person.principal,
        resource=body.resource,
        action=body.action,
        outcome=body.outcome,
        request_id=body.request_id,
        task=body.task,
        text=body.text,
        kind=Kind(body.kind) if body.kind else None,
    )


def view_found(found: Found) -> wire.Record:
    """A thing found, as the API shows it."""
    return wire.Record(
        kind=found.kind.value,
        id=found.id,
        at=found.at,
        action=found.action,
        outcome=found.outcome,
        actor=found.actor,
        subject=found.subject,
        resource=found.resource,
        request_id=found.request_id,
        source=found.source,
        reason=found.reason,
        task=found.task,
        detail=dict(found.detail),
        redacted=found.redacted,
    )


def render_spot(spot: Spot) -> str:
    """A spot as a cursor of the API."""
    return wire.render_cursor((spot.at - _EPOCH) // _TICK, spot.kind.value, spot.id, spot.place)


def parse_spot(text: str) -> Spot:
    """The spot in a cursor; `Invalid` if it is none of ours."""
    at, kind, id_, place = wire.parse_cursor(text)
    return Spot(_EPOCH + at * _TICK, Kind(kind), id_, place)
