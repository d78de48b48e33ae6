"""``audit.touched``: who did what with a resource, counted from decisions wherever they lie."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.fakes.archive import FakeArchive
from tests.fakes.house import FakeHouse, in_house
from tests.unit.operations.test_auditsearch import STRANGER, decide
from troth.core.errors import Denied, Invalid
from troth.wire.api import auditsearch as wire

HOUR = timedelta(hours=1)


async def ask(house: FakeHouse, resource: str, **fields: Any) -> wire.Touched:
    found: wire.Touched = await house.call(
        "audit.touched", wire.AskTouched(resource=resource, **fields)
    )
    return found


def outline(found: wire.Touched) -> list[tuple[str, str, int]]:
    return [(one.subject, one.outcome, one.times) for one in found.items]


@in_house
async def test_who_touched_a_resource_and_how_often(house: FakeHouse) -> None:
    begin = house.clock.now()
    for number, (subject, allowed) in enumerate(
        [("till", True), ("till", True), ("guard", True), ("till", False), ("'; --", True)]
    ):
        await decide(house, number, resource="ledger", subject=subject, allowed=allowed)
        await decide(house, number + 100, resource="vault", subject="banker")
        house.clock.advance(HOUR)
    found = await ask(house, "ledger")
    assert outline(found) == [
        ("'; --", "success", 1),
        ("till", "failure", 1),
        ("guard", "success", 1),
        ("till", "success", 2),
    ]
    assert found.complete
    assert (found.items[3].first, found.items[3].last) == (begin, begin + HOUR)
    part = await ask(house, "ledger", since=begin + HOUR, until=begin + 3 * HOUR)
    assert outline(part) == [("guard", "success", 1), ("till", "success", 1)]
    assert (part.since, part.until) == (begin + HOUR, begin + 3 * HOUR)
    few = await ask(house, "ledger", limit=1)
    assert outline(few) == [("'; --", "success", 1)]
    assert not few.complete
    for words in ("nothing", "x' OR '1'='1", "%", "_edger", "ledger\x00", "\u202eregdel"):
        assert (await ask(house, words)).items == []


@in_house
async def test_what_cant_be_read_is_told(house: FakeHouse) -> None:
    archive = house.parts.archive
    assert isinstance(archive, FakeArchive)
    archive.damage = ("A file is damaged.",)
    assert (await ask(house, "ledger")).notes == ["A file is damaged."]


@in_house
async def test_empty_periods_and_strangers_are_refused(house: FakeHouse) -> None:
    now = house.clock.now()
    for fields, words in (
        ({"since": now, "until": now}, "is empty"),
        ({"since": now, "until": now - HOUR}, "Exchange them"),
        ({"since": now + 72 * HOUR}, "in the future"),
        ({"until": now.replace(tzinfo=None)}, "time zone"),
    ):
        with pytest.raises(Invalid, match=words):
            await ask(house, "ledger", **fields)
    with pytest.raises(Denied):
        await house.call("audit.touched", wire.AskTouched(resource="ledger"), STRANGER)
