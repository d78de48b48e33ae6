"""Client certificates that OpenSSL let pass and that we can't make out."""

from __future__ import annotations

from typing import Any, cast

import pytest

from tests.fakes.issuer import NOW, FakeIssuer
from troth.core.clock import VirtualClock
from troth.core.errors import Unauthenticated
from troth.operations.callers import CallerRegistry

ISSUER = FakeIssuer()
LEAF = ISSUER.issue(ISSUER.plan())
URI = b"\x86\x1dspiffe://example.org/payments"


def _registry() -> CallerRegistry:
    nothing = cast(Any, None)  # reading a certificate asks neither the store nor the snapshot
    return CallerRegistry(nothing, nothing, VirtualClock(NOW), ISSUER.trust_domain, {}, {})


def test_a_sound_certificate_is_read() -> None:
    assert URI in LEAF
    assert str(_registry()._read(LEAF)[0]) == "spiffe://example.org/payments"


@pytest.mark.parametrize(
    ("der", "words"),
    [
        (b"", "can't be read"),
        (LEAF[:-1], "can't be read"),
        (LEAF.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"), "can't be read"),
        (LEAF.replace(URI, b"\xa3\x1d\x04\x1b" + b"x" * 27), "can't be read"),  # an x400Address
        (LEAF.replace(URI, b"\x82" + URI[1:]), "exactly one"),  # a DNS name
        (LEAF.replace(URI, URI.replace(b"spiffe", b"spiffy")), "no SPIFFE ID"),
    ],
)
def test_what_cannot_be_read_proves_nobody(der: bytes, words: str) -> None:
    assert der != LEAF
    with pytest.raises(Unauthenticated, match=words):
        _registry()._read(der)
