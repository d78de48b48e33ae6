"""The only place that reads the time. Everything else is handed a `Clock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


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
        """Seconds of the monotonic clock."""
        return time.monotonic()


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
