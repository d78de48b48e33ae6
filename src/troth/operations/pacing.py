"""How fast callers may call: each node for itself, and all nodes together after an outage.

A node that is broken into, or whose workloads start in a loop, uses up its own allowance and
nobody else's. When a thousand agents come back at once, as many pass as the server can serve, and
each of the others is told its own time to come back.
"""

from __future__ import annotations

import ipaddress
import math
from typing import Any

from troth.core.bucket import Buckets, Pacer
from troth.core.clock import Clock
from troth.core.errors import Limited, Unavailable
from troth.operations.call import Caller
from troth.policy.permissions import GRANTABLE
from troth.wire.api.certificates import IssueCertificates
from troth.wire.api.jwt_svids import IssueJwtSvids

GRANTED = frozenset(GRANTABLE)
CREDENTIALS = frozenset({"certificate.issue", "jwtsvid.issue"})
BURST_SECONDS = 100
"""A node may take what grows back in so many seconds at once: one with all of an agent's 10,000
processes that starts anew."""
PACED = {"node.renew": 100.0, "node.sync": 200.0}
"""How many of these a second pass, of all callers together; twice as many at once."""
JOINS = 50.0
"""How many nodes may join a second, once each has proved itself: who proves nothing has no part in
this, and so can't use it up for others."""
HORIZON = 60.0
"""Seconds: nobody is sent away for longer."""
CALLS_BURST = 20
STRANGERS_BURST = 100
STRANGERS_PER_SECOND = 10.0
"""Attestations from one address: a rack behind one address joins within seconds."""


class Turns:
    """Lets so many pass a second, of all callers together; each of the others hears its turn."""

    def __init__(self, clock: Clock, per_second: float) -> None:
        self._clock = clock
        self._pacer = Pacer(int(per_second * 2), per_second, HORIZON, clock.monotonic())

    def take(self, caller: Caller) -> None:
        """Raise `Unavailable` while more ask than can be served; not for who was given a role."""
        if caller.roles & GRANTED:
            return
        if wait := self._pacer.take(self._clock.monotonic()):
            turn = math.ceil(wait)
            raise Unavailable(f"Many nodes ask at once; this one's turn is in {turn} s.", wait)


class Pacing:
    """Asked by the gate once a caller is permitted and before anything is done for them."""

    def __init__(self, clock: Clock, credentials: int, calls: int) -> None:
        self._clock = clock
        self._credentials = Buckets(credentials * BURST_SECONDS, credentials)
        self._calls = Buckets(calls * CALLS_BURST, calls)
        self._strangers = Buckets(STRANGERS_BURST, STRANGERS_PER_SECOND)
        self._paced = {name: Turns(clock, rate) for name, rate in PACED.items()}

    def admit(self, name: str, caller: Caller, body: Any) -> None:
        """Raise `Limited` for who takes more than their share, `Unavailable` while all together
        ask for more than can be served; both say when to come back."""
        now = self._clock.monotonic()
        if caller.node_id is not None:
            self._admit_node(name, str(caller.node_id), body, now)
        elif caller.roles & GRANTED:
            return  # who was given a role here is trusted not to flood; a certificate alone isn't
        elif name == "node.attest":
            wait = self._strangers.take(name_address(caller.source), 1, now)
            if wait:
                raise Limited(
                    "Too many attestations come from this address; try again later.", wait
                )
        if name in self._paced:
            self._paced[name].take(caller)

    def _admit_node(self, name: str, node_id: str, body: Any, now: float) -> None:
        if name in CREDENTIALS:
            batch = isinstance(body, IssueCertificates | IssueJwtSvids)
            cost = len(body.requests) if batch else 1
            wait = self._credentials.take(node_id, max(cost, 1), now)
            what = "credentials"
        else:
            wait = self._calls.take(node_id, 1, now)
            what = "calls"
        if wait:
            rest = math.ceil(wait)
            raise Limited(
                f"This node asks for more {what} than one node may; it can go on in {rest} s.", wait
            )


def name_address(source: str) -> str:
    """Whom a source such as ``192.0.2.1:4711`` counts for: an IPv4 address, or an IPv6 /64."""
    host, colon, port = source.rpartition(":")
    if not colon or not port.isdigit():
        return source
    if not host.startswith("["):
        return host
    try:
        address = ipaddress.IPv6Address(host.strip("[]"))
    except ValueError:
        return host
    return f"{ipaddress.IPv6Address(address.packed[:8] + bytes(8))}/64"
