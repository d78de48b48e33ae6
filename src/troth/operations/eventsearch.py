"""Looking for events in the journal, newest first.

Times don't follow positions exactly: what was begun first may be recorded last, and clocks are set
back. How far one event is ever behind another that stands before it is measured once, and bounds
every search: so no event is missed, and none of another time is read without need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from troth.audit.entry import StoredEvent
from troth.audit.found import present_event
from troth.audit.query import Found, Kind, Query, Spot, find_spot, fits
from troth.live.snapshot import Snapshot
from troth.store.engine import Store
from troth.store.event_search import Stretch
from troth.store.transaction import Transaction

MOST_SECONDS = 10.0
"""How long one page is looked for; what was found until then is told, and where to go on."""
STRETCH = 50_000
"""Positions that one read of the database goes through."""
BATCH = 500
"""Events that are read at once."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found, newest first, and the spot to go on behind; None if there is no more."""

    found: tuple[Found, ...]
    following: Spot | None


@dataclass(slots=True)
class Order:
    """What is known of the times between two positions: how far they go back."""

    loads: int = -1
    low: int = 0
    high: int = 0
    latest: int = 0
    setback: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def begin(self, loads: int, low: int) -> None:
        """Know nothing but that."""
        self.loads, self.low, self.high, self.latest, self.setback = loads, low, low, 0, 0

    def add(self, stretch: Stretch | None, high: int) -> None:
        """Take in what comes next, up to `high`."""
        self.high = high
        if stretch is not None:
            self.setback = max(self.setback, stretch.setback, self.latest - stretch.earliest)
            self.latest = max(self.latest, stretch.latest)


@dataclass(frozen=True, slots=True)
class EventSearch:
    """Searches the journal's sealed events."""

    store: Store
    snapshot: Snapshot
    order: Order = field(default_factory=Order)

    async def search(
        self, query: Query, limit: int, after: Spot | None, *, low: int = 0, needle: str = ""
    ) -> Looked:
        """At most `limit` events behind the position `low` that fit, newest first, behind `after`
        if given. With a `needle` only those whose body has it as it is written in JSON."""
        if query.kind is Kind.DECISION:
            return Looked((), None)
        setback, low, high = await self._measure(low)
        until = query.until if after is None else min(query.until, after.at + _TICK)
        since = query.since
        if since >= until or low >= high:
            return Looked((), None)
        low, high = await self.store.read(
            lambda tx: (
                _find_first(tx, low, high, _count(since) - setback),
                _find_first(tx, low, high, _count(until) + setback),
            )
        )
        page = _Page(query, limit, after, setback * _TICK)
        ends = self.store.clock.monotonic() + MOST_SECONDS
        while low < high and not page.is_done:
            step = partial(_step, page=page, low=low, high=high, needle=needle)
            fitting, high, latest = await self.store.read(step)
            page.add(fitting, latest)
            if self.store.clock.monotonic() > ends and page.can_cut:
                return page.cut()
        return page.close()

    async def _measure(self, low: int) -> tuple[int, int, int]:
        """How far times go back behind `low`, and the range of positions that there is."""
        order, loads = self.order, self.snapshot.loads
        async with order.turn:
            first, last = await self.store.read(lambda tx: tx.event_search.find_bounds())
            low = max(low, first)
            if order.loads != loads or low < order.low or last < order.high:
                order.begin(loads, low)
            while order.high < last:
                start, end = order.high, min(order.high + STRETCH, last)
                look = partial(_measure, low=start, high=end)
                order.add(await self.store.read(look), end)
            return order.setback, low, last


class _Page:
    """What one search has found so far. `edge`: nothing that wasn't read is later."""

    def __init__(self, query: Query, limit: int, after: Spot | None, setback: timedelta) -> None:
        self.query = query
        self.limit = limit
        self.after = after
        self.edge = query.until
        self._setback = setback
        self._found: list[tuple[Spot, Found]] = []

    @property
    def is_done(self) -> bool:
        """Whether a whole page is found, and one thing that stands behind it."""
        return len(self._found) > self.limit and self.edge < self._found[self.limit][0].at

    @property
    def can_cut(self) -> bool:
        """Whether the next page could begin further on than this one did."""
        return self.edge + _TICK < self.query.until and (
            self.after is None or _mark(self.edge) < self.after
        )

    def add(self, fitting: list[tuple[Spot, Found]], latest: int | None) -> None:
        """Take in what a step found. What is left begins before an event of that time."""
        self._found += fitting
        self._found.sort(key=lambda one: one[0], reverse=True)
        del self._found[self.limit + 1 :]
        if latest is not None:
            self.edge = _EPOCH + latest * _TICK + self._setback

    def close(self) -> Looked:
        """The page, all having been read that may belong on it."""
        return self._tell(self._found)

    def cut(self) -> Looked:
        """The page as far as it is certain."""
        certain = [one for one in self._found if one[0].at > self.edge]
        if len(certain) > self.limit:
            return self._tell(certain)
        return Looked(tuple(found for _, found in certain), _mark(self.edge))

    def _tell(self, found: list[tuple[Spot, Found]]) -> Looked:
        shown = found[: self.limit]
        more = len(found) > len(shown) and bool(shown)
        return Looked(tuple(one for _, one in shown), shown[-1][0] if more else None)


def _mark(edge: datetime) -> Spot:
    """The spot behind which everything stands that is no later than that."""
    return Spot(edge + _TICK, Kind.DECISION, "", "")


def _measure(tx: Transaction, low: int, high: int) -> Stretch | None:
    return tx.event_search.measure(low, high)


def _step(
    tx: Transaction, page: _Page, low: int, high: int, needle: str
) -> tuple[list[tuple[Spot, Found]], int, int | None]:
    """Read the next events of a range, from its high end: those that fit, the position up to which
    others are left, and when the event at that one was."""
    start = max(low, high - STRETCH)
    size = BATCH if page.query.text else max(BATCH, page.limit)
    rows = tx.event_search.page(page.query, start, high, size, needle=needle)
    left = rows[-1].position - 1 if len(rows) == size else start
    return list(_pick(page, rows)), left, tx.event_search.find_time(left)


def _pick(page: _Page, rows: list[StoredEvent]) -> Iterator[tuple[Spot, Found]]:
    folded = page.query.text.casefold()
    # Quotes and the like are written in another way in JSON than they are.
    plain = folded.isprintable() and '"' not in folded and "\\" not in folded
    for row in rows:
        if folded and plain and not _mentions(row, folded):
            continue
        found = present_event(row)
        spot = find_spot(found)
        if (page.after is None or spot < page.after) and fits(page.query, found):
            yield spot, found


def _mentions(row: StoredEvent, folded: str) -> bool:
    """Whether the text may stand in the event: without reading its body as JSON."""
    plain = (row.body, row.subject, row.actor, row.type, row.request_id, str(row.position))
    return any(folded in one.casefold() for one in plain)


def _find_first(tx: Transaction, low: int, high: int, at: int) -> int:
    """A position from `low` to `high` before which nothing is as late as `at`, or one less where
    times go back: the event behind it is."""
    while low < high:
        middle = (low + high + 1) // 2
        found = tx.event_search.find_time(middle)
        if found is None or found < at:
            low = middle
        else:
            high = middle - 1
    return low


def _count(moment: datetime) -> int:
    return (moment - _EPOCH) // _TICK
