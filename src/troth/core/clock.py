"""The only place that reads the time. Everything else is handed a `Clock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_SINCE_BOOT: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """Wall time for records, monotonic time for leases and durations."""

    def now(self) -> datetime:
        """The wall clock, in UTC, with microseconds."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start that never go back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since the machine started; where that is known, time in suspend included: a lease
        must not last longer because the machine slept."""
        if _SINCE_BOOT is None:
            return time.monotonic()
        return time.clock_gettime(_SINCE_BOOT)


class SteadyWatch:
    """Tells whether the wall clock has gone as the monotonic one has, for a while.

    What can't be undone (retiring what expired, deleting what is old) must not happen because a
    clock was wrong for a moment. So it waits until the clock has been steady for `hold`, counted
    from the start or from the last jump by more than `tolerance`.
    """

    def __init__(
        self,
        clock: Clock,
        hold: timedelta = timedelta(minutes=10),
        tolerance: timedelta = timedelta(seconds=30),
    ) -> None:
        self._clock = clock
        self._hold = hold
        self._tolerance = tolerance
        self._since = self._seen = clock.monotonic()
        self._wall = clock.now()

    def is_steady(self) -> bool:
        """Look at both clocks; whether they have agreed for as long as they should."""
        wall, monotonic = self._clock.now(), self._clock.monotonic()
        drift = (wall - self._wall) - timedelta(seconds=monotonic - self._seen)
        if abs(drift) > self._tolerance:
            self._since = monotonic
        self._wall, self._seen = wall, monotonic
        return monotonic - self._since >= self._hold.total_seconds()


class VirtualClock:
    """A clock that moves only when told to: for tests and simulation."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now = start
        self._monotonic = 0.0

    def now(self) -> datetime:
        """The virtual wall time."""
        return self._now

    def monotonic(self) -> float:
        """The virtual monotonic seconds."""
        return self._monotonic

    def advance(self, by: timedelta) -> None:
        """Move both clocks forward by `by`."""
        self._now += by
        self._monotonic += by.total_seconds()

    def jump(self, to: datetime) -> None:
        """Set the wall clock alone, as an administrator or NTP would."""
        self._now = to
