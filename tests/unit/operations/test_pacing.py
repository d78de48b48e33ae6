"""Allowances: each node's own, each address's own, and the pace of all together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.house import ADMIN
from troth.core.clock import VirtualClock
from troth.core.errors import Limited, Unavailable
from troth.core.ids import NodeId
from troth.operations.call import ANONYMOUS, Caller
from troth.operations.pacing import (
    BURST_SECONDS,
    CALLS_BURST,
    HORIZON,
    PACED,
    STRANGERS_BURST,
    Pacing,
    name_address,
)
from troth.wire.api.certificates import (
    CertificateRequest,
    InstanceClaim,
    IssueCertificates,
)
from troth.wire.api.jwt_svids import IssueJwtSvids, JwtSvidRequest

CLAIM = InstanceClaim(key="ab" * 16, pid=7, selectors=["unix:uid:1001"])
ONE = CertificateRequest(identity_id="idn_1", csr=b"", instance=CLAIM)


def batch(size: int) -> IssueCertificates:
    return IssueCertificates(requests=[ONE] * size)


def node(name: str) -> Caller:
    return Caller(f"spiffe://example.org/troth/node/{name}", frozenset({"node"}), NodeId(name))


class Gate:
    """Pacing with small allowances: 10 credentials and 2 calls a second for each node."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.pacing = Pacing(self.clock, credentials=10, calls=2)

    def count(self, most: int, name: str, caller: Caller, body: Any = None) -> int:
        """How many of `most` calls pass now."""
        for number in range(most):
            try:
                self.pacing.admit(name, caller, body)
            except (Limited, Unavailable):
                return number
        return most


def test_a_nodes_credentials_are_counted_one_by_one_and_by_node() -> None:
    gate = Gate()
    burst = 10 * BURST_SECONDS
    assert gate.count(100, "certificate.issue", node("a"), batch(100)) == burst // 100
    with pytest.raises(Limited, match=r"more credentials .* in 1 s") as caught:
        gate.pacing.admit("jwtsvid.issue", node("a"), None)
    assert caught.value.retry_after == pytest.approx(0.1)
    assert gate.count(100, "certificate.issue", node("b"), batch(100)) == burst // 100
    gate.pacing.admit("node.report", node("a"), None)  # it can still tell how it is


def test_a_batch_of_tokens_costs_as_many_as_it_asks_for() -> None:
    gate = Gate()
    one = JwtSvidRequest(identity_id="idn_1", audiences=["a"], instance=CLAIM)
    tokens = IssueJwtSvids(requests=[one] * 250)
    assert gate.count(100, "jwtsvid.issue", node("a"), tokens) == 10 * BURST_SECONDS // 250
    with pytest.raises(Limited):
        gate.pacing.admit("certificate.issue", node("a"), batch(1))


@pytest.mark.parametrize("role", ["device", "workload", "anyone"])
def test_a_certificate_without_a_granted_role_exempts_nobody(role: str) -> None:
    caller = Caller("spiffe://example.org/d", frozenset({role}), None, "192.0.2.1:1")
    assert Gate().count(500, "node.attest", caller) == STRANGERS_BURST


def test_a_nodes_other_calls_are_counted_too() -> None:
    gate = Gate()
    assert gate.count(100, "node.report", node("a")) == 2 * CALLS_BURST
    assert gate.count(1, "node.report", node("b")) == 1


def test_strangers_are_counted_by_address() -> None:
    gate = Gate()
    one = replace(ANONYMOUS, source="192.0.2.1:1000")
    same = replace(ANONYMOUS, source="192.0.2.1:2000")
    other = replace(ANONYMOUS, source="192.0.2.2:1000")
    passed = gate.count(500, "node.attest", one)
    assert passed == STRANGERS_BURST
    assert gate.count(1, "node.attest", same) == 0
    assert gate.count(1, "node.attest", other) == 1


def test_an_ipv6_neighbourhood_is_one_address() -> None:
    assert name_address("[2001:db8::1]:443") == "2001:db8::/64"
    assert name_address("[2001:db8::ffff:1]:80") == "2001:db8::/64"
    assert name_address("[junk]:80") == "[junk]"
    assert name_address("") == ""


@pytest.mark.parametrize("name", PACED)
def test_all_together_keep_a_pace_and_hear_their_turn(name: str) -> None:
    gate = Gate()
    rate = PACED[name]
    waits = []
    for number in range(1000):
        try:
            gate.pacing.admit(name, node(f"n{number}"), None)
        except Unavailable as error:
            waits.append(error.retry_after or 0.0)
    assert 1000 - len(waits) == int(rate * 2)
    assert waits == sorted(waits)
    assert max(waits) == pytest.approx(len(waits) / rate)
    assert max(waits) <= HORIZON


def test_who_has_a_role_is_not_paced() -> None:
    assert Gate().count(5000, "node.attest", ADMIN) == 5000
