"""Whether somebody still uses an identity that a template made, and what follows if nobody does.

Its end is a moment that is put off for as long as its workload is seen, so that it ends by itself
when nothing is done: attended → unattended (half the span has passed) → expired (the whole of it)
→ retired (after the grace). Looking again costs one write in half a span.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from troth.core.ids import IdentityId, NodeId
from troth.identity.identity import Identity, State


class Phase(StrEnum):
    """How it stands; `retired` is what this clockwork did, `ended` what somebody else did."""

    ATTENDED = "attended"
    UNATTENDED = "unattended"
    EXPIRED = "expired"
    RETIRED = "retired"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Sighting:
    """The record of a workload that was met: `binding` is the digest of its `Binding`.

    `due_at` is when to look again; `ends_at` the end that nothing puts off. `span` and `grace` are
    the template's at the last look, since it may be gone by the next.
    """

    identity_id: IdentityId
    template: str
    binding: str
    node_id: NodeId
    phase: Phase
    seen_at: datetime
    due_at: datetime
    ends_at: datetime
    span: timedelta
    grace: timedelta
    created_at: datetime


class Step(StrEnum):
    """What a look leads to."""

    NOTHING = "nothing"
    EXTEND = "extend"
    WARN = "warn"
    EXPIRE = "expire"
    RETIRE = "retire"


@dataclass(frozen=True, slots=True)
class Look:
    """The step to take, the phase and the time of the next look; `expires_at` after an `EXTEND`."""

    step: Step
    phase: Phase
    due_at: datetime
    reason: str = ""
    expires_at: datetime | None = None


def find_end(seen: datetime, span: timedelta, ends_at: datetime) -> datetime:
    """When an identity that was seen at `seen` ends unless it is seen again."""
    return min(seen + span, ends_at)


def look_after(
    identity: Identity,
    sighting: Sighting,
    seen: datetime,
    *,
    covered: bool,
    now: datetime,
    locked: bool = False,
) -> Look:
    """What to do about an identity at `now`, seen last at `seen`.

    `covered` is whether its template is still there and still fits it; if not, nothing puts its
    end off any more. What an operator cut off stays as it is, and never comes back by itself;
    `locked` is whether that was done to a copy of it.
    """
    if identity.state is State.RETIRED or identity.template != sighting.template:
        return Look(Step.NOTHING, Phase.ENDED, sighting.due_at)
    held = locked or identity.state not in (State.ACTIVE, State.PROPOSED)
    if now >= sighting.ends_at:
        phase = Phase.ENDED if held else Phase.RETIRED
        return Look(Step.RETIRE, phase, now, f"its time was over at {sighting.ends_at.isoformat()}")
    soon = now + sighting.span / 8
    seen = min(seen, now)  # a clock that was ahead once proves nothing about the future
    half = sighting.span / 2
    used = covered and locked and identity.state is State.ACTIVE and now - seen < half
    if held and not used:
        return Look(Step.NOTHING, sighting.phase, min(soon, sighting.ends_at))
    if covered and now - seen < half:
        end = find_end(seen, sighting.span, sighting.ends_at)
        due = min(max(seen + half, soon), sighting.ends_at)
        if end > identity.expires_at:
            return Look(Step.EXTEND, Phase.ATTENDED, due, expires_at=end)
        return Look(Step.NOTHING, Phase.ATTENDED, due)
    if now < identity.expires_at:
        step = Step.WARN if sighting.phase is Phase.ATTENDED else Step.NOTHING
        due = min(soon, identity.expires_at)
        return Look(step, Phase.UNATTENDED, due, _explain(seen, covered=covered))
    if sighting.phase is not Phase.EXPIRED:
        reason = _explain(seen, covered=covered)
        return Look(Step.EXPIRE, Phase.EXPIRED, now + sighting.grace, reason)
    return Look(Step.RETIRE, Phase.RETIRED, now, f"unattended: {_explain(seen, covered=covered)}")


def _explain(seen: datetime, *, covered: bool) -> str:
    words = f"its workload was seen last at {seen.isoformat()}"
    return words if covered else f"{words}, and no template covers it any more"
