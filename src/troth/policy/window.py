"""Windows of time: hours of the day and days of the week by a zone's wall clock, or a span."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Window:
    """When a condition holds: on `days` (0 is Monday), from `start` until before `end` by the wall
    clock of `zone`; over midnight where `end` isn't later than `start`. And not before `after`, and
    before `before`, where they are given. The days are those on which a window begins.
    """

    days: frozenset[int] = frozenset(range(7))
    start: time = time(0)
    end: time = time(0)
    zone: str = "UTC"
    after: datetime | None = None
    before: datetime | None = None

    def contains(self, now: datetime) -> bool:
        """Whether `now` lies in it."""
        if self.after is not None and now < self.after:
            return False
        if self.before is not None and now >= self.before:
            return False
        local = now.astimezone(find_zone(self.zone))
        clock, day = local.time().replace(second=0, microsecond=0), local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= clock < self.end
        return (day in self.days and clock >= self.start) or (
            (day - 1) % 7 in self.days and clock < self.end
        )

    def find_end(self, now: datetime) -> datetime:
        """Until when at least the answer stays as it is: walls clocks show whole minutes, whatever
        a zone does meanwhile."""
        minute = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
        edges = [edge for edge in (self.after, self.before) if edge is not None and edge > now]
        return min([minute, *edges])

    def find_moment(self, now: datetime) -> datetime | None:
        """The first moment from `now` on that lies in it, to the minute; None if it never comes, or
        not within eight days from `after`."""
        return next((one for one in self.list_edges(now) if self.contains(one)), None)

    def list_edges(self, now: datetime) -> list[datetime]:
        """The moments from `now` on, in order, at which it may begin or end: those of eight days,
        from `after` if that is to come."""
        first = now if self.after is None else max(now, self.after)
        zone = find_zone(self.zone)
        local = first.astimezone(zone)
        found = {now, first, *(edge for edge in (self.before,) if edge is not None)}
        for number in range(-1, 9):
            day = local.date() + timedelta(days=number)
            for clock in (time(0), self.start, self.end):
                wall = datetime.combine(day, clock, zone)
                found |= {wall.replace(fold=fold).astimezone(UTC) for fold in (0, 1)}
            found |= _list_transitions(first + timedelta(days=number), zone)
        return sorted(edge for edge in found if edge >= now)

    @property
    def name(self) -> str:
        """The window in words; the same words are the same window."""
        parts = [] if len(self.days) == 7 else [",".join(DAYS[day] for day in sorted(self.days))]
        if self.start != self.end or self.start != time(0):
            parts.append(f"{self.start:%H:%M}-{self.end:%H:%M}")
        if parts:
            parts.append(self.zone)
        if self.after is not None:
            parts.append(f"from {_show(self.after)}")
        if self.before is not None:
            parts.append(f"until {_show(self.before)}")
        return " ".join(parts) or "always"


def _list_transitions(early: datetime, zone: ZoneInfo) -> set[datetime]:
    """When, within a day, the clocks of a zone are put forward or back."""
    late = early + timedelta(days=1)
    before = early.astimezone(zone).utcoffset()
    if late.astimezone(zone).utcoffset() == before:
        return set()
    while late - early > timedelta(minutes=1):
        middle = early + (late - early) / 2
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return {late.replace(second=0, microsecond=0)}


def _show(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@lru_cache(maxsize=256)
def find_zone(name: str) -> ZoneInfo:
    """The IANA time zone of that name; `ZoneInfoNotFoundError` or ValueError if there is none."""
    return ZoneInfo(name)
