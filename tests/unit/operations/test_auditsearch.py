"""``audit.search`` and ``audit.tail``: events and decisions found together, wherever they lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.fakes.archive import FakeArchive
from tests.fakes.decisions import make_record
from tests.fakes.house import ADMIN, FakeHouse, in_house
from tests.fakes.town import apply, identity, open_town
from troth.archive.search import Answer
from troth.audit.found import present_event
from troth.audit.query import Found, Kind, find_spot
from troth.core.errors import Denied, Invalid, Unavailable
from troth.core.ids import RequestId
from troth.live.snapshot import Snapshot
from troth.operations import eventsearch
from troth.operations.auditsearch import merge_answers
from troth.operations.call import Caller
from troth.operations.eventsearch import Looked
from troth.store.transaction import Transaction
from troth.wire.api import auditsearch as wire
from troth.wire.api.identities import MoveIdentity
from troth.wire.api.nodes import Heartbeat

SECOND = timedelta(seconds=1)
LAST = 253_402_300_799_999_999
"""The last microsecond of the calendar."""
TILL = "spiffe://example.org/till"
STRANGER = Caller("spiffe://example.org/till", frozenset({"workload"}), source="test")


async def search(house: FakeHouse, **fields: Any) -> wire.AuditPage:
    page: wire.AuditPage = await house.call("audit.search", wire.SearchAudit(**fields))
    return page


async def search_all(house: FakeHouse, **fields: Any) -> list[wire.Record]:
    """Every page."""
    found: list[wire.Record] = []
    after = ""
    while True:
        page = await search(house, after=after, **fields)
        found += page.items
        if page.next is None:
            return found
        after = page.next


async def decide(house: FakeHouse, number: int, **fields: Any) -> None:
    """Record a decision now."""
    at = house.clock.now()
    values: dict[str, Any] = {"subject": "till", "request_id": f"req_d{number}", **fields}
    await house.parts.decisions.append([make_record(number, at=at, **values)])


def name_all(records: list[wire.Record]) -> list[str]:
    return [f"{one.kind}:{one.action}" for one in records]


@in_house
async def test_events_and_decisions_come_together_newest_first(house: FakeHouse) -> None:
    await open_town(house)
    house.clock.advance(SECOND)
    await decide(house, 1, allowed=False, reason="not today")
    house.clock.advance(SECOND)
    await house.call("identity.suspend", MoveIdentity(name="till", reason="=cmd|' /C calc'!A0"))
    await house.settle()
    page = await search(house, identity="till")
    assert name_all(page.items)[:3] == [
        "event:identity.suspended",
        "decision:orders:read",
        "event:identity.registered",
    ]
    suspended, decided, _ = page.items
    assert (suspended.actor, suspended.subject, suspended.outcome) == ("uid:0", TILL, "success")
    assert (suspended.reason, suspended.source) == ("=cmd|' /C calc'!A0", "test")
    assert (decided.subject, decided.outcome, decided.reason) == ("till", "failure", "not today")
    assert decided.source == "10.1.2.3"
    assert page.next is None
    by_spiffe_id = await search(house, identity=TILL)
    assert by_spiffe_id.items == page.items


@in_house
async def test_names_are_known_once_the_journal_is_trimmed(house: FakeHouse) -> None:
    p = house.parts
    await apply(house, identity("kiosk", 9, path="/shop/kiosk"))
    await apply(house, identity("other", 10))
    await decide(house, 1, subject="kiosk")
    await decide(house, 2, subject="other")
    await house.call("identity.retire", MoveIdentity(name="kiosk", reason="closed"))
    await apply(house, identity("booth", 9, path="/shop/kiosk"))
    await decide(house, 3, subject="booth")
    await house.settle()

    def forget(tx: Transaction) -> int:
        end = house.clock.now() + SECOND
        return tx.journal.trim(tx.journal.head() - 1, end, 1000)[0]

    assert await p.store.transact(forget)
    for name in ("spiffe://example.org/shop/kiosk", "kiosk", "booth"):
        found = await search_all(house, identity=name, kind="decision")
        assert {one.subject for one in found} == {"kiosk", "booth"}, name


@in_house
async def test_pages_of_any_size_hold_the_same(house: FakeHouse) -> None:
    await open_town(house)
    for number in range(7):
        await decide(house, number)
        await apply(house, identity(f"one{number}", 100 + number))
        house.clock.advance(SECOND / 2)
    everything = await search_all(house, limit=1000)
    assert len(everything) > 25
    for limit in (1, 2, 7):
        assert await search_all(house, limit=limit) == everything
    assert [one.at for one in everything] == sorted((o.at for o in everything), reverse=True)


@in_house
async def test_each_filter_narrows(house: FakeHouse) -> None:
    await open_town(house)
    house.request_id = "req_other"
    await house.call("identity.quarantine", MoveIdentity(name="guard", reason="Ünusual"))
    await house.settle()
    await decide(house, 1, resource="vault", allowed=False, facts={"task.id": "txn_7"})
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({"action": "identity.quarantined"}, {"event:identity.quarantined"}),
        ({"request_id": "req_other"}, {"event:identity.quarantined"}),
        ({"text": "üNUSUAL"}, {"event:identity.quarantined"}),
        ({"resource": "vault"}, {"decision:orders:read"}),
        ({"task": "txn_7"}, {"decision:orders:read"}),
        ({"outcome": "failure"}, {"decision:orders:read"}),
        ({"kind": "decision"}, {"decision:orders:read"}),
        ({"text": "'; DROP TABLE journal; --"}, set()),
        ({"identity": "nobody"}, set()),
        ({"identity": "spiffe://example.org/not a path"}, set()),
        ({"request_id": "x' OR '1'='1"}, set()),
    ]
    for fields, expected in cases:
        assert set(name_all(await search_all(house, **fields))) == expected, fields
    nouns = {one.action.partition(".")[0] for one in await search_all(house, action="identity.")}
    assert nouns == {"identity"}


@in_house
async def test_what_the_archive_has_isnt_read_from_the_journal_again(house: FakeHouse) -> None:
    await open_town(house)
    everything = await search_all(house)
    archive = house.parts.archive
    assert isinstance(archive, FakeArchive)
    rows = await house.parts.store.read(lambda tx: tx.journal.list_stored(0, 5))
    archive.events = [present_event(row) for row in rows]
    assert await search_all(house, limit=3) == everything
    archive.damage = ("A file is damaged.",)
    assert (await search(house)).notes == ["A file is damaged."]


@in_house
async def test_periods(house: FakeHouse) -> None:
    await open_town(house)
    now = house.clock.now()
    hour = timedelta(hours=1)
    page = await search(house)
    assert page.since == now - timedelta(days=1)
    assert not (await search(house, since=now - 3 * hour, until=now - 2 * hour)).items
    assert (await search(house, since=now - hour)).items == page.items
    east = timezone(hour)
    assert (await search(house, since=(now - hour).astimezone(east))).items == page.items
    for fields, words in (
        ({"since": now, "until": now}, "is empty"),
        ({"since": now, "until": now - hour}, "is empty"),
        ({"since": now + timedelta(days=3)}, "in the future"),
        ({"since": now.replace(tzinfo=None)}, "no time zone"),
        ({"until": datetime(1, 1, 1, tzinfo=UTC)}, "calendar"),
        ({"until": datetime(9999, 12, 31, 23, tzinfo=timezone(-2 * hour))}, "calendar"),
    ):
        with pytest.raises(Invalid, match=words):
            await search(house, **fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eventsearch, "MOST_SECONDS", -1.0)
        assert await search_all(house, until=datetime.max.replace(tzinfo=UTC), since=now - hour)
    ancient = await search(house, since=datetime(1, 1, 2, tzinfo=UTC))
    assert ancient.items == page.items


@in_house
async def test_who_isnt_an_auditor_sees_nothing(house: FakeHouse) -> None:
    await open_town(house)
    for name, body in (
        ("audit.search", wire.SearchAudit()),
        ("audit.trace", wire.TraceRequest(id="req_test")),
        ("audit.who", wire.AskWho(resource="ledger")),
        ("audit.touched", wire.AskTouched(resource="ledger")),
    ):
        with pytest.raises(Denied):
            await house.call(name, body, STRANGER)


@in_house
async def test_cursors_of_others_are_refused(house: FakeHouse) -> None:
    for after in ("x", "!!", "W10", wire.render_cursor(5, "event", "1", "")[:-3], "é"):
        with pytest.raises(Invalid, match="cursor"):
            await search(house, after=after)
    with pytest.raises(Invalid, match="cursor"):
        await search(house, after=wire.render_cursor(LAST, "event", "1", ""))


@in_house
async def test_a_cursor_that_was_changed_is_refused_or_shows_a_page(house: FakeHouse) -> None:
    await open_town(house)
    await decide(house, 1)
    everything = (await search(house)).items
    for at in (0, LAST - 1):
        for kind in ("event", "decision"):
            for id_ in ("", "x", "-1", "9" * 100, "\x00", "٣", "dec_1"):
                for place in ("", "//", f"a/{'9' * 30}/1", "\x00"):
                    after = wire.render_cursor(at, kind, id_, place)
                    shown = (await search(house, after=after)).items
                    assert shown == (everything if at else [])


def make_found(second: int, kind: Kind = Kind.EVENT) -> Found:
    at = datetime(2027, 1, 1, 0, 0, second, tzinfo=UTC)
    return Found(kind, str(second), at, "a.b", "success", "", "", "", "", "", "", "")


def test_where_one_source_stopped_the_other_waits() -> None:
    new, middle, old = (make_found(second) for second in (30, 20, 10))
    decision = make_found(15, Kind.DECISION)
    cut = merge_answers(Looked((new,), find_spot(new)), Answer((decision,), None), 10)
    assert cut == Answer((new,), find_spot(new))
    both = merge_answers(Looked((new, middle, old), None), Answer((decision,), None), 3)
    assert both == Answer((new, middle, decision), find_spot(decision))
    whole = merge_answers(Looked((new, middle, old), None), Answer((decision,), None), 4)
    assert whole == Answer((new, middle, decision, old), None)
    nothing = merge_answers(Looked((), find_spot(middle)), Answer((old,), None, ("Bad.",)), 4)
    assert nothing == Answer((), find_spot(middle), ("Bad.",))


# The tail


class Tail:
    """What a tail says, value by value."""

    def __init__(self, house: FakeHouse, **fields: Any) -> None:
        body = wire.TailAudit(**fields)
        self.values: AsyncIterator[Any] = house.dispatcher.open(
            "audit.tail", ADMIN, RequestId("req_tail"), body
        )

    async def next(self) -> Any:
        async with asyncio.timeout(20):
            return await anext(self.values)

    async def next_record(self) -> wire.Record:
        while isinstance(value := await self.next(), Heartbeat):
            pass
        assert isinstance(value, wire.Record)
        return value


@in_house
async def test_a_tail_has_what_comes_and_only_what_fits(house: FakeHouse) -> None:
    await open_town(house)
    tail = Tail(house, identity="till")
    async with aclosing(tail.values):  # type: ignore[type-var]
        first = await tail.next()
        assert first == Heartbeat(epoch=(await house.parts.store.read(lambda t: t.journal.head())))
        await decide(house, 1)
        await decide(house, 2, subject="someone")
        assert (await tail.next_record()).id == make_record(1).id
        await house.call("identity.suspend", MoveIdentity(name="guard", reason="other"))
        await house.call("identity.suspend", MoveIdentity(name="till", reason="test"))
        await house.settle()
        record = await tail.next_record()
        assert (record.action, record.subject) == ("identity.suspended", TILL)
        await decide(house, 3)
        assert (await tail.next_record()).id == make_record(3).id


@in_house
async def test_a_tail_goes_on_where_another_ended(house: FakeHouse) -> None:
    await open_town(house)
    events = [one for one in await search_all(house) if one.kind == "event"]
    tail = Tail(house, position=2, kind="event")
    async with aclosing(tail.values):  # type: ignore[type-var]
        for expected in reversed(events[:-2]):
            assert await tail.next_record() == expected
        assert isinstance(await tail.next(), Heartbeat)


@in_house
async def test_a_tail_doesnt_wait_behind_the_journal_s_end(house: FakeHouse) -> None:
    await open_town(house)
    head = await house.parts.store.read(lambda tx: tx.journal.head())
    tail = Tail(house, position=head)
    async with aclosing(tail.values):  # type: ignore[type-var]
        assert await tail.next() == Heartbeat(epoch=head)
    tail = Tail(house, position=head + 1)
    async with aclosing(tail.values):  # type: ignore[type-var]
        with pytest.raises(Unavailable, match=f"ends at position {head}.*--position {head}"):
            await tail.next()


@in_house
async def test_a_tail_is_for_auditors(house: FakeHouse) -> None:
    body = wire.TailAudit()
    tail = house.dispatcher.open("audit.tail", STRANGER, RequestId("req_tail"), body)
    with pytest.raises(Denied):
        await anext(tail)


@in_house
async def test_a_tail_ends_when_the_journal_is_another_one(house: FakeHouse) -> None:
    tail = Tail(house)
    async with aclosing(tail.values):  # type: ignore[type-var]
        await tail.next()
        snapshot: Snapshot = house.parts.snapshot
        snapshot.loads += 1
        await snapshot.announce()
        with pytest.raises(Unavailable, match="set back"):
            await tail.next_record()
