"""Token buckets: how much of something may be taken at once, and how fast it grows back."""

from __future__ import annotations

from collections import OrderedDict


class Bucket:
    """A token bucket: starts full, grows back with time."""

    def __init__(self, burst: int, per_second: float, now: float) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._level = float(burst)
        self._at = now

    def take(self, cost: float, now: float) -> bool:
        """Take `cost` if there is so much at `now` (seconds of a monotonic clock)."""
        self._refill(now)
        if self._level < cost:
            return False
        self._level -= cost
        return True

    def measure_wait(self, cost: float, now: float) -> float:
        """Seconds until there is `cost`, if nobody takes anything before."""
        self._refill(now)
        return max(0.0, min(cost, self._burst) - self._level) / self._per_second

    def _refill(self, now: float) -> None:
        self._level = min(self._burst, self._level + (now - self._at) * self._per_second)
        self._at = now


class Buckets:
    """A bucket for each key, all alike. The one not used for the longest is forgotten first."""

    def __init__(self, burst: int, per_second: float, limit: int = 4096) -> None:
        self._burst = burst
        self._per_second = per_second
        self._limit = limit
        self._known: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, key: str, cost: float, now: float) -> float:
        """0 if `cost` was taken from the bucket of `key`; else the seconds until it could be."""
        bucket = self._known.get(key)
        if bucket is None:
            bucket = self._known[key] = Bucket(self._burst, self._per_second, now)
        self._known.move_to_end(key)
        while len(self._known) > self._limit:
            self._known.popitem(last=False)
        cost = min(cost, self._burst)  # more than a whole bucket costs a whole bucket
        if bucket.take(cost, now):
            return 0.0
        return bucket.measure_wait(cost, now)


class Pacer:
    """Lets so many pass a second, and tells everybody else when to come back: one after another.

    Those who are sent away don't come back at the same moment, since each is promised a time of
    their own, as far ahead as `horizon` seconds at most.
    """

    def __init__(self, burst: int, per_second: float, horizon: float, now: float) -> None:
        self._bucket = Bucket(burst, per_second, now)
        self._per_second = per_second
        self._horizon = horizon
        self._promised = 0.0
        self._at = now

    def take(self, now: float) -> float:
        """0 for who may pass now; else after how many seconds to come back."""
        self._promised = max(0.0, self._promised - (now - self._at) * self._per_second)
        self._at = now
        if self._bucket.take(1, now):
            return 0.0
        if self._promised < self._horizon * self._per_second:
            self._promised += 1
        return max(self._promised / self._per_second, self._bucket.measure_wait(1, now))
