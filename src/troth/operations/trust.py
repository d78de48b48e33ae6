"""Trust: who is relied on how much and why, and the evidence that callers add and take back.

What is added counts as soon as it is journaled: the snapshot of every server drops what it knew of
that identity and reads it again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Invalid, Refused
from troth.core.ids import EvidenceId, new_ordered_id
from troth.identity.identity import Identity, State
from troth.live.trust import describe_standing
from troth.operations.call import Call
from troth.operations.recording import record_event
from troth.operations.target import target_of
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.trust.evidence import Evidence
from troth.trust.score import TrustScore, score_identity
from troth.wire.api import trust as wire

MOST_EVIDENCE = 256
"""Pieces that count for one identity at a time."""

BATCH = 500


@dataclass(frozen=True, slots=True)
class AddEvidence:
    """``trust.add``: something that speaks for an identity or against it."""

    store: Store
    clock: Clock
    entropy: Entropy

    async def __call__(self, call: Call[wire.AddEvidence]) -> wire.EvidenceAdded:
        """The score with it; `Refused` for a retired identity, or if there is too much already."""
        body, now = call.body, self.clock.now()
        if body.weight == 0:
            raise Invalid("weight: 0 changes nothing; give points from -100 to 100.")
        evidence_id = EvidenceId(new_ordered_id("evd", now, self.entropy))

        def add(tx: Transaction) -> wire.EvidenceAdded:
            identity = tx.identities.get_named(body.name)
            call.gate.check(target_of(identity))
            if identity.state is State.RETIRED:
                raise Refused(f"The identity '{identity.name}' is retired: nobody relies on it.")
            if tx.evidence.count_living(identity.id, now) >= MOST_EVIDENCE:
                raise Refused(
                    f"There are {MOST_EVIDENCE} pieces of evidence about '{identity.name}' already;"
                    " withdraw what is out of date. To cut it off at once: `troth identity "
                    f"quarantine {identity.name}`."
                )
            evidence = Evidence(
                id=evidence_id,
                identity_id=identity.id,
                source=body.origin,
                kind=body.kind,
                weight=body.weight,
                half_life=timedelta(seconds=body.half_life),
                at=now,
                reason=body.reason,
                added_by=call.caller.principal,
            )
            tx.evidence.add(evidence)
            record_event(
                tx,
                call,
                "evidence.added",
                str(identity.spiffe_id),
                now,
                reason=body.reason,
                **_describe(evidence, identity),
            )
            return wire.EvidenceAdded(id=evidence_id, trust=_show(tx, identity, now))

        return await self.store.transact(add)


@dataclass(frozen=True, slots=True)
class WithdrawEvidence:
    """``trust.withdraw``: evidence that turned out to be wrong, or is answered."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.WithdrawEvidence]) -> wire.TrustView:
        """The score without it; `NotFound` if it was withdrawn before or counts no more."""
        now = self.clock.now()

        def withdraw(tx: Transaction) -> wire.TrustView:
            evidence = tx.evidence.get(call.body.id)
            identity = tx.identities.get(evidence.identity_id)
            call.gate.check(target_of(identity))
            tx.evidence.withdraw(evidence.id)
            record_event(
                tx,
                call,
                "evidence.withdrawn",
                str(identity.spiffe_id),
                now,
                reason=call.body.reason,
                **_describe(evidence, identity),
            )
            return _show(tx, identity, now)

        return await self.store.transact(withdraw)


@dataclass(frozen=True, slots=True)
class ShowTrust:
    """``trust.show``: the score of one identity, itemised."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.NameTrust]) -> wire.TrustView:
        """As of now; `NotFound` if no identity has that name."""
        now = self.clock.now()

        def show(tx: Transaction) -> wire.TrustView:
            identity = tx.identities.get_named(call.body.name)
            call.gate.check(target_of(identity))
            return _show(tx, identity, now)

        return await self.store.read(show)


@dataclass(frozen=True, slots=True)
class ListTrust:
    """``trust.ls``: who is relied on least. Scores are made when they are asked for, so a page
    reads all living identities, in batches, and keeps no more than it shows."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.ListTrust]) -> wire.TrustPage:
        """The lowest first, and by name among equals."""
        limit, now = call.body.limit, self.clock.now()
        start = _read_place(call.body.after)
        lowest: list[wire.TrustItem] = []
        after: str | None = None
        while True:
            name, found = await self.store.read(
                lambda tx, after=after: _rate_batch(tx, call, after, now)  # type: ignore[misc]
            )
            following = (item for item in found if start is None or _order(item) > start)
            lowest = heapq.nsmallest(limit, (*lowest, *following), key=_order)
            if name is None:
                break
            after = name
        last = f"{lowest[-1].score}:{lowest[-1].name}" if len(lowest) == limit else None
        return wire.TrustPage(items=lowest, next=last)


def _rate_batch(
    tx: Transaction, call: Call[Any], after: str | None, now: datetime
) -> tuple[str | None, list[wire.TrustItem]]:
    """The scores of some living identities that the caller may see, and the name after which there
    may be more."""
    page = tx.identities.page(living=True, after=after, limit=BATCH)
    seen = [one for one in page if call.gate.allows(target_of(one))]
    evidence = tx.evidence.list_all(one.id for one in seen)
    items = [_summarise(one, evidence[one.id], now) for one in seen]
    return (page[-1].name if len(page) == BATCH else None), items


def _order(item: wire.TrustItem) -> tuple[int, str]:
    return item.score, item.name


def _read_place(after: str | None) -> tuple[int, str] | None:
    if after is None:
        return None
    score, _, name = after.partition(":")
    return int(score), name


def _summarise(identity: Identity, evidence: Iterable[Evidence], now: datetime) -> wire.TrustItem:
    score = score_identity(describe_standing(identity), evidence, now)
    return wire.TrustItem(
        name=identity.name,
        spiffe_id=str(identity.spiffe_id),
        owner=identity.owner,
        score=score.value,
        tier=score.tier.value,
        assurance=score.assurance.value,
        evidence=sum(reason.evidence is not None for reason in score.reasons),
    )


def _show(tx: Transaction, identity: Identity, now: datetime) -> wire.TrustView:
    evidence = tx.evidence.list(identity.id)
    score = score_identity(describe_standing(identity), evidence, now)
    return _view(identity, score, evidence, now)


def _view(
    identity: Identity, score: TrustScore, evidence: Iterable[Evidence], now: datetime
) -> wire.TrustView:
    return wire.TrustView(
        name=identity.name,
        spiffe_id=str(identity.spiffe_id),
        owner=identity.owner,
        score=score.value,
        tier=score.tier.value,
        assurance=score.assurance.value,
        points=score.points,
        reasons=[
            wire.ReasonView(points=one.points, words=one.words, evidence=one.evidence or "")
            for one in score.reasons
        ],
        evidence=list(_list_evidence(evidence, now)),
        valid_until=score.valid_until,
    )


def _list_evidence(evidence: Iterable[Evidence], now: datetime) -> Iterator[wire.EvidenceView]:
    """What still counts."""
    for one in evidence:
        left = one.weigh(now)
        if left:
            yield wire.EvidenceView(
                id=one.id,
                origin=one.source,
                kind=one.kind,
                weight=one.weight,
                half_life=int(one.half_life.total_seconds()),
                left=left,
                at=one.at,
                ends_at=one.ends_at,
                reason=one.reason,
                added_by=one.added_by,
            )


def _describe(evidence: Evidence, identity: Identity) -> dict[str, Any]:
    """What the journal says of evidence: all that is needed to recompute what it contributes."""
    return {
        "id": evidence.id,
        "identity_id": identity.id,
        "name": identity.name,
        "spiffe_id": str(identity.spiffe_id),
        "origin": evidence.source,
        "kind": evidence.kind,
        "weight": evidence.weight,
        "half_life": int(evidence.half_life.total_seconds()),
        "added_at": evidence.at.isoformat(),
        "ends_at": evidence.ends_at.isoformat(),
    }
