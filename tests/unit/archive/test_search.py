"""Searches: whatever is asked, and wherever the things lie, the answer is that of a plain loop."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.archivehouse import ArchiveHouse, make_event
from tests.fakes.decisions import NOON, make_record
from troth.archive import touching
from troth.archive.found import present_decision
from troth.archive.layout import Table
from troth.archive.question import fits_named
from troth.archive.record import DecisionRecord
from troth.audit.entry import StoredEvent
from troth.audit.found import present_event
from troth.audit.query import Found, Kind, Query, Spot, find_spot
from troth.core.errors import TooLarge

HOUR = timedelta(hours=1)
SUBJECTS = ["orders", "payments", "o'; DROP TABLE x --", "=1+1", "Ünï", "spiffe://example.org/a"]
CALLERS = ["spiffe://example.org/gateway", "spiffe://example.org/a", "uid:1000"]
RESOURCES = ["orders", "", "bank\x00s", '"quoted"\\', "STRASSE", "straße"]
ACTIONS = ["read", "write", "orders.list", ""]
REASONS = ["", "The Kelvin sign: \u212a", "out of hours", "100%_sure"]
TASKS = ["txn_1", "txn_2"]
EVENTS = ["token.issued", "token.refused", "identity.changed", "tokens.odd"]
TEXTS = [
    "GATEWAY",
    "k",
    "ss",
    "straße",
    '"quo',
    "\\",
    "point",
    "10.1",
    "%",
    "drop",
    "ı",
    "\x00",
    "_1",
]


def draw_record(chance: random.Random, number: int) -> DecisionRecord:
    """A decision like many others."""
    facts: dict[str, Any] = {"trust.score": chance.randrange(3)}
    if chance.random() < 0.5:
        facts["request.ip"] = f"10.1.0.{chance.randrange(3)}"
    if chance.random() < 0.3:
        facts["task.id"] = chance.choice(TASKS)
    if chance.random() < 0.1:
        facts["odd"] = [1.5, None, {"k\u212a": "Ünï"}]
    policies = ((), ("role:a",), ("forbid:\u212a", "b"))
    return make_record(
        number,
        at=NOON + chance.randrange(60) * HOUR,
        request_id=f"req_{chance.randrange(9)}",
        caller=chance.choice(CALLERS),
        subject_type=chance.choice(["identity", "user"]),
        subject=chance.choice(SUBJECTS),
        action=chance.choice(ACTIONS),
        resource=chance.choice(RESOURCES),
        resource_id=f"o-{chance.randrange(3)}",
        allowed=chance.random() < 0.5,
        policies=chance.choice(policies),
        reason=chance.choice(REASONS),
        facts=facts,
    )


def draw_event(chance: random.Random, position: int) -> StoredEvent:
    """An event like many others."""
    bodies = [
        "{}",
        '{"resource":"orders","txn":"txn_1"}',
        '{"resource":7,"task":"txn_2","grant":"txn_1"}',
        '{"reason":"The Kelvin sign: \u212a","source":"10.1.0.1:4","deep":{"A":["b\\\\"]}}',
    ]
    gone: dict[str, Any] = {}
    if chance.random() < 0.1:
        gone = {"salt": None, "digest": b"d" * 32, "body": "{}", "subject": "", "actor": ""}
    return make_event(
        position,
        NOON + chance.randrange(60) * HOUR,
        **{
            "type": chance.choice(EVENTS),
            "subject": chance.choice(SUBJECTS),
            "actor": chance.choice(CALLERS),
            "request_id": f"req_{chance.randrange(9)}",
            "body": chance.choice(bodies),
        }
        | gone,
    )


def draw_query(chance: random.Random) -> tuple[Query, tuple[str, ...]]:
    """A question; most of them have an answer."""
    begin = NOON + chance.randrange(-5, 60) * HOUR

    def maybe(values: list[str]) -> str:
        return chance.choice(values) if chance.random() < 0.25 else ""

    query = Query(
        since=begin,
        until=begin + chance.randrange(1, 80) * HOUR,
        identity=maybe(SUBJECTS + CALLERS),
        resource=maybe(RESOURCES),
        action=maybe([*ACTIONS, *EVENTS, "token.", "tok"]),
        outcome=maybe(["success", "failure", "other"]),
        request_id=maybe([f"req_{number}" for number in range(10)]),
        task=maybe([*TASKS, "txn_3"]),
        text=maybe(TEXTS),
        kind=chance.choice([None, None, Kind.EVENT, Kind.DECISION]),
    )
    return query, ("orders", "payments") if chance.random() < 0.3 else ()


class Past:
    """A house with things in all the places where they can be, and a plain list of them."""

    def __init__(self, folder: Path) -> None:
        self.house = ArchiveHouse(folder)
        self.things: list[Found] = []

    async def fill(self, chance: random.Random) -> None:
        """Days that are compacted, pieces of days, closed segments and an open one; events."""
        for part in range(5):
            records = [draw_record(chance, part * 60 + number) for number in range(60)]
            number = await self.house.close_with(records) if part < 4 else 0
            if part == 4:
                await self.house.log.append(records)
            if part < 3:
                self.house.pack(number)
            if part == 1:
                self.house.compact()
            place = f"{self.house.log.server}/{number or 5:010d}"
            self.things += [
                present_decision(record, f"{place}/{index:08d}")
                for index, record in enumerate(records)
            ]
        events = [draw_event(chance, position) for position in range(1, 121)]
        self.house.pack_events(events[:50])
        self.house.pack_events(events[50:80])
        self.house.compact(Table.EVENTS)
        self.house.pack_events(events[80:])
        self.things += map(present_event, events)

    def list_fitting(self, query: Query, names: tuple[str, ...], before: int | None) -> list[Found]:
        """What a plain loop finds."""
        found = [
            one
            for one in self.things
            if fits_named(query, names, one)
            and (one.kind is Kind.DECISION or before is None or int(one.id) < before)
        ]
        return sorted(found, key=find_spot, reverse=True)


@pytest.mark.parametrize("seed", range(2))
def test_every_answer_is_that_of_a_plain_loop(tmp_path, seed):
    chance = random.Random(seed)
    past = Past(tmp_path)
    asyncio.run(past.fill(chance))
    answered = 0
    for _ in range(50):
        query, names = draw_query(chance)
        before = chance.choice([None, None, 60])
        limit = chance.choice([3, 40, 500])
        wanted = past.list_fitting(query, names, before)
        found: list[Found] = []
        after: Spot | None = None
        while True:
            answer = past.house.archive.search(
                query, limit, after, names=names, events_before=before
            )
            assert answer.damage == ()
            assert len(answer.found) <= limit
            found += answer.found
            after = answer.following
            if after is None:
                break
            assert len(answer.found) == limit
        assert found == wanted, query
        answered += bool(wanted)
    assert answered > 15
    past.house.close()


def test_who_touched_is_bounded(tmp_path, monkeypatch):
    past = Past(tmp_path)
    asyncio.run(past.fill(random.Random(9)))
    span = NOON - 700 * HOUR, NOON + 2000 * HOUR
    assert past.house.archive.who_touched(RESOURCES[0], *span).found
    monkeypatch.setattr(touching, "MOST_TOUCHES", 1)
    with pytest.raises(TooLarge, match="less time"):
        past.house.archive.who_touched(RESOURCES[0], *span)
    past.house.close()


def test_who_touched_is_what_a_plain_loop_counts(tmp_path):
    chance = random.Random(9)
    past = Past(tmp_path)
    asyncio.run(past.fill(chance))
    decisions = [one for one in past.things if one.kind is Kind.DECISION]
    for _ in range(60):
        resource = chance.choice(RESOURCES[:1] + RESOURCES[2:])
        since = NOON + chance.randrange(-15, 60) * HOUR
        until = since + chance.randrange(1, 90) * HOUR
        wanted: dict[tuple[str, str, str, str], list[datetime]] = {}
        for one in decisions:
            if one.resource == resource and since <= one.at < until:
                key = (one.subject, one.detail["subject_type"], one.action, one.outcome)
                wanted.setdefault(key, []).append(one.at)
        answer = past.house.archive.who_touched(resource, since, until)
        assert answer.complete
        assert answer.damage == ()
        assert {
            (one.subject, one.subject_type, one.action, one.outcome): (
                one.times,
                one.first,
                one.last,
            )
            for one in answer.found
        } == {key: (len(times), min(times), max(times)) for key, times in wanted.items()}
        assert [one.last for one in answer.found] == sorted(
            (one.last for one in answer.found), reverse=True
        )
    past.house.close()
