"""How much an identity is relied on: 0 to 100 points, each of them with its reason.

The points come from how its holders are told from others (attestation), from whether somebody
answers for it (ownership), from its age, and from evidence. The same facts at the same time give
the same score, so that anybody can recompute it. The table stands in docs/explanation/trust.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from troth.core.ids import EvidenceId
from troth.core.tier import Tier
from troth.trust.evidence import Evidence

LEAST, MOST = 0, 100
MEDIUM_FROM = 40
"""The lowest score of the tier *medium*."""
HIGH_FROM = 70
"""The lowest score of the tier *high*."""

NAMED_OWNER = 5
REACHABLE_OWNER = 5
PURPOSE = 5
MANAGED = 10
FIRST_SIGHT = -5
SECOND_WAY = -5

DAY = timedelta(days=1)
DAYS_A_POINT = 3
MOST_AGE = 10
"""Points that age gives at most, one for every `DAYS_A_POINT` days."""

MOST_PRAISE = 30
"""Points that evidence can add, all of it together. What is held against an identity has no such
limit: no amount of praise makes up for it, nor for a proof that anybody could copy."""


class Assurance(StrEnum):
    """How sure it is that who holds an identity is who it was registered for."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Strength(StrEnum):
    """How those who may hold an identity are told from everybody else, the weakest first."""

    NOTHING = "nothing"
    BORROWED = "borrowed"
    KEY = "key"
    ACCOUNT = "account"
    PROGRAM = "program"
    ENCLOSURE = "enclosure"
    CERTIFIED = "certified"


@dataclass(frozen=True, slots=True)
class _Rating:
    points: int
    assurance: Assurance
    words: str


_RATINGS: Mapping[Strength, _Rating] = {
    Strength.NOTHING: _Rating(
        0, Assurance.LOW, "nothing of its own proves it: a client secret or an outside issuer does"
    ),
    Strength.BORROWED: _Rating(
        20, Assurance.LOW, "its selectors can be borrowed by another program under the same uid"
    ),
    Strength.KEY: _Rating(
        25, Assurance.MEDIUM, "a key of its own proves it, wherever that key is kept"
    ),
    Strength.ACCOUNT: _Rating(
        35, Assurance.MEDIUM, "an agent attests the uid of its workload and nothing else"
    ),
    Strength.PROGRAM: _Rating(
        45, Assurance.HIGH, "an agent attests the uid of its workload and its program"
    ),
    Strength.ENCLOSURE: _Rating(
        50, Assurance.HIGH, "an agent attests the systemd unit or container of its workload"
    ),
    Strength.CERTIFIED: _Rating(
        50, Assurance.HIGH, "the certificate of its maker proves which device it is"
    ),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What is registered of an identity, as far as its score is made from it.

    `second_way` says that a registered key lets in whoever has it, beside what an agent attests.
    `first_sight` says that a template made it and nobody registered it by name.
    """

    strength: Strength
    owner: str
    purpose: str
    managed: bool
    created_at: datetime
    second_way: bool = False
    first_sight: bool = False


@dataclass(frozen=True, slots=True)
class Reason:
    """One item of a score: points and why. `evidence` is the id of the evidence behind it, if it
    is one."""

    points: float
    words: str
    evidence: EvidenceId | None = None


@dataclass(frozen=True, slots=True)
class TrustScore:
    """The score of an identity; it is exactly this one until `valid_until`.

    `value` is what the points of all `reasons` come to, rounded down and kept within 0 and 100.
    """

    value: int
    tier: Tier
    reasons: tuple[Reason, ...]
    assurance: Assurance
    valid_until: datetime

    @property
    def points(self) -> float:
        """What all reasons come to, in hundredths, whether or not that is within 0 and 100."""
        return add_points(self.reasons)


def score_identity(standing: Standing, evidence: Iterable[Evidence], now: datetime) -> TrustScore:
    """The score at `now`. It changes by itself: with the identity's age, by whole days since it was
    registered, and with the steps in which evidence fades."""
    days = (now - standing.created_at) // DAY
    changes = [standing.created_at + (days + 1) * DAY]
    reasons = [*_rate_standing(standing, days)]
    praise = []
    for one in evidence:
        points = one.weigh(now)
        if points:
            changes.append(one.find_change(now))
            reason = Reason(points, f"{one.kind}, says {one.source}: {one.reason}", one.id)
            reasons.append(reason)
            if points > 0:
                praise.append(reason)
    over = round(add_points(praise) - MOST_PRAISE, 2)
    if over > 0:
        words = f"all that speaks for it counts {MOST_PRAISE} points at most"
        reasons.append(Reason(-over, words))
    value = min(MOST, max(LEAST, math.floor(add_points(reasons))))
    return TrustScore(
        value,
        name_tier(value),
        tuple(reasons),
        _RATINGS[standing.strength].assurance,
        min(changes),
    )


def name_tier(value: int) -> Tier:
    """The tier of a score."""
    if value >= HIGH_FROM:
        return Tier.HIGH
    return Tier.MEDIUM if value >= MEDIUM_FROM else Tier.LOW


def add_points(reasons: Iterable[Reason]) -> float:
    """What reasons come to, in hundredths."""
    return round(math.fsum(reason.points for reason in reasons), 2)


def _rate_standing(standing: Standing, days: int) -> Iterator[Reason]:
    rating = _RATINGS[standing.strength]
    yield Reason(rating.points, rating.words)
    if standing.second_way:
        yield Reason(SECOND_WAY, "a registered key lets in whoever has it, too")
    if standing.first_sight:
        yield Reason(FIRST_SIGHT, "a template made it at first sight: nobody registered it by name")
    if standing.owner.strip():
        yield Reason(NAMED_OWNER, "it has an owner")
        if is_reachable(standing.owner):
            yield Reason(REACHABLE_OWNER, "its owner can be reached")
    if standing.purpose.strip():
        yield Reason(PURPOSE, "its purpose is said")
    if standing.managed:
        yield Reason(MANAGED, "a manifest keeps it as it was reviewed")
    age = min(MOST_AGE, days // DAYS_A_POINT)
    if age > 0:
        yield Reason(age, f"it is there for {age * DAYS_A_POINT} days or more")


def is_reachable(owner: str) -> bool:
    """Whether an owner looks like an address (name@host, or a link) and not only like a name."""
    name, at, host = owner.strip().rpartition("@")
    if at:
        return bool(name) and bool(host) and " " not in host
    return owner.strip().startswith(("https://", "mailto:"))
