"""Addresses to listen on: one way to read them, for the configuration and the command line."""

from __future__ import annotations

import pytest

from troth.core.endpoint import Endpoint, parse_endpoint
from troth.core.errors import Invalid


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:8443", Endpoint("localhost", 8443)),
        ("0.0.0.0:0", Endpoint("0.0.0.0", 0)),
        ("[::1]:65535", Endpoint("::1", 65535)),
        ("[fe80::1%eth0]:1", Endpoint("fe80::1%eth0", 1)),
    ],
)
def test_an_address_is_read_and_written(text: str, expected: Endpoint) -> None:
    assert parse_endpoint(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9",
        "localhost",
        "localhost:",
        ":8448",
        "[]:8448",
        "::1:8448",
        "[::1:8448",
        "::1]:8448",
        "localhost:65536",
        "localhost:-1",
        "localhost:+1",
        "localhost: 1",
        "localhost:1\n",
        "localhost:１",
        "localhost:000001",
        "local host:1",
        "user@localhost:1",
        "http://localhost:1",
        "x" * 300 + ":1",
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_endpoint(text)
