"""How much an identity is relied on now: from memory where it is known, else from the store."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from troth.core.clock import Clock
from troth.core.tier import Tier, lower_tier
from troth.identity.identity import Identity
from troth.live.snapshot import Snapshot
from troth.operations.client import Proven
from troth.store.engine import Store
from troth.trust.proof import rate_proof
from troth.trust.score import TrustScore


def find_standing(snapshot: Snapshot, clock: Clock, identity: Identity) -> TrustScore | None:
    """The score of an identity as of now, from memory alone; None if its evidence must be read."""
    return snapshot.trust.find(identity, clock.now())


async def read_standing(
    store: Store, snapshot: Snapshot, clock: Clock, identity: Identity
) -> TrustScore:
    """The score of an identity as of now."""
    found = find_standing(snapshot, clock, identity)
    if found is not None:
        return found
    epoch = snapshot.epoch
    evidence = await store.read(lambda tx: tx.evidence.list(identity.id))
    return snapshot.trust.remember(identity, evidence, epoch, clock.now())


def find_lowest_tier(
    snapshot: Snapshot, clock: Clock, identities: Iterable[Identity]
) -> Tier | None:
    """As `read_lowest_tier`, from memory alone; None if evidence must be read."""
    lowest, now = Tier.HIGH, clock.now()
    for identity in identities:
        score = snapshot.trust.find(identity, now)
        if score is None:
            return None
        lowest = lower_tier(lowest, score.tier)
    return lowest


async def read_lowest_tier(
    store: Store, snapshot: Snapshot, clock: Clock, identities: Collection[Identity]
) -> Tier:
    """The lowest tier of these identities as of now: a chain holds as its weakest link does.

    Where evidence must be read, that of all is read at once. The highest tier if there is nobody.
    """
    found = find_lowest_tier(snapshot, clock, identities)
    if found is not None:
        return found
    epoch = snapshot.epoch
    ids = [identity.id for identity in identities]
    evidence = await store.read(lambda tx: tx.evidence.list_all(ids))
    lowest, now = Tier.HIGH, clock.now()
    for identity in identities:
        score = snapshot.trust.remember(identity, evidence[identity.id], epoch, now)
        lowest = lower_tier(lowest, score.tier)
    return lowest


async def rate_client(
    store: Store, snapshot: Snapshot, clock: Clock, client: Proven, subject: Identity
) -> Tier:
    """How much is relied on a client that asks on behalf of `subject`, perhaps itself: as on the
    less of the two, and no more than its proof says."""
    parties = (client.identity,) if client.identity is subject else (client.identity, subject)
    standing = await read_lowest_tier(store, snapshot, clock, parties)
    return lower_tier(rate_proof(client.method), standing)
