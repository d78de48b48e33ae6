"""Bounds of lifetimes, and serial numbers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.errors import Invalid
from troth.issuance import profiles


def test_a_crl_outlives_the_outage_we_promise_and_every_certificate_it_concerns() -> None:
    assert profiles.CRL_LIFETIME > profiles.X509_TTL_CEILING + profiles.CRL_PERIOD
    assert profiles.CRL_LIFETIME > profiles.OUTAGE + profiles.CRL_PERIOD
    assert timedelta(hours=48) <= profiles.OUTAGE


def test_defaults_lie_under_their_ceilings() -> None:
    assert profiles.X509_TTL_DEFAULT <= profiles.X509_TTL_CEILING == timedelta(hours=24)
    assert profiles.JWT_TTL_DEFAULT <= profiles.JWT_TTL_CEILING == timedelta(hours=1)
    assert profiles.X509_TTL_CEILING < profiles.CA_LIFETIME
    assert timedelta(seconds=10) == profiles.BACKDATE


def test_a_ttl_up_to_the_ceiling_passes_in_whole_seconds() -> None:
    ceiling = timedelta(hours=1)
    assert profiles.check_ttl(ceiling, ceiling) == ceiling
    assert profiles.check_ttl(timedelta(seconds=1.9), ceiling) == timedelta(seconds=1)


@pytest.mark.parametrize("asked", [timedelta(0), timedelta(seconds=-1), timedelta(seconds=0.9)])
def test_a_ttl_must_be_positive(asked: timedelta) -> None:
    with pytest.raises(Invalid, match="at least one second"):
        profiles.check_ttl(asked, timedelta(hours=1))


def test_a_ttl_above_the_ceiling_is_refused_and_both_are_named() -> None:
    with pytest.raises(Invalid, match=r"90 min is above the ceiling of 1 h"):
        profiles.check_ttl(timedelta(minutes=90), timedelta(hours=1))


@given(st.binary(min_size=20, max_size=20))
def test_a_serial_is_positive_and_exactly_20_octets(random: bytes) -> None:
    serial = profiles.derive_serial(random)
    encoded = serial.to_bytes(20, "big", signed=True)
    assert serial > 0
    assert serial.bit_length() == 159
    assert len(encoded) == 20


@given(st.integers(0, 2**158 - 1), st.integers(0, 2**158 - 1))
def test_158_random_bits_survive(first: int, second: int) -> None:
    serials = {profiles.derive_serial(n.to_bytes(20, "big")) for n in (first, second)}
    assert (len(serials) == 1) == (first == second)


@pytest.mark.parametrize("size", [0, 8, 19, 21])
def test_a_serial_needs_20_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="20"):
        profiles.derive_serial(b"\x01" * size)
