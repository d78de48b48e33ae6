"""Old rows leave the database once everybody else has them, and nothing is missing afterwards."""

from __future__ import annotations

from datetime import timedelta

from tests.fakes.house import FakeHouse, in_house
from tests.unit.operations.test_log import Works, note
from troth.operations.log import CompareRows
from troth.operations.trimming import TrimJournal

KEPT = timedelta(days=90)


async def positions(house: FakeHouse) -> list[int]:
    events = await house.parts.store.read(lambda tx: tx.journal.list_stored(0, 10_000))
    return [event.position for event in events if event.type == "test.noted"]


def make_trim(house: FakeHouse, archived: int, needed: int | None = None) -> TrimJournal:
    p = house.parts
    return TrimJournal(p.store, p.clock, p.log, lambda tx: archived, KEPT, lambda tx: needed)


@in_house
async def test_rows_go_that_are_old_and_lie_elsewhere(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    await note(house, 2500)
    await works.run()
    await make_trim(house, 10**9)()
    assert len(await positions(house)) == 2500, "none is old enough"
    house.clock.advance(KEPT + timedelta(seconds=1))
    await note(house, 300, "young")
    await works.run()
    old = await positions(house)
    await make_trim(house, old[9])()
    assert await positions(house) == old[10:], "what the archive lacks stays"
    await make_trim(house, 10**9, needed=old[19])()
    assert await positions(house) == old[20:], "what a sink needs stays"
    await make_trim(house, 10**9)()
    assert await positions(house) == old[2500:]
    await make_trim(house, 10**9)()
    assert await positions(house) == old[2500:]

    kinds = {one.event.type for one in await p.store.read(lambda tx: tx.journal.after(0, 1000))}
    assert {"authority.activated", "journal.trimmed"} <= kinds
    (first, *_) = await house.events("journal.trimmed")
    assert first.body["last"] == old[9]
    assert first.body["rows"] >= 10


@in_house
async def test_the_log_goes_on_and_holds_what_left(house: FakeHouse) -> None:
    works, p = Works(house), house.parts
    await note(house, 300)
    await works.run()
    house.clock.advance(KEPT + timedelta(seconds=1))
    before = list(p.log.list_events(0, p.log.size))
    await note(house, 1)
    await make_trim(house, 10**9)()
    await works.run()
    await CompareRows(p.store, p.clock, p.log)()
    assert list(p.log.list_events(0, len(before))) == before
    assert works.meter.forks == 0
    assert await house.events("journal.altered") == []
    assert p.log.size == await p.store.read(lambda tx: tx.journal.head())


@in_house
async def test_rows_that_arent_in_the_log_yet_stay(house: FakeHouse) -> None:
    """And neither those of its last bundle, from which a damaged edge is written anew."""
    works = Works(house)
    await note(house, 2)
    await works.run()
    await note(house, 509 - house.parts.log.size)
    await works.run()
    size = house.parts.log.size
    assert size == 509
    await note(house, 5, "later")
    house.clock.advance(KEPT + timedelta(seconds=1))
    await works.feed()
    await make_trim(house, 10**9)()
    assert await positions(house) == list(range(257, 515))
