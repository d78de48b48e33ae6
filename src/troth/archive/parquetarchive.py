"""The archive as this server reads it: its files, and what its decision log hasn't packed yet."""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TypeVar

from troth.archive.depot import Depot
from troth.archive.engine import Engine
from troth.archive.found import name_place, present_decision
from troth.archive.layout import (
    COMPANIONS,
    ArchiveFile,
    Table,
    begin_day,
    choose_current,
    find_day,
    list_span,
)
from troth.archive.log import DecisionLog
from troth.archive.lookup import DayScan, Span, find_entry, find_part, prove_entry
from troth.archive.pages import Pending, Search, join_parts
from troth.archive.proof import DecisionProof
from troth.archive.question import fits_named, list_words
from troth.archive.reading import AT_ONCE, Damages, Labels, OutdatedList, Reader
from troth.archive.record import DecisionRecord
from troth.archive.search import Answer, Touches
from troth.archive.sums import DamagedFile
from troth.archive.touching import Tally, TouchSearch
from troth.audit.query import Found, Kind, Query, Spot, find_spot
from troth.core.clock import Clock
from troth.core.errors import NotFound, Unavailable

T = TypeVar("T")

EVER = (date.min, date.max)
TRIES = 5
"""How often it is looked which files there are, while they are being put together."""
PAGE_SECONDS = 10.0
"""After which a page ends where it is, and says where to go on."""
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Shelf:
    """The files of some days that count, and what there is beside those of decisions."""

    decisions: list[ArchiveFile]
    events: list[ArchiveFile]
    beside: frozenset[ArchiveFile]


class ParquetArchive:
    """Implements `troth.archive.search.Archive`."""

    def __init__(
        self,
        depot: Depot,
        engine: Engine,
        clock: Clock,
        decisions: DecisionLog,
        redact: Callable[[int], bool],
    ) -> None:
        """`redact` rewrites the files that hold the event at a position."""
        self._depot = depot
        self._engine = engine
        self._clock = clock
        self._decisions = decisions
        self._redact = redact
        self._labels = Labels()
        self._lock = threading.Lock()
        self._last_event = 0

    def close(self) -> None:
        """Give back what searches hold."""
        self._engine.close()

    # Searches

    def search(
        self,
        query: Query,
        limit: int,
        after: Spot | None = None,
        *,
        names: Collection[str] = (),
        events_before: int | None = None,
    ) -> Answer:
        """Look at the segments that aren't packed, then at the files, some days at once."""
        if query.since >= query.until or not _is_text(query, names):
            return Answer((), None)
        damages = Damages()
        with self._ask(damages) as reader:
            pending = self._list_pending()
            search = Search(
                query,
                limit,
                after,
                tuple(names),
                events_before,
                pending,
                self._labels,
                self._set_alarm(),
            )
            fresh = self._search_unpacked(search, damages)
            found, following = _try_again(partial(self._search, reader, search, fresh))
        return Answer(tuple(found), following, damages.tell())

    def _search(
        self, reader: Reader, search: Search, fresh: Sequence[Found]
    ) -> tuple[list[Found], Spot | None]:
        first, last = list_span(search.query.since, search.until)
        shelf = self._look(first, last, *search.tables)
        found: list[Found] = []
        windows = split_days([*shelf.decisions, *shelf.events])
        for number, days in enumerate(windows):
            inside = partial(_select, days=days)
            decisions = search.find_decisions(reader, inside(shelf.decisions), shelf.beside)
            events = search.find_events(reader, inside(shelf.events))
            found, stop = join_parts([(found, None), decisions, events])
            edge = stop or Spot(begin_day(days[0]), Kind.DECISION, "", "")
            whole = [*found, *(one for one in fresh if find_spot(one) >= edge)]
            page, following = cut_page(whole, search.limit)
            if following or stop:
                return page, following or stop
            if search.is_late() and number + 1 < len(windows):
                return page, edge
        return cut_page([*found, *fresh], search.limit)

    def _set_alarm(self) -> Callable[[], bool]:
        """Tells once a page has taken long enough."""
        ends = self._clock.monotonic() + PAGE_SECONDS
        return lambda: self._clock.monotonic() > ends

    def _search_unpacked(self, search: Search, damages: Damages) -> list[Found]:
        """The newest decisions that fit among those that aren't packed, one more than wanted."""
        query, names = search.query, search.names
        if query.kind is Kind.EVENT:
            return []
        server = self._decisions.server
        records = self._decisions.unpacked.scan(
            sorted(search.pending.numbers),
            query.since,
            search.until,
            list_words(query, names),
            on_damage=damages.add,
        )
        told = (
            present_decision(record, name_place(server, segment, nth))
            for segment, nth, record in records
        )
        after = search.after
        fitting = (
            one
            for one in told
            if fits_named(query, names, one) and (after is None or find_spot(one) < after)
        )
        return heapq.nlargest(search.limit + 1, fitting, key=find_spot)

    def who_touched(
        self, resource: str, since: datetime, until: datetime, limit: int = 1000
    ) -> Touches:
        """Add up what is counted, and what isn't yet."""
        if since >= until or not resource or not _is_encodable(resource):
            return Touches((), complete=True)
        damages = Damages()
        with self._ask(damages) as reader:
            pending = self._list_pending()
            fresh = Tally()
            for _, _, record in self._decisions.unpacked.scan(
                sorted(pending.numbers), since, until, [[resource.encode()]], on_damage=damages.add
            ):
                if record.resource == resource:
                    fresh.add_record(record)
            search = TouchSearch(resource, since, until, pending)
            tally = _try_again(partial(self._count, reader, search))
        for touch in fresh.found.values():
            tally.add(touch)
        found = tally.list_newest()
        return Touches(tuple(found[:limit]), len(found) <= limit, damages.tell())

    def _count(self, reader: Reader, search: TouchSearch) -> Tally:
        tally = Tally()
        first, last = list_span(search.since, search.until)
        shelf = self._look(first, last, Table.DECISIONS, Table.TOUCHED, Table.MONTHS)
        search.count(reader, shelf.decisions, shelf.beside, self._labels, tally)
        return tally

    # Single decisions

    def find(
        self, decision: str, day: date | None = None
    ) -> tuple[DecisionRecord, DecisionProof | None]:
        """Ask the decision log, then the files."""
        _check_id(decision)
        try:
            return self._decisions.find(decision)
        except NotFound:
            proof = self._find_packed(decision, day)
            return proof.record, proof

    def find_proof(self, decision: str, day: date | None = None) -> DecisionProof:
        """The same."""
        _check_id(decision)
        try:
            return self._decisions.find_proof(decision)
        except NotFound:
            return self._find_packed(decision, day)

    def _find_packed(self, decision: str, day: date | None) -> DecisionProof:
        damages = Damages()
        with self._ask(damages) as reader:
            found = _try_again(partial(self._prove, reader, decision, day))
        if found is None:
            more = " ".join(damages.tell())
            raise NotFound(f"No decision {decision[:80]!r} is in the archive. {more}".strip())
        return found

    def _prove(self, reader: Reader, decision: str, day: date | None) -> DecisionProof | None:
        span = EVER if day is None else (day, day)
        shelf = self._look(*span, Table.DECISIONS, Table.IDS)
        entry = find_entry(reader, shelf.decisions, shelf.beside, decision)
        if entry is None:
            return None
        number, server = entry.segment, entry.server
        part = find_part(reader, self._labels, shelf.decisions, server, number)
        if part is None:
            raise NotFound(f"The archive doesn't know segment {number} of server {server}.")
        days = self._look(find_day(part.first), find_day(part.last), Table.DECISIONS)
        return prove_entry(reader, days.decisions, entry, part)

    def scan(
        self,
        since: datetime,
        until: datetime,
        *,
        subject: str = "",
        resource: str = "",
        on_damage: Callable[[str], None] | None = None,
    ) -> Iterator[DecisionRecord]:
        """The files day by day, and at last the segments that aren't packed, as they were written.

        What is damaged is told to `on_damage` and left out; without that, it ends the scan.
        """
        if since >= until or not (_is_encodable(subject) and _is_encodable(resource)):
            return
        tell = on_damage or _raise_damage
        pending = self._list_pending()
        first, last = list_span(since, until)
        for day in sorted(
            {file.day for file in self._look(first, last, Table.DECISIONS).decisions}
        ):
            span = max(since, begin_day(day)), min(until, _end_day(day))
            yield from self._scan_day(day, span, DayScan((), pending, subject, resource), tell)
        words = [[one.encode()] for one in (subject, resource) if one]
        for _, _, record in self._decisions.unpacked.scan(
            sorted(pending.numbers), since, until, words, on_damage=tell
        ):
            if subject in ("", record.subject) and resource in ("", record.resource):
                yield record

    def _scan_day(
        self, day: date, span: Span, scan: DayScan, tell: Callable[[str], None]
    ) -> Iterator[DecisionRecord]:
        told = Damages()

        def ask(work: Callable[[DayScan, Reader], T]) -> T:
            # A turn each: who takes the records may take long.
            damages = Damages()
            with self._ask(damages) as reader:
                files = scan.pending.drop(self._look(day, day, Table.DECISIONS).decisions)
                found = work(replace(scan, files=files), reader)
            for words in damages.tell():
                if words not in told.words:
                    told.add(words)
                    tell(words)
            return found

        for one in _try_again(partial(ask, lambda scan, reader: scan.split(reader, *span))):
            yield from _try_again(partial(ask, partial(DayScan.read, span=one)))

    # What there is

    def know_events(self, last: int) -> None:
        """The archive has all events up to this position: files alone don't say so, since those of
        one batch come one after the other."""
        with self._lock:
            self._last_event = max(self._last_event, last)

    def find_last_event(self) -> int:
        """Up to which position it has all events; 0 before the first."""
        return self._last_event

    def redact_event(self, position: int) -> bool:
        """Have the files rewritten."""
        return self._redact(position)

    # Help

    @contextmanager
    def _ask(self, damages: Damages) -> Iterator[Reader]:
        with self._engine.connect() as link:
            yield Reader(link, damages)

    def _list_pending(self) -> Pending:
        """Looked at before the files: what is packed meanwhile is read where it was."""
        return Pending(self._decisions.server, frozenset(self._decisions.unpacked.list_numbers()))

    def _look(self, first: date, last: date, *tables: Table) -> Shelf:
        """The files of some days in these tables."""

        def look(table: Table) -> list[ArchiveFile]:
            if table not in tables:
                return []
            return [file for file, _ in self._depot.list_files(table, first, last)]

        # What stands beside a file is there before it, and is looked at after it.
        decisions, _ = choose_current(look(Table.DECISIONS))
        events, _ = choose_current(look(Table.EVENTS))
        others = [file for table in (*COMPANIONS, Table.MONTHS) for file in look(table)]
        return Shelf(decisions, events, frozenset(others))


def split_days(files: Sequence[ArchiveFile]) -> list[list[date]]:
    """The days of files, newest first, in growing groups, each in order: a page is mostly found in
    the last days, and a rare thing sooner if many are looked at together."""
    counts = Counter(file.day for file in files)
    groups: list[list[date]] = []
    size = 0
    most = 1
    for day in sorted(counts, reverse=True):
        if not groups or len(groups[-1]) >= most or size + counts[day] > AT_ONCE:
            most = 1 if len(groups) < 2 else most * 2
            groups.append([])
            size = 0
        groups[-1].insert(0, day)
        size += counts[day]
    return groups


def cut_page(found: Sequence[Found], limit: int) -> tuple[list[Found], Spot | None]:
    """The newest so many, and where it goes on if there are more."""
    page = sorted(found, key=find_spot, reverse=True)
    if len(page) <= limit:
        return page, None
    return page[:limit], find_spot(page[limit - 1])


def _select(files: Sequence[ArchiveFile], days: Collection[date]) -> list[ArchiveFile]:
    return [file for file in files if file.day in days]


def _try_again(ask: Callable[[], T]) -> T:
    for _ in range(TRIES):
        try:
            return ask()
        except OutdatedList:
            continue
    raise _tell_busy()


def _tell_busy() -> Unavailable:
    return Unavailable("The archive's files are being put together: ask again in a moment.")


def _end_day(day: date) -> datetime:
    """The last moment of a day and a tick more, where the calendar has one."""
    begin = begin_day(day)
    return begin + DAY if day < date.max else datetime.max.replace(tzinfo=UTC)


def _is_text(query: Query, names: Collection[str]) -> bool:
    """Whether all that is looked for is text that can stand somewhere at all."""
    given = (
        query.identity,
        query.resource,
        query.action,
        query.request_id,
        query.task,
        query.text,
        *names,
    )
    return all(map(_is_encodable, given))


def _check_id(decision: str) -> None:
    if not decision or not _is_encodable(decision):
        raise NotFound(f"No decision {decision[:80]!r} is in the archive.")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _raise_damage(words: str) -> None:
    raise DamagedFile(words)
