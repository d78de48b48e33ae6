"""Moments that callers give."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from troth.core.errors import Invalid
from troth.operations.moments import check_zones


def test_a_moment_has_a_time_zone() -> None:
    at = datetime(2027, 6, 30, tzinfo=UTC)
    check_zones(since=at, until=None)
    with pytest.raises(Invalid, match="'until' has no time zone: write it as 2027"):
        check_zones(since=at, until=at.replace(tzinfo=None))
