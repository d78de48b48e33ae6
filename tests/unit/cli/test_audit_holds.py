"""`troth audit hold`: what is kept, from when to when, and why."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.fakes.api import FakeApi
from tests.unit.cli.conftest import Run
from troth.wire.api import holds as wire

NOW = datetime.now(UTC)
MARCH = datetime(2027, 3, 1, tzinfo=UTC)


def make_view(**changes: Any) -> wire.HoldView:
    values: dict[str, Any] = {
        "name": "case-1",
        "since": MARCH,
        "until": MARCH + timedelta(days=31),
        "reason": "letter of 2 May",
        "placed_by": "uid:0",
        "placed_at": NOW - timedelta(hours=2),
    }
    return wire.HoldView(**values | changes)


def test_a_hold_is_placed_from_one_time_to_another(api: FakeApi, run: Run) -> None:
    api.answers["hold.place"] = make_view()
    given = ("--since", "2027-03-01", "--until", "2027-04-01", "--reason", "letter of 2 May")
    result = run("audit", "hold", "add", "case-1", *given)
    assert result.exit_code == 0, result.output
    assert "case-1 keeps what happened from 2027-03-01 00:00 to 2027-04-01 00:00 UTC" in (
        result.stdout
    )
    (request,) = api.named("hold.place")
    assert (request.name, request.since, request.until) == (
        "case-1",
        MARCH,
        MARCH + timedelta(days=31),
    )


def test_a_hold_may_begin_in_the_past_and_have_no_end(api: FakeApi, run: Run) -> None:
    api.answers["hold.place"] = make_view(until=None)
    result = run("audit", "hold", "add", "case-1", "--since", "30d", "--reason", "x")
    assert "from 2027-03-01 00:00 on" in result.stdout
    (request,) = api.named("hold.place")
    assert request.until is None
    assert timedelta(days=29) < NOW - request.since < timedelta(days=31)


@pytest.mark.parametrize(
    "given",
    [
        ("case-1", "--reason", "x"),
        ("case-1", "--since", "30d"),
        ("case-1", "--since", "once", "--reason", "x"),
        ("case-1", "--since", "30d", "--until", "never", "--reason", "x"),
        ("Case 1", "--since", "30d", "--reason", "x"),
        ("../x", "--since", "30d", "--reason", "x"),
    ],
)
def test_what_is_missing_or_wrong_is_told_before_anything_is_sent(
    given: tuple[str, ...], api: FakeApi, run: Run
) -> None:
    assert run("audit", "hold", "add", *given).exit_code == 2
    assert api.requests == []


def test_holds_are_listed(api: FakeApi, run: Run) -> None:
    api.answers["hold.ls"] = wire.HoldList(items=[make_view(reason="a\x1b[31mb")])
    shown = run("audit", "hold", "ls").stdout
    assert "case-1" in shown
    assert " ago" in shown
    assert "\x1b" not in shown
    found = json.loads(run("audit", "hold", "ls", "--json").stdout)
    assert [one["name"] for one in found["items"]] == ["case-1"]
    api.answers["hold.ls"] = wire.HoldList(items=[])
    assert "no legal hold" in run("audit", "hold", "ls").stderr


def test_a_hold_is_released_with_a_reason(api: FakeApi, run: Run) -> None:
    api.answers["hold.release"] = make_view()
    assert run("audit", "hold", "release", "case-1").exit_code == 2
    result = run("audit", "hold", "release", "case-1", "--reason", "case closed")
    assert "case-1 is released" in result.stdout
    assert api.named("hold.release") == [wire.ReleaseHold(name="case-1", reason="case closed")]
