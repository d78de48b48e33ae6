"""What changed lately about who must be refused: a bounded memory that streams take deltas from."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from troth.core.events import SealedEvent
from troth.identity.identity import State
from troth.issuance.authorities import TOKEN_ALGORITHMS
from troth.issuance.profiles import JWT_TTL_CEILING

CAPACITY = 10_000
CUT_OFF = frozenset({State.SUSPENDED, State.QUARANTINED})
"""States in which whatever an identity still holds must be refused."""


_LET_BACK = frozenset({"identity.released", "identity.resumed"})


class About(Enum):
    """What a change is about."""

    IDENTITY = "identity"
    CERTIFICATE = "certificate"
    AUTHORITY = "authority"
    TOKEN = "token"  # noqa: S105 - a name
    BEARER = "bearer"


@dataclass(frozen=True, slots=True)
class Change:
    """One change at a position of the journal.

    `key` is a SPIFFE ID, an instance's id, a serial, a key identifier or a token's ``jti``; `until`
    is when nothing of it can live any more, and None for an identity that isn't at its end. `state`
    is an identity's. Tokens of `key`, an identity or an instance, that were issued up to `since`
    are refused, whatever its state.
    """

    position: int
    about: About
    key: str
    until: datetime | None = None
    state: State | None = None
    since: datetime | None = None

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
        # Whoever is let back starts with new tokens; so does who gets a retired one's name.
        since = sealed.event.at if state is State.RETIRED or kind in _LET_BACK else None
        return Change(sealed.position, About.IDENTITY, str(body["spiffe_id"]), until, state, since)
    if kind == "certificate.revoked":
        end = datetime.fromisoformat(str(body["not_after"]))
        return Change(sealed.position, About.CERTIFICATE, str(body["serial"]), end)
    if kind == "authority.revoked" or (
        kind == "authority.tainted" and body.get("use") in TOKEN_ALGORITHMS
    ):
        end = datetime.fromisoformat(str(body["not_after"]))
        return Change(sealed.position, About.AUTHORITY, str(body["key_id"]), end)
    return _read_token(sealed) if kind == "token.revoked" else None


def _read_token(sealed: SealedEvent) -> Change:
    """One token by its ``jti``, or all that were issued up to a moment to an identity, or to one
    running copy."""
    body = sealed.event.body
    end = datetime.fromisoformat(str(body["expires_at"]))
    if "jti" in body:
        return Change(sealed.position, About.TOKEN, str(body["jti"]), end)
    since = datetime.fromisoformat(str(body["issued_until"]))
    holder = str(body["instance"] if "instance" in body else body["spiffe_id"])
    return Change(sealed.position, About.BEARER, holder, end, None, since)


@dataclass(frozen=True, slots=True)
class Difference:
    """What several changes come to: who is cut off by now and who no longer, which serials, keys
    and tokens must be refused until when (whole seconds of the Unix epoch), and until when
    (likewise) whose tokens were issued that must be. Shared, so nobody changes it."""

    cut_off: Mapping[str, str]
    restored: Sequence[str]
    revoked: Mapping[str, int]
    distrusted: Mapping[str, int]
    tokens: Mapping[str, int] = field(default_factory=dict)
    issued_until: Mapping[str, int] = field(default_factory=dict)


def sum_up(changes: Iterable[Change]) -> Difference:
    """The changes as one: of several about one thing the last counts."""
    changes = list(changes)
    last = {(change.about, change.key): change for change in changes}
    people = [change for change in last.values() if change.about is About.IDENTITY]
    ends = {about: _list_ends(last.values(), about) for about in About}
    return Difference(
        cut_off={c.key: c.state.value for c in people if c.refused and c.state is not None},
        restored=[c.key for c in people if not c.refused],
        revoked=ends[About.CERTIFICATE],
        distrusted=ends[About.AUTHORITY],
        tokens=ends[About.TOKEN],
        # Of all of them: what comes after a release doesn't undo that it was one.
        issued_until=latest((c.key, c.since) for c in changes if c.since is not None),
    )


def latest(moments: Iterable[tuple[str, datetime]]) -> dict[str, int]:
    """The last moment of each, as the whole second of the Unix epoch that it lies in."""
    found: dict[str, int] = {}
    for key, moment in moments:
        found[key] = max(found.get(key, 0), int(moment.timestamp()))
    return found


def _list_ends(changes: Iterable[Change], about: About) -> dict[str, int]:
    return count_seconds((c.key, c.until) for c in changes if c.about is about and c.until)


def count_seconds(ends: Iterable[tuple[str, datetime]]) -> dict[str, int]:
    """Expiry as whole seconds of the Unix epoch, rounded up: never forgotten too early."""
    return {key: int(end.timestamp()) + 1 for key, end in ends}


def mark_event(sealed: SealedEvent) -> str:
    """What tells this event from any other at the same position of another journal.

    A server that was restored from a backup counts on from an earlier position, with other events.
    """
    event = sealed.event
    words = f"{sealed.position}\n{event.type}\n{event.at.isoformat()}\n{event.request_id}"
    return hashlib.sha256(words.encode()).hexdigest()[:32]


NOTHING = Difference({}, [], {}, {})
"""No change at all."""


class RecentChanges:
    """The last changes, in order; complete for whoever knows all up to `floor` or later."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._changes: deque[Change] = deque()
        self._capacity = capacity
        self._summed: tuple[tuple[int, int], Difference] | None = None
        self.floor = 0

    def clear(self, epoch: int) -> None:
        """Forget everything: from here on there is an answer for `epoch` and later."""
        self._changes.clear()
        self._summed = None
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

    def sum_since(self, epoch: int) -> Difference | None:
        """What `since` answers as one value, or None as there; the same for all who ask alike.

        A thousand streams that wait for the same change are told by one value.
        """
        changes = self.since(epoch)
        if not changes:
            return None if changes is None else NOTHING
        place = (changes[0].position, changes[-1].position)
        if self._summed is None or self._summed[0] != place:
            self._summed = (place, sum_up(changes))
        return self._summed[1]
