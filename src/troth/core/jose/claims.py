"""The registered claims of a JWT (RFC 7519, section 4.1), read from what may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from troth.core.errors import Invalid

MAX_TIME = 1 << 53
"""Seconds; JSON may hold integers that no float can, and a float is what the clock gives."""


def check_times(claims: Mapping[str, Any], now: datetime, leeway: timedelta) -> None:
    """Raise `Invalid` unless `now` lies between `nbf` or `iat` and `exp`, give or take `leeway`."""
    moment, room = now.timestamp(), leeway.total_seconds()
    expires = _read_time(claims, "exp")
    if expires is None:
        raise Invalid("The token has no exp.")
    if moment >= expires + room:
        raise Invalid("The token has expired; get a fresh one.")
    for name in ("nbf", "iat"):
        start = _read_time(claims, name)
        if start is not None and moment < start - room:
            raise Invalid(f"The token's {name} lies in the future; compare the clocks.")


def list_audiences(claims: Mapping[str, Any]) -> list[str]:
    """The `aud` of a token as a list; `Invalid` if it has none."""
    found = claims.get("aud")
    listed = [found] if isinstance(found, str) else found
    if not isinstance(listed, list) or not listed:
        raise Invalid("The token has no aud.")
    if not all(isinstance(audience, str) for audience in listed):
        raise Invalid("The token's aud must be a string or a list of strings.")
    return listed


def _read_time(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519, section 2)."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Invalid(f"The token's {name} must be a number of seconds.")
    if not abs(value) <= MAX_TIME:  # NaN and infinity among them
        raise Invalid(f"The token's {name} must be a number of seconds.")
    return value
