"""Scores of identities: as asked for, bounded, and never older than the snapshot they belong to.

What is kept is the evidence; the score is made from it and from the identity, and made again once
it may have changed by itself.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from troth.core.ids import IdentityId
from troth.identity.identity import Identity, Kind
from troth.identity.selectors import CERTIFIED, find_weakness
from troth.trust.evidence import Evidence
from troth.trust.score import Standing, Strength, TrustScore, score_identity

CAPACITY = 10_000
"""Identities of which the evidence is known."""
RECORDS = 100_000
"""Pieces of evidence of all of them together."""

_ENCLOSURES = frozenset({"systemd:unit", "container:id"})
_PROGRAMS = frozenset({"unix:sha256", "unix:path"})


@dataclass(slots=True)
class _Known:
    """Evidence of one identity; and its score as of `since`, for that revision of the identity."""

    evidence: tuple[Evidence, ...]
    revision: int
    since: datetime
    score: TrustScore


class Standings:
    """The scores that were asked for last, each dropped when the journal says it changed.

    Evidence is read from the store while the journal moves on. So it is kept only if none of that
    identity was journaled after the epoch at which the reading began.
    """

    def __init__(self, capacity: int = CAPACITY, records: int = RECORDS) -> None:
        self._capacity = capacity
        self._room = records
        self._known: OrderedDict[IdentityId, _Known] = OrderedDict()
        self._changed: OrderedDict[IdentityId, int] = OrderedDict()
        self._floor = 0

    def find(self, identity: Identity, now: datetime) -> TrustScore | None:
        """The score at `now`, or None if the evidence must be read from the store."""
        known = self._known.get(identity.id)
        if known is None:
            return None
        self._known.move_to_end(identity.id)
        if not (
            known.since <= now < known.score.valid_until and known.revision == identity.revision
        ):
            known.score = score_identity(describe_standing(identity), known.evidence, now)
            known.since, known.revision = now, identity.revision
        return known.score

    def remember(
        self, identity: Identity, evidence: tuple[Evidence, ...], epoch: int, now: datetime
    ) -> TrustScore:
        """The score at `now`; the evidence, which was read at `epoch` or later, is kept unless it
        may have changed since."""
        score = score_identity(describe_standing(identity), evidence, now)
        if epoch >= self._floor and epoch >= self._changed.get(identity.id, 0):
            self.forget(identity.id)
            self._known[identity.id] = _Known(evidence, identity.revision, now, score)
            self._room -= len(evidence)
            while len(self._known) > self._capacity or self._room < 0:
                self.forget(next(iter(self._known)))
        return score

    def drop(self, identity_id: IdentityId, position: int) -> None:
        """The journal says at `position` that there is other evidence of the identity."""
        self.forget(identity_id)
        self._changed[identity_id] = position
        self._changed.move_to_end(identity_id)
        if len(self._changed) > self._capacity:
            _, self._floor = self._changed.popitem(last=False)

    def forget(self, identity_id: IdentityId) -> None:
        """Forget what is known of an identity; it is read again if it is asked for."""
        known = self._known.pop(identity_id, None)
        if known is not None:
            self._room += len(known.evidence)

    def clear(self, epoch: int) -> None:
        """Forget everything; nothing read before `epoch` will be kept."""
        while self._known:
            self.forget(next(iter(self._known)))
        self._changed.clear()
        self._floor = epoch


def describe_standing(identity: Identity) -> Standing:
    """What an identity's score is made from, besides evidence."""
    strength = rate_attestation(identity)
    registered = bool(identity.client.keys or identity.client.certificates)
    return Standing(
        strength=strength,
        owner=identity.owner,
        purpose=identity.purpose,
        managed=identity.managed,
        created_at=identity.created_at,
        second_way=registered and strength is not Strength.KEY,
        first_sight=bool(identity.template),
    )


def rate_attestation(identity: Identity) -> Strength:
    """How those who may hold an identity are told from everybody else."""
    keys = {selector.key for selector in identity.selectors}
    if not keys:
        enrolled = identity.kind is Kind.DEVICE  # by a code, with a key that it made itself
        registered = identity.client.keys or identity.client.certificates
        return Strength.KEY if enrolled or registered else Strength.NOTHING
    if find_weakness(identity.selectors) is not None:
        return Strength.BORROWED
    if keys & set(CERTIFIED):
        return Strength.CERTIFIED
    if keys & _ENCLOSURES:
        return Strength.ENCLOSURE
    return Strength.PROGRAM if keys & _PROGRAMS else Strength.ACCOUNT
