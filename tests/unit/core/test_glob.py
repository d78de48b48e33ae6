"""Patterns with ``*``, against the plainest reading of them."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from troth.core import glob

WORDS = st.text("ab*", max_size=8)
TEXTS = st.text("ab*", max_size=12)


def fits(pattern: str, text: str) -> bool:
    """Letter for letter."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return fits(pattern[1:], text) or (bool(text) and fits(pattern, text[1:]))
    return bool(text) and pattern[0] == text[0] and fits(pattern[1:], text[1:])


@given(WORDS, TEXTS)
@settings(max_examples=1000)
def test_it_matches_as_one_would_letter_for_letter(pattern: str, text: str) -> None:
    assert glob.matches(pattern, text) is fits(pattern, text)


@given(WORDS)
def test_what_fills_a_pattern_fits_it(pattern: str) -> None:
    assert glob.matches(pattern, glob.fill(pattern))


def test_no_pattern_explodes() -> None:
    start = time.process_time()
    for pattern, text in (
        ("*a" * 255 + "b", "a" * 1_000_000),
        ("a*" * 255 + "b*c", "a" * 1_000_000),
        ("*" * 512, "a" * 1_000_000),
        ("*" + "a" * 250 + "b" + "a" * 250 + "*", "a" * 100_000),
        ("*ab" * 100 + "*", "a" * 100_000),
    ):
        glob.matches(pattern, text)
    assert time.process_time() - start < 1.0


def test_capitals_and_look_alikes_are_others() -> None:
    for pattern, text in (("ledger", "Ledger"), ("ledger", "lеdger"), ("café", "cafe\u0301")):
        assert not glob.matches(pattern, text)


def test_of_two_that_fit_the_one_that_says_more_weighs_more() -> None:
    ordered = ["a-1", "a-*", "a*1", "*-11", "*"]
    assert sorted(ordered, key=glob.weigh, reverse=True) == ordered
