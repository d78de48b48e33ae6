"""Values in words for people: times, durations, texts that are safe on a terminal."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from troth.core.errors import Invalid

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_DURATION = re.compile(r"(\d{1,9})(s|m|min|h|d)?", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def describe_duration(span: timedelta) -> str:
    """The two largest parts of a duration: ``54 min``, ``3 h 20 min``, ``12 d``."""
    left = max(0, int(span.total_seconds()))
    for index, (unit, size) in enumerate(_UNITS):
        if left >= size:
            whole, rest = divmod(left, size)
            words = f"{whole} {unit}"
            if whole < 10 and index + 1 < len(_UNITS):
                smaller, length = _UNITS[index + 1]
                if part := rest // length:
                    words += f" {part} {smaller}"
            return words
    return "0 s"


def describe_time(moment: datetime | None, now: datetime) -> str:
    """A moment seen from `now`: ``in 54 min``, ``3 s ago``, ``now`` or ``never``."""
    if moment is None:
        return "never"
    span = moment - now
    if abs(span) < timedelta(seconds=1):
        return "now"
    if span > timedelta(0):
        return f"in {describe_duration(span)}"
    return f"{describe_duration(-span)} ago"


def describe_moment(moment: datetime, now: datetime) -> str:
    """A moment in full and as seen from `now`: ``2026-11-21 22:24:00 UTC (3 s ago)``."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({describe_time(moment, now)})"


def parse_duration(text: str) -> timedelta:
    """Read ``600``, ``90s``, ``10m``, ``2h`` or ``7d``; raises `Invalid` for anything else."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise Invalid(f"{text[:40]!r} is not a duration: write 90s, 10m, 2h or 7d.")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2] or "s"])


def parse_moment(text: str, now: datetime) -> datetime:
    """Read ``2027-06-30``, an RFC 3339 time, or a duration from `now`; raises `Invalid`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return now + parse_duration(text)
        except (Invalid, OverflowError):
            raise Invalid(
                f"{text[:40]!r} is not a time: write 2027-06-30, 2027-06-30T12:00:00Z or 90d."
            ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)


def parse_past(text: str, now: datetime) -> datetime:
    """Read ``2h`` or ``3d`` (so long ago), ``now``, ``today``, ``yesterday`` (their beginning, in
    UTC) or a time as `parse_moment` does; raises `Invalid`."""
    word = text.strip().lower()
    if word in ("now", "today", "yesterday"):
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}[word]
    try:
        return now - parse_duration(text)
    except (Invalid, OverflowError):
        pass
    try:
        return parse_moment(text, now)
    except Invalid as error:
        raise Invalid(
            f"{text[:40]!r} is not a time: write 2h, 3d, yesterday, 2027-06-30 or "
            "2027-06-30T12:00:00Z."
        ) from error


def clean_text(text: object) -> str:
    """`text` without characters that a terminal would obey: they are shown, not sent.

    Names, reasons and paths come from other people; an escape sequence in one could rewrite what
    the reader sees, and so could a character that turns the direction of writing.
    """
    return "".join(
        character if character.isprintable() else f"\\u{{{ord(character):x}}}"
        for character in str(text)
    )


def count_noun(count: int, noun: str) -> str:
    """``1 identity``, ``3 identities``, ``0 nodes``."""
    if count == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {plural}"
