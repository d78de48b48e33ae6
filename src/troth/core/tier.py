"""Trust tiers: how much an identity is relied on, in steps that policies and tokens name."""

from __future__ import annotations

from enum import StrEnum


class Tier(StrEnum):
    """From the least to the most; a tier that isn't known counts as the least."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"

    @property
    def rank(self) -> int:
        """Its place, from 0."""
        return _ORDER.index(self)


_ORDER = tuple(Tier)


def lower_tier(one: Tier, other: Tier) -> Tier:
    """The lower of two: a chain is relied on as much as its weakest link."""
    return one if one.rank <= other.rank else other


def read_tier(name: object) -> Tier:
    """The tier of that name; the least for any other value."""
    return Tier(name) if isinstance(name, str) and name in _ORDER else Tier.LOW
