"""Moments that callers give: with a time zone, or refused."""

from __future__ import annotations

from datetime import datetime

from troth.core.errors import Invalid


def check_zones(**moments: datetime | None) -> None:
    """`Invalid` for a moment without a time zone, by the name of its field."""
    for name, moment in moments.items():
        if moment is not None and moment.tzinfo is None:
            raise Invalid(f"{name!r} has no time zone: write it as 2027-06-30T12:00:00Z.")
