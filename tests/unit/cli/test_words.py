from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.cli.words import (
    clean_text,
    count_noun,
    describe_duration,
    describe_moment,
    describe_time,
    parse_duration,
    parse_moment,
)
from troth.core.errors import Invalid

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.9, "0 s"),
        (3, "3 s"),
        (59, "59 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (54 * 60 + 5, "54 min"),
        (3 * 3600 + 20 * 60, "3 h 20 min"),
        (23 * 3600, "23 h"),
        (86400, "1 d"),
        (86400 + 3600, "1 d 1 h"),
        (365 * 86400, "365 d"),
        (-5, "0 s"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert describe_duration(timedelta(seconds=seconds)) == words


def test_times_are_seen_from_now() -> None:
    assert describe_time(NOW + timedelta(minutes=54), NOW) == "in 54 min"
    assert describe_time(NOW - timedelta(seconds=3), NOW) == "3 s ago"
    assert describe_time(NOW, NOW) == "now"
    assert describe_time(None, NOW) == "never"
    assert describe_moment(NOW, NOW) == "2026-11-21 12:00:00 UTC (now)"


@pytest.mark.parametrize(
    ("text", "seconds"), [("600", 600), ("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604800)]
)
def test_durations_are_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "-5s", "1.5h", "10 m", "1h30m", "٣s", "9" * 10])
def test_what_is_no_duration_says_what_to_write(text: str) -> None:
    with pytest.raises(Invalid, match="10m"):
        parse_duration(text)


def test_moments_are_read() -> None:
    assert parse_moment("2027-06-30", NOW) == datetime(2027, 6, 30, tzinfo=UTC)
    assert parse_moment("2027-06-30T12:00:00Z", NOW) == datetime(2027, 6, 30, 12, tzinfo=UTC)
    assert parse_moment("90d", NOW) == NOW + timedelta(days=90)
    for text in ("soon", "2027-13-01", "999999999d"):
        with pytest.raises(Invalid, match="2027-06-30"):
            parse_moment(text, NOW)


@given(st.text())
def test_a_clean_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    cleaned = clean_text(text)
    assert cleaned.isprintable()
    if text.isprintable():
        assert cleaned == text


def test_nouns_are_counted() -> None:
    assert count_noun(1, "identity") == "1 identity"
    assert count_noun(0, "identity") == "0 identities"
    assert count_noun(3, "node") == "3 nodes"
