"""The life cycle: which state may follow which, by which verb.

proposed → active ⇄ suspended; either → quarantined → what it was before; and everything ends in
retired, from which nothing returns. A release gives back no more than the quarantine took, so
whoever may cut off and release can't activate what was only proposed or resume what was suspended.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from troth.core.errors import Refused
from troth.identity.identity import Identity, State

TRANSITIONS: dict[str, tuple[frozenset[State], State]] = {
    "activate": (frozenset({State.PROPOSED}), State.ACTIVE),
    "suspend": (frozenset({State.ACTIVE}), State.SUSPENDED),
    "resume": (frozenset({State.SUSPENDED}), State.ACTIVE),
    "quarantine": (frozenset({State.ACTIVE, State.SUSPENDED}), State.QUARANTINED),
    "release": (frozenset({State.QUARANTINED}), State.ACTIVE),
    "retire": (
        frozenset({State.PROPOSED, State.ACTIVE, State.SUSPENDED, State.QUARANTINED}),
        State.RETIRED,
    ),
}
"""verb → (states it may start from, state it leads to); a release leads to where it was before."""

PAST = {
    "activate": "activated",
    "suspend": "suspended",
    "resume": "resumed",
    "quarantine": "quarantined",
    "release": "released",
    "retire": "retired",
}
"""verb → the past tense that names its event (``identity.quarantined``)."""


def move_identity(identity: Identity, verb: str, reason: str, now: datetime) -> Identity:
    """The identity after `verb`; raises `Refused` that names what is possible instead."""
    sources, target = TRANSITIONS[verb]
    if identity.state not in sources:
        possible = [v for v, (froms, _) in TRANSITIONS.items() if identity.state in froms]
        hint = f"possible now: {', '.join(possible)}" if possible else "nothing can follow it"
        raise Refused(f"Can't {verb} '{identity.name}': it is {identity.state.value}; {hint}.")
    before = identity.state if verb == "quarantine" else None
    if verb == "release" and identity.state_before is not None:
        target = identity.state_before
    return replace(
        identity,
        state=target,
        state_before=before,
        state_reason=reason,
        revision=identity.revision + 1,
        updated_at=now,
    )


def may_hold_credentials(identity: Identity, now: datetime) -> bool:
    """Whether anything may be issued to the identity: active and not past its expiry."""
    return identity.state is State.ACTIVE and now < identity.expires_at
