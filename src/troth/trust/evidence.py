"""Evidence: what somebody holds for or against an identity, and how it fades.

A contribution halves with each half-life. It falls in steps, so that a score that was made from it
stays exactly the same for a while that is known in advance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.core.ids import EvidenceId, IdentityId

MOST_WEIGHT = 100
"""Points of the heaviest evidence, for or against."""

SHORTEST_HALF_LIFE = timedelta(minutes=1)
LONGEST_HALF_LIFE = timedelta(days=3650)

STEPS = 64
"""Steps in which a contribution falls to its half: by about 1 % each."""

SHORTEST_STEP = timedelta(seconds=1)

NEGLIGIBLE = 0.5
"""What contributes fewer points than this counts no more."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something that speaks for an identity (`weight` > 0) or against it (< 0), in points.

    `source` says where it comes from and `kind`, a word, what sort of thing was seen. It counts in
    full at `at` and half as much one `half_life` later. `added_by` is the caller that added it.
    """

    id: EvidenceId
    identity_id: IdentityId
    source: str
    kind: str
    weight: int
    half_life: timedelta
    at: datetime
    reason: str
    added_by: str

    @property
    def step(self) -> timedelta:
        """For how long its contribution stays the same."""
        return max(self.half_life / STEPS, SHORTEST_STEP)

    @property
    def ends_at(self) -> datetime:
        """From when on it counts no more."""
        return self.at + self._count_all_steps() * self.step

    def weigh(self, now: datetime) -> float:
        """The points that it contributes at `now`, in hundredths; 0.0 once they are negligible.

        Before `at` (its clock may be ahead of ours) it counts in full.
        """
        left = self._weigh_step(self._count_steps(now))
        return 0.0 if abs(left) < NEGLIGIBLE else round(left, 2)

    def find_change(self, now: datetime) -> datetime:
        """When `weigh` may answer something else next, after `now`."""
        return self.at + (self._count_steps(now) + 1) * self.step

    def _count_steps(self, now: datetime) -> int:
        return max(0, (now - self.at) // self.step)

    def _weigh_step(self, number: int) -> float:
        return float(self.weight * 2.0 ** -((number * self.step) / self.half_life))

    def _count_all_steps(self) -> int:
        """After how many steps it is negligible: what the logarithm says, and the rounding of
        floating-point numbers put right."""
        if abs(self.weight) < NEGLIGIBLE:
            return 0
        halves = math.log2(abs(self.weight) / NEGLIGIBLE)
        number = max(0, int(halves * (self.half_life / self.step)) - 1)
        while abs(self._weigh_step(number)) >= NEGLIGIBLE:
            number += 1
        return number
