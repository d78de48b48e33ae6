"""Addresses are read in one way, whoever tells them."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from troth.core.address import read_address


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_one_address_has_one_form(told: str, meant: str) -> None:
    assert read_address(told) == ip_address(meant)
    assert str(read_address(told)) == meant
    assert read_address(ip_address(told)) == ip_address(meant)


@pytest.mark.parametrize("told", ["", "10.0.0", "10.0.0.1/8", "a" * 65, "::1%" + "e" * 65, 7, None])
def test_what_is_none_is_unknown(told: object) -> None:
    assert read_address(told) is None
