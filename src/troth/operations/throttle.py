"""A brake: each source may do a few times what costs us something, then must wait."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict

from troth.core.clock import Clock
from troth.core.errors import Limited

BURST = 20
PER_SECOND = 0.5
RENEWALS = 0.2
"""Renewals a second of one device, after the first `BURST`."""
REMEMBERED = 10_000
"""Sources; of more than these the one that was counted longest ago is forgotten."""


class Throttle:
    """Counts by source, such as an address or an instance. Belongs to one event loop."""

    def __init__(self, clock: Clock, burst: int = BURST, per_second: float = PER_SECOND) -> None:
        self._clock = clock
        self._burst = burst
        self._per_second = per_second
        self._sources: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, source: str) -> None:
        """Raise `Limited` if it was counted too often of late."""
        level = self._level(name_network(source))
        if level > self._burst - 1:
            wait = math.ceil((level - self._burst + 1) / self._per_second)
            raise Limited(f"Too many attempts from {name_network(source)}; wait {wait} s.")

    def count(self, source: str) -> None:
        """Note one more."""
        name = name_network(source)
        self._sources[name] = (self._level(name) + 1, self._clock.monotonic())
        self._sources.move_to_end(name)
        if len(self._sources) > REMEMBERED:
            self._sources.popitem(last=False)

    def _level(self, name: str) -> float:
        level, at = self._sources.get(name, (0.0, 0.0))
        return max(0.0, level - (self._clock.monotonic() - at) * self._per_second)


def name_network(source: str) -> str:
    """Whom a source such as ``192.0.2.1:4711`` counts for: an IPv4 address, or an IPv6 /64.

    A whole /64 is one source, since it is the least that one subscriber gets (RFC 6177, section 2).
    """
    host = source.rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return source
    if isinstance(address, ipaddress.IPv6Address):
        return f"{ipaddress.IPv6Address(address.packed[:8] + bytes(8))}/64"
    return str(address)
