"""What was shown once and must not be shown again, for as long as that would work (RFC 9449, 11.1).

It knows what this process has seen: several processes behind one address have one each.
"""

from __future__ import annotations

import hashlib
import threading

from troth.core.clock import Clock
from troth.core.errors import Unavailable

CAPACITY = 200_000
"""Some 20 MB. Whoever needs more in a window must wait: forgetting early would let replays in."""


class ReplayMemory:
    """Remembers names for `seconds` each. Any thread may use it."""

    def __init__(self, clock: Clock, seconds: float, capacity: int = CAPACITY) -> None:
        self._clock = clock
        self._seconds = seconds
        self._capacity = capacity
        self._lock = threading.Lock()
        self._ends: dict[bytes, float] = {}
        """In the order in which they end, since all are kept for as long."""

    def add(self, name: str) -> bool:
        """Whether `name` is new; raises `Unavailable` if there is no room to remember it."""
        digest = hashlib.sha256(name.encode()).digest()[:16]
        now = self._clock.monotonic()
        with self._lock:
            while self._ends and self._ends[oldest := next(iter(self._ends))] <= now:
                del self._ends[oldest]
            if digest in self._ends:
                return False
            if len(self._ends) >= self._capacity:
                raise Unavailable("Too many DPoP proofs at once; come back in a moment.", 1.0)
            self._ends[digest] = now + self._seconds
            return True
