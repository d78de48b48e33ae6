"""Packing as background work: closed segments and sealed events go into the archive by themselves.

A segment is packed once its root is in the journal, and renamed once the archive has it: what
comes after that reads it there. How far events are packed stands in a cursor, moved once the
archive has them. A crash in between does the same again, with the same result.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from typing import Protocol

import structlog

from troth.archive.depot import Depot
from troth.archive.jobsheet import (
    AnyStep,
    CompactDay,
    Done,
    PackEvents,
    PackSegment,
    RedactEvents,
    RollMonth,
)
from troth.archive.layout import JOURNAL, ArchiveFile, Table, begin_day, find_day, find_month
from troth.archive.log import DecisionLog
from troth.audit.entry import StoredEvent
from troth.audit.redaction import REDACTED
from troth.core.clock import Clock
from troth.core.errors import Refused, TrothError
from troth.operations.decisionlog import find_last_journaled
from troth.store.engine import Store
from troth.store.transaction import Transaction

log = structlog.get_logger(__name__)

EVENTS = 5_000
"""Events that are packed at once."""
EVENTS_WAIT = timedelta(hours=1)
"""Fewer are packed as well once the oldest is as old."""
BATCHES = 20
"""Batches of events a run."""
AFTER_DAY = timedelta(hours=2)
"""How long after its end a day's pieces are put together: by then its last segment is packed."""
AFTER_MONTH = timedelta(days=1)
"""How long after its end it is counted who touched what in a month."""
BETWEEN = timedelta(days=1)
"""How often a day is written anew for late pieces, unless there are `MANY`."""
MANY = 48
LEASE = timedelta(minutes=10)
PAGE = 1_000


class Hands(Protocol):
    """Does steps, one after the other."""

    def do(self, steps: Sequence[AnyStep]) -> AsyncGenerator[Done, None]:
        """The answer to each step as it comes; what is under way ends with it."""
        ...


class Informed(Protocol):
    """Whoever must know how far events are packed."""

    def know_events(self, last: int) -> None:
        """The archive has all events up to this position."""
        ...


@dataclass(frozen=True, slots=True)
class PackArchive:
    """Background: pack what is closed and sealed, and put the pieces of past days together.

    `scope` names the archive among those of all servers on the database: "" for one that they
    share, else the server's id. Idempotent.
    """

    store: Store
    clock: Clock
    decisions: DecisionLog
    depot: Depot
    hands: Hands
    archive: Informed
    scope: str
    _damaged: set[int] = field(default_factory=set)
    _failed: set[int] = field(default_factory=set)
    _compacted: dict[tuple[Table, date], datetime] = field(default_factory=dict)
    _rolled: dict[date, frozenset[ArchiveFile]] = field(default_factory=dict)

    async def __call__(self) -> None:
        """All three; each goes on where the last run stopped. What fails holds up nothing else, and
        is raised at the end."""
        errors = await self._pack_segments()
        tables = [Table.DECISIONS]
        if await self.store.transact(self._take_lease):
            try:
                await self._pack_events()
            except TrothError as error:
                errors.append(error)
            tables.append(Table.EVENTS)
        last = await self.store.read(lambda tx: tx.cursors.get(name_cursor(self.scope)))
        self.archive.know_events(last)
        await self._compact(tables)
        await self._roll_months()
        if errors:
            raise errors[0]

    # Segments

    async def _pack_segments(self) -> list[TrothError]:
        """What went wrong with single ones, which the next run tries again."""
        journaled = await find_last_journaled(self.store, self.decisions.server)
        closed = await asyncio.to_thread(self.decisions.list_closed)
        numbers = [
            one.number
            for one in closed
            if one.number <= journaled and one.number not in self._damaged
        ]
        self._failed.clear()
        steps = [PackSegment(str(self.decisions.find_path(number))) for number in numbers]
        if not steps:
            return []
        async with aclosing(self.hands.do(steps)) as answers:
            found = [await self._mark(numbers[done.step], done) async for done in answers]
        return [error for error in found if error is not None]

    async def _mark(self, number: int, done: Done) -> TrothError | None:
        try:
            done.check()
        except TrothError as error:
            log.error("archive.not_packed", segment=number, detail=error.detail)
            if not isinstance(error, Refused):
                self._failed.add(number)
                return error
            # Neither here nor in the archive is anything lost: but people must look at it.
            self._damaged.add(number)
        else:
            await asyncio.to_thread(self.decisions.mark_packed, number)
        return None

    # Events

    def _take_lease(self, tx: Transaction) -> bool:
        if self.scope:
            return True
        return tx.leases.take("archive.events", self.store.holder, self.clock.now(), LEASE)

    async def _pack_events(self) -> None:
        for _ in range(BATCHES):
            events = await self.store.read(self._read_events)
            if not events or not self._is_due(events):
                return
            await do_all(self.hands, [PackEvents(events)])
            await self._follow_redactions(events)
            last = events[-1].position
            await self.store.transact(partial(self._save, last=last))

    async def _follow_redactions(self, packed: Sequence[StoredEvent]) -> None:
        """Take out what was redacted after it was read: whoever follows redactions may have looked
        for it before it was there."""
        after, count = packed[0].position - 1, len(packed)
        now = await self.store.read(lambda tx: tx.journal.list_stored(after, count))
        gone = {event.position for event in now if event.salt is None}
        late = [one.position for one in packed if one.salt and one.position in gone]
        if late:
            await do_all(self.hands, [RedactEvents(late)])

    def _read_events(self, tx: Transaction) -> list[StoredEvent]:
        return tx.journal.list_stored(tx.cursors.get(name_cursor(self.scope)), EVENTS)

    def _is_due(self, events: Sequence[StoredEvent]) -> bool:
        oldest = (self.clock.now() - EVENTS_WAIT).timestamp() * 1_000_000
        return len(events) >= EVENTS or events[0].at <= oldest

    def _save(self, tx: Transaction, last: int) -> None:
        cursor = name_cursor(self.scope)
        if tx.cursors.get(cursor) < last:
            tx.cursors.save(cursor, last)

    # Days

    async def _compact(self, tables: Iterable[Table]) -> None:
        steps = await asyncio.to_thread(self._list_days, tables)
        if not steps:
            return
        await do_all(self.hands, steps)
        for step in steps:
            self._compacted[step.table, step.day] = self.clock.now()
        if any(step.table is Table.EVENTS for step in steps):
            await self._redact_again()

    async def _redact_again(self) -> None:
        """Where servers share the archive, one may have redacted what another put together from
        what was there before: so it is looked again, at all that ever was redacted."""
        if self.scope or not self.store.shared:
            return
        positions = await self.store.read(_list_redacted)
        if positions:
            await do_all(self.hands, [RedactEvents(positions)])

    async def _roll_months(self) -> None:
        found = await asyncio.to_thread(self._list_months)
        server = self.decisions.server
        await do_all(self.hands, [RollMonth(server, month) for month in found])
        self._rolled.update(found)

    def _list_months(self) -> dict[date, frozenset[ArchiveFile]]:
        """Past months, with the files of their days, of which it isn't known that they are
        counted."""
        last = find_month(find_day(self.clock.now() - AFTER_MONTH)) - timedelta(days=1)
        months: dict[date, set[ArchiveFile]] = defaultdict(set)
        for file, _ in self.depot.list_files(Table.DECISIONS, date.min, last):
            if file.writer == self.decisions.server:
                months[find_month(file.day)].add(file)
        return {
            month: frozenset(files)
            for month, files in months.items()
            if self._rolled.get(month) != frozenset(files)
        }

    def _list_days(self, tables: Iterable[Table]) -> list[CompactDay]:
        now = self.clock.now()
        last = find_day(now - AFTER_DAY) - timedelta(days=1)
        waiting = self.decisions.unpacked.list_numbers()
        soon = set(waiting) - self._damaged - self._failed
        if self._begins_before(soon, begin_day(last + timedelta(days=1))):
            last = date.min  # a segment of that day is still to come
        writers = {Table.DECISIONS: self.decisions.server, Table.EVENTS: JOURNAL}
        apart = {Table.DECISIONS: sorted(waiting)}
        return [
            CompactDay(table, writers[table], day, apart.get(table, []))
            for table in tables
            for day in self._list_split(table, writers[table], last)
        ]

    def _begins_before(self, numbers: Iterable[int], moment: datetime) -> bool:
        """Whether one of these segments has records of before that moment."""
        wanted = set(numbers)
        return any(
            one.footer.first < moment
            for one in self.decisions.list_closed()
            if one.number in wanted
        )

    def _list_split(self, table: Table, writer: str, last: date) -> list[date]:
        """The days up to `last` of which there are several pieces, or what they were replaced
        by."""
        days: dict[date, list[ArchiveFile]] = defaultdict(list)
        for file, _ in self.depot.list_files(table, date.min, last):
            if file.writer == writer:
                days[file.day].append(file)
        now = self.clock.now()
        found = []
        for day, files in sorted(days.items()):
            done = self._compacted.get((table, day))
            rested = done is None or now - done >= BETWEEN or len(files) >= MANY
            if len(files) > 1 and rested:
                found.append(day)
        return found


def _list_redacted(tx: Transaction) -> list[int]:
    found: list[int] = []
    after = 0
    while page := tx.journal.page(type_prefix=REDACTED, after=after, limit=PAGE):
        found += [int(one.event.body["position"]) for one in page]
        after = page[-1].position
    return found


async def do_all(hands: Hands, steps: Sequence[AnyStep]) -> list[Done]:
    """The answers to all steps; the first error ends it."""
    if not steps:
        return []
    async with aclosing(hands.do(steps)) as answers:
        return [done.check() async for done in answers]


def name_cursor(scope: str) -> str:
    """The cursor that says how far events are packed."""
    return f"archive.events/{scope}" if scope else "archive.events"


def find_last_number(depot: Depot, server: str) -> int:
    """The number of the last segment that the archive has of a server; 0 if it has none."""
    held = depot.list_files(Table.DECISIONS, date.min, date.max)
    return max((file.last for file, _ in held if file.writer == server), default=0)
