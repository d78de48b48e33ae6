"""Opaque tokens: sealed for one span, opened by whoever has its key, and by nobody else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.errors import Invalid
from troth.core.jose.jwk import decode_base64url, encode_base64url
from troth.issuance.opaque import (
    MAX_SIZE,
    PREFIX,
    SPAN,
    find_span,
    open_token,
    read_span,
    seal_token,
)
from troth.issuance.profiles import ACCESS_TTL_CEILING

NOW = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
KEY, OTHER = bytes(32), bytes(range(32))
JWT = "eyJh.eyJi.c2ln"
TEXT = seal_token(JWT, KEY, find_span(NOW), b"n" * 12)


def test_what_was_sealed_is_opened_with_its_key_alone() -> None:
    assert TEXT.startswith("troth_")
    assert JWT not in TEXT
    assert open_token(TEXT, KEY) == JWT
    with pytest.raises(Invalid, match="none of this server's"):
        open_token(TEXT, OTHER)


@given(st.integers(0, len(decode_base64url(TEXT[len(PREFIX) :])) - 1), st.integers(1, 255))
def test_a_changed_byte_opens_nothing(place: int, flip: int) -> None:
    raw = bytearray(decode_base64url(TEXT[len(PREFIX) :]))
    raw[place] ^= flip
    with pytest.raises(Invalid):
        open_token(PREFIX + encode_base64url(bytes(raw)), KEY)


@pytest.mark.parametrize(
    "text",
    ["", PREFIX, PREFIX + "A", PREFIX + "====", PREFIX + "AAAA", TEXT + "=", JWT, "x" + TEXT],
)
def test_what_is_none_is_said_so(text: str) -> None:
    for read in (lambda: open_token(text, KEY), lambda: read_span(text, NOW)):
        with pytest.raises(Invalid):
            read()


def test_an_overlong_one_is_not_even_decoded() -> None:
    with pytest.raises(Invalid, match="none of this server's"):
        open_token(PREFIX + "A" * MAX_SIZE, KEY)


@pytest.mark.parametrize(
    ("later", "good"),
    [
        (timedelta(0), True),
        (ACCESS_TTL_CEILING, True),
        (ACCESS_TTL_CEILING + timedelta(seconds=SPAN), False),
        (-timedelta(seconds=SPAN), True),  # this server's clock is slow
        (-timedelta(seconds=2 * SPAN), False),
        (timedelta(days=365), False),
    ],
)
def test_keys_are_looked_for_only_while_a_token_may_live(later: timedelta, good: bool) -> None:
    if good:
        assert read_span(TEXT, NOW + later) == find_span(NOW)
        return
    with pytest.raises(Invalid, match="has expired"):
        read_span(TEXT, NOW + later)


def test_a_token_at_the_end_of_its_span_outlives_it() -> None:
    end = datetime.fromtimestamp((find_span(NOW) + 1) * SPAN - 1, UTC)
    text = seal_token(JWT, KEY, find_span(end), b"n" * 12)
    assert read_span(text, end + ACCESS_TTL_CEILING) == find_span(end)
