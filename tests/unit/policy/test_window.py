"""Windows of time: an answer stays as it is until it says, whatever clocks are put to."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troth.policy.window import Window

ZONES = ("UTC", "Europe/Zurich", "Australia/Lord_Howe", "America/New_York", "Asia/Kathmandu")
PUT_FORWARD_OR_BACK = (
    datetime(2026, 3, 29, 1, tzinfo=UTC),  # Zurich
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),  # Lord Howe, by half an hour
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    datetime(2026, 3, 8, 7, tzinfo=UTC),  # New York
    datetime(2026, 11, 1, 6, tzinfo=UTC),
)
CLOCKS = st.builds(time, st.integers(0, 23), st.sampled_from((0, 1, 15, 29, 30, 31, 59)))
MOMENTS = st.builds(
    lambda near, seconds: near + timedelta(seconds=seconds),
    st.sampled_from(PUT_FORWARD_OR_BACK),
    st.integers(-3 * 86_400, 3 * 86_400) | st.integers(-7200, 7200),
)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    start, end = draw(CLOCKS), draw(CLOCKS)
    return Window(
        frozenset(draw(st.sets(st.integers(0, 6), min_size=1))),
        *((start, end) if start != end else (time(0), time(0))),
        draw(st.sampled_from(ZONES)),
        draw(st.none() | MOMENTS),
        draw(st.none() | MOMENTS),
    )


@given(windows(), MOMENTS, st.floats(0, 1))
@settings(max_examples=500)
def test_nothing_changes_until_the_end_that_is_told(
    window: Window, now: datetime, part: float
) -> None:
    end = window.find_end(now)
    assert end > now
    within = now + (end - now) * part
    if within < end:
        assert window.contains(within) is window.contains(now)


@given(windows(), MOMENTS)
@settings(max_examples=150)
def test_the_first_moment_is_the_first(window: Window, now: datetime) -> None:
    found = window.find_moment(now)
    first = max(now, window.after) if window.after else now
    assert found is None or (found >= now and window.contains(found))
    # Minute for minute, as far as a day goes.
    moment = first
    for _ in range(24 * 60):
        if window.contains(moment):
            assert found is not None
            assert found <= moment
            return
        moment = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)


def make(**changes: object) -> Window:
    return Window(**{"zone": "Europe/Zurich", **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("window", "moment", "inside"),
    [
        (make(start=time(8), end=time(18)), "2026-01-05T06:59:59Z", False),
        (make(start=time(8), end=time(18)), "2026-01-05T07:00:00Z", True),
        (make(start=time(8), end=time(18)), "2026-07-06T06:00:00Z", True),
        (make(start=time(8), end=time(18)), "2026-07-06T16:00:00Z", False),
        # A window over midnight belongs to the day on which it begins.
        (make(start=time(22), end=time(6), days=frozenset({4})), "2026-11-20T22:00:00Z", True),
        (make(start=time(22), end=time(6), days=frozenset({4})), "2026-11-21T04:59:00Z", True),
        (make(start=time(22), end=time(6), days=frozenset({4})), "2026-11-20T04:59:00Z", False),
        (make(days=frozenset({5})), "2026-11-20T23:00:00Z", True),
        # What clocks skip never is; what they show twice is twice.
        (make(start=time(2), end=time(3)), "2026-03-29T01:00:00Z", False),
        (make(start=time(2), end=time(3)), "2026-10-25T00:30:00Z", True),
        (make(start=time(2), end=time(3)), "2026-10-25T01:30:00Z", True),
        (make(after=datetime(2026, 1, 1, tzinfo=UTC)), "2025-12-31T23:59:59Z", False),
        (make(before=datetime(2026, 1, 1, tzinfo=UTC)), "2026-01-01T00:00:00Z", False),
    ],
)
def test_what_lies_in_a_window(window: Window, moment: str, inside: bool) -> None:
    assert window.contains(datetime.fromisoformat(moment)) is inside


def test_half_an_hour_that_is_skipped_on_lord_howe() -> None:
    window = make(zone="Australia/Lord_Howe", start=time(2, 15), end=time(4))
    now = datetime(2026, 10, 3, 15, 0, tzinfo=UTC)  # 01:30; at 02:00 it is 02:30
    assert window.find_moment(now) == datetime(2026, 10, 3, 15, 30, tzinfo=UTC)


def test_the_same_words_are_the_same_window() -> None:
    assert make().name == "always"
    assert make(days=frozenset({0, 2}), start=time(8), end=time(9)).name == (
        "mon,wed 08:00-09:00 Europe/Zurich"
    )
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert make(after=after).name == "from 2026-01-01T00:00:00Z"
    assert (
        make(zone="UTC", start=time(8), end=time(9)).name != make(start=time(8), end=time(9)).name
    )


def test_one_that_is_over_never_comes() -> None:
    window = make(start=time(8), end=time(9), before=datetime(2020, 1, 1, tzinfo=UTC))
    assert window.find_moment(datetime(2026, 1, 1, tzinfo=UTC)) is None
