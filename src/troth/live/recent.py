"""What changed lately about who must be refused: a bounded memory that streams take deltas from."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from troth.core.events import SealedEvent
from troth.identity.identity import State
from troth.issuance.profiles import JWT_TTL_CEILING

CAPACITY = 10_000
CUT_OFF = frozenset({State.SUSPENDED, State.QUARANTINED})
"""States in which whatever an identity still holds must be refused."""


class About(Enum):
    """What a change is about."""

    IDENTITY = "identity"
    CERTIFICATE = "certificate"
    AUTHORITY = "authority"


@dataclass(frozen=True, slots=True)
class Change:
    """One change at a position of the journal.

    `key` is a SPIFFE ID, a serial or a key identifier (hex); `until` is when nothing of it can live
    any more, and None for an identity that isn't at its end. `state` is an identity's.
    """

    position: int
    about: About
    key: str
    until: datetime | None = None
    state: State | None = None

    @property
    def refused(self) -> bool:
        """Whether what it is about must be refused from here on."""
        return self.state is None or self.state in CUT_OFF or self.state is State.RETIRED


def read_change(sealed: SealedEvent) -> Change | None:
    """What an event says about who must be refused; None if nothing."""
    kind, body = sealed.event.type, sealed.event.body
    if kind.startswith("identity."):
        state = State(body["state"])
        # What a retired identity was given can live no longer than this; certificates are revoked.
        until = sealed.event.at + JWT_TTL_CEILING if state is State.RETIRED else None
        return Change(sealed.position, About.IDENTITY, str(body["spiffe_id"]), until, state)
    if kind == "certificate.revoked":
        end = datetime.fromisoformat(str(body["not_after"]))
        return Change(sealed.position, About.CERTIFICATE, str(body["serial"]), end)
    if kind == "authority.revoked":
        end = datetime.fromisoformat(str(body["not_after"]))
        return Change(sealed.position, About.AUTHORITY, str(body["key_id"]), end)
    return None


def mark_event(sealed: SealedEvent) -> str:
    """What tells this event from any other at the same position of another journal.

    A server that was restored from a backup counts on from an earlier position, with other events.
    """
    event = sealed.event
    words = f"{sealed.position}\n{event.type}\n{event.at.isoformat()}\n{event.request_id}"
    return hashlib.sha256(words.encode()).hexdigest()[:32]


class RecentChanges:
    """The last changes, in order; complete for whoever knows all up to `floor` or later."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._changes: deque[Change] = deque()
        self._capacity = capacity
        self.floor = 0

    def clear(self, epoch: int) -> None:
        """Forget everything: from here on there is an answer for `epoch` and later."""
        self._changes.clear()
        self.floor = epoch

    def note(self, change: Change) -> None:
        """Keep a change; the oldest goes when there are too many."""
        self._changes.append(change)
        if len(self._changes) > self._capacity:
            self.floor = self._changes.popleft().position

    def since(self, epoch: int) -> list[Change] | None:
        """What changed after `epoch`, in order; None if that isn't known any more."""
        if epoch < self.floor:
            return None
        found: list[Change] = []
        for change in reversed(self._changes):
            if change.position <= epoch:
                break
            found.append(change)
        return found[::-1]
