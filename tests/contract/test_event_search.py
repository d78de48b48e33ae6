"""What every engine promises about searches of the journal: nothing is missed, nothing is twice,
the newest comes first, whatever clocks did."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fakes.stores import ENGINES, make_url, read, transact
from troth.audit.entry import StoredEvent
from troth.audit.found import present_event
from troth.audit.query import Found, Kind, Query, Spot, find_spot, fits
from troth.core.clock import VirtualClock
from troth.live.snapshot import Snapshot
from troth.operations import eventsearch
from troth.operations.eventsearch import EventSearch
from troth.store.engine import Store, open_store

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
EVER = Query(NOON - timedelta(days=9), NOON + timedelta(days=9))
COUNT = 400
TYPES = ("token.issued", "token.refused", "identity.changed", "decisions.closed")
PEOPLE = ("spiffe://a/x", "spiffe://a/y", "uid:0", "Größe'; DROP TABLE journal; --", "")


def make_rows(seed: int = 7) -> list[StoredEvent]:
    """Events a second apart, many of them late, and a clock that is set back by ten minutes."""
    draw = random.Random(seed)
    rows = []
    for position in range(1, COUNT + 1):
        back = 600 * (position > 250) + draw.choice((0, 0, 0, 1, 30))
        at = NOON + SECOND * (position - back)
        body = {
            "resource": draw.choice(("ledger", 'a "quoted\\ one', "100%_x", "größe")),
            "txn": draw.choice(("txn_1", "txn_2", "")),
            "reason": draw.choice(("It RAINS.", "Straße", "=cmd()", "")),
            "nested": {"list": ["deep", position]},
        }
        if draw.random() < 0.1:
            body = {}
        rows.append(
            StoredEvent(
                position=position,
                type=draw.choice(TYPES),
                version=1,
                subject=draw.choice(PEOPLE),
                actor=draw.choice(PEOPLE),
                at=(at - EPOCH) // timedelta(microseconds=1),
                request_id=f"req_{draw.randrange(60)}",
                body=msgspec.json.encode(body, order="sorted").decode(),
                salt=b"s" * 16,
                digest=None,
            )
        )
    return rows


ROWS = make_rows()
FOUND = [present_event(row) for row in ROWS]


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = open_store(make_url(request.param, tmp_path), clock=VirtualClock(NOON))
    transact(store, lambda tx: tx.journal.put_back(ROWS))
    yield store
    store.close()


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventsearch, "STRETCH", 61)
    monkeypatch.setattr(eventsearch, "BATCH", 23)


def make_search(store: Store) -> EventSearch:
    return EventSearch(store, Snapshot(store.clock, timedelta(seconds=15)))


def read_all(search: EventSearch, query: Query, limit: int, low: int = 0) -> list[Found]:
    """Every page of it, one behind the other."""

    async def collect() -> list[Found]:
        found: list[Found] = []
        after: Spot | None = None
        while True:
            page = await search.search(query, limit, after, low=low)
            assert len(page.found) <= limit
            found += page.found
            if page.following is None:
                return found
            assert after is None or page.following < after
            after = page.following

    return asyncio.run(collect())


def expect(query: Query, low: int = 0) -> list[Found]:
    found = [one for one in FOUND if int(one.id) > low and fits(query, one)]
    return sorted(found, key=find_spot, reverse=True)


def make_queries() -> list[Query]:
    draw = random.Random(11)

    def make() -> Query:
        since = NOON + SECOND * draw.randrange(-700, 500)
        fields: dict[str, Any] = {}
        for name, values in (
            ("identity", (*PEOPLE, "nobody")),
            ("action", (*TYPES, "token.", "token", "zzz.")),
            ("resource", ("ledger", 'a "quoted\\ one', "100%_x", "größe", "100%", "")),
            ("task", ("txn_1", "txn_3")),
            ("outcome", ("success", "failure")),
            ("request_id", ("req_7", "req_8", "req_")),
            ("text", ("rains", "STRASSE", "straße", "=CMD(", "deep", "10", "quoted\\ ", "drop")),
            ("kind", (Kind.EVENT, Kind.DECISION)),
        ):
            if draw.random() < 0.2:
                fields[name] = draw.choice(values)
        return Query(since, since + SECOND * draw.randrange(1, 1500), **fields)

    return [EVER, *(make() for _ in range(40))]


def test_pages_hold_what_fits_in_the_order_of_time(store: Store) -> None:
    search = make_search(store)
    assert read_all(search, EVER, 1000) == expect(EVER)
    assert len(expect(EVER)) == COUNT
    for number, query in enumerate(make_queries()):
        limit = (7, 40, 1000)[number % 3]
        assert read_all(search, query, limit) == expect(query), query


def test_the_journal_behind_a_position_alone(store: Store) -> None:
    search = make_search(store)
    for low in (0, 1, 249, 250, 251, COUNT - 1, COUNT, COUNT + 5):
        assert read_all(search, EVER, 50, low) == expect(EVER, low)


def test_what_comes_later_is_found_too(store: Store) -> None:
    search = make_search(store)
    read_all(search, EVER, 10)
    # An hour earlier than everything before it: times go back further than was known.
    late = ROWS[-1]._replace(position=COUNT + 1, at=ROWS[0].at - 3_600_000_000)
    transact(store, lambda tx: tx.journal.put_back([late]))
    assert [one.id for one in read_all(search, EVER, 10)][-1] == str(COUNT + 1)
    hour = replace(EVER, until=NOON - timedelta(minutes=30))
    assert [one.id for one in read_all(search, hour, 10)] == [str(COUNT + 1)]


def test_a_search_that_takes_too_long_goes_on_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventsearch, "MOST_SECONDS", -1.0)
    search = make_search(store)
    rare = replace(EVER, text="straße")
    assert read_all(search, rare, 5) == expect(rare)
    first = asyncio.run(search.search(rare, 5, None))
    assert len(first.found) < 5


def test_needles_are_looked_for_in_bodies(store: Store) -> None:
    search = make_search(store)
    page = asyncio.run(search.search(EVER, 1000, None, needle='"txn":"txn_1"'))
    assert list(page.found) == expect(replace(EVER, task="txn_1"))
    assert asyncio.run(search.search(EVER, 9, None, needle="%")).found
    assert not asyncio.run(search.search(EVER, 9, None, needle="txn_1%")).found


def test_a_journal_without_its_beginning_and_an_empty_one(store: Store, tmp_path: Path) -> None:
    empty = open_store(f"sqlite:///{tmp_path}/empty.db", clock=VirtualClock(NOON))
    assert read_all(make_search(empty), EVER, 10) == []
    assert read(empty, lambda tx: tx.event_search.find_bounds()) == (0, 0)
    assert read(empty, lambda tx: tx.event_search.measure(0, 9)) is None
    transact(empty, lambda tx: tx.journal.put_back(ROWS[300:]))
    assert read(empty, lambda tx: tx.event_search.find_bounds()) == (300, COUNT)
    assert read_all(make_search(empty), EVER, 7) == expect(EVER, 300)
    empty.close()
