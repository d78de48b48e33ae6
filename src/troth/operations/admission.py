"""Admission: whether a running copy, for which its node asks, may hold a credential now.

It is asked in the transaction that records the intent and again in the one that records the
result, so that a change of state between them is seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.core.clock import Clock
from troth.core.errors import Denied, Refused, TrothError
from troth.core.ids import IdentityId, InstanceId, NodeId
from troth.identity.identity import Identity, Instance
from troth.identity.lifecycle import may_hold_credentials
from troth.identity.selectors import Selector, match_selectors
from troth.issuance.profiles import MIN_TTL
from troth.live.snapshot import Snapshot
from troth.operations.call import Caller
from troth.store.engine import Store
from troth.store.records import Node, NodeState
from troth.store.transaction import Transaction
from troth.wire.api import certificates as wire


def require_node(caller: Caller) -> NodeId:
    """The calling node's id; `Denied` for anybody else."""
    if caller.node_id is None:
        raise Denied("Only an attested node may ask for this; join with 'troth agent'.")
    return caller.node_id


def admit_node(tx: Transaction, caller: Caller) -> Node:
    """The calling node, if it is active and its certificate stands, in this very transaction.

    A node that joined anew or was evicted a moment ago may still have a call under way.
    """
    node = tx.nodes.get(require_node(caller))
    certificate = tx.certificates.find(caller.serial)
    revoked = certificate is None or certificate.revoked_at is not None
    if node.state is not NodeState.ACTIVE or revoked:
        raise Denied(f"Node {node.name} was evicted or has joined anew; join with 'troth agent'.")
    return node


def limit_ttl(ttl: timedelta, identity: Identity, now: datetime) -> timedelta:
    """`ttl`, cut so that nothing outlives its identity; the guards refuse what has expired."""
    return max(min(ttl, identity.expires_at - now), MIN_TTL)


async def read_identities(
    store: Store, snapshot: Snapshot, wanted: Iterable[str]
) -> dict[IdentityId, Identity]:
    """Facts to plan with, live where they are known; the guards look at the store itself."""
    facts, epoch = snapshot.facts, snapshot.epoch
    ids = {IdentityId(text) for text in wanted}
    known = {i: identity for i in ids if (identity := facts.find(i)) is not None}
    missing = ids - known.keys()
    if missing:
        found = await store.read(lambda tx: tx.identities.find_all(missing))
        for identity in found.values():
            facts.remember(identity, epoch)
        known.update(found)
    return known


def name_instance(node_id: NodeId, identity_id: IdentityId, key: str) -> InstanceId:
    """The id of one running copy: the same process of the same node gets the same one."""
    text = f"{node_id}\0{identity_id}\0{key}".encode()
    return InstanceId(f"ins_{hashlib.sha256(text).hexdigest()[:24]}")


@dataclass(frozen=True, slots=True)
class Claim:
    """A running copy's claim to a credential of one identity, with what its node attested."""

    identity_id: IdentityId
    instance_id: InstanceId
    pid: int
    evidence: tuple[str, ...]
    attested: frozenset[Selector]


def read_claim(node_id: NodeId, identity_id: IdentityId, claim: wire.InstanceClaim) -> Claim:
    """The claim of `node_id` for one of its processes; `Invalid` for a malformed selector."""
    return Claim(
        identity_id=identity_id,
        instance_id=name_instance(node_id, identity_id, claim.key),
        pid=claim.pid,
        evidence=tuple(claim.selectors),
        attested=frozenset(map(Selector.parse, claim.selectors)),
    )


@dataclass(frozen=True, slots=True)
class Admission:
    """What claims are judged by, each fact read once in a transaction; gone with it."""

    node: Node
    identities: Mapping[IdentityId, Identity]
    locked: frozenset[InstanceId]
    now: datetime

    def check(self, claim: Claim) -> Identity:
        """The identity, if this copy may hold its credentials; else `Denied` with the reason.

        The node attested the selectors; that they are the ones registered is checked here again,
        so that an agent's mistake gives nothing away.
        """
        node, identity = self.node, self.identities.get(claim.identity_id)
        if identity is None or not (node.name in identity.nodes or "*" in identity.nodes):
            raise Denied(f"Node {node.name} holds no identity {claim.identity_id!r:.60}.")
        if not may_hold_credentials(identity, self.now):
            state = "expired" if identity.expires_at <= self.now else identity.state.value
            raise Denied(f"'{identity.name}' may hold no credentials: it is {state}.")
        if not claim.attested.issuperset(identity.selectors) or not identity.selectors:
            match = match_selectors(identity.selectors, claim.attested)
            missing = ", ".join(map(str, match.missing)) or "any selector"
            raise Denied(f"'{identity.name}' needs {missing}, which was not attested.")
        if claim.instance_id in self.locked:
            raise Denied(f"Instance {claim.instance_id} of '{identity.name}' is locked.")
        return identity


def open_admission(
    tx: Transaction, caller: Caller, claims: Sequence[Claim], now: datetime
) -> Admission:
    """What is true for `claims` in this transaction; `Denied` if the node may ask for nothing."""
    node = admit_node(tx, caller)
    return Admission(
        node=node,
        identities=tx.identities.find_all({claim.identity_id for claim in claims}),
        locked=tx.instances.list_locked(node.id),
        now=now,
    )


def note_instances(
    tx: Transaction, node_id: NodeId, claims: Iterable[Claim], now: datetime
) -> None:
    """Record that these copies live, with what their node says of them."""
    tx.instances.upsert_all(
        Instance(
            id=claim.instance_id,
            identity_id=claim.identity_id,
            node_id=node_id,
            pid=claim.pid,
            evidence=claim.evidence,
            locked=False,
            locked_reason="",
            first_seen=now,
            last_seen=now,
        )
        for claim in claims
    )


@dataclass(frozen=True, slots=True)
class ClaimGuard:
    """Admits each claim of a batch by itself, in both transactions of an issuance.

    `planned` holds the identities that the credentials were planned from, and `facts` is what of
    an identity goes into one: where that has changed meanwhile, the claim is refused.
    """

    caller: Caller
    clock: Clock
    claims: Sequence[Claim]
    planned: Mapping[IdentityId, Identity]
    facts: Callable[[Identity], object]

    def __call__(
        self, tx: Transaction, numbers: Iterable[int], *, first: bool
    ) -> dict[int, TrothError]:
        """The refusals by number; what is admitted at `first` is noted as living."""
        claims = {number: self.claims[number] for number in numbers}
        now = self.clock.now()
        try:
            admission = open_admission(tx, self.caller, list(claims.values()), now)
        except TrothError as refusal:
            return dict.fromkeys(claims, refusal)
        refusals: dict[int, TrothError] = {}
        for number, claim in claims.items():
            try:
                identity, planned = admission.check(claim), self.planned[claim.identity_id]
                if self.facts(identity) != self.facts(planned):
                    raise Refused(f"'{identity.name}' was changed just now; ask again.")
            except TrothError as refusal:
                refusals[number] = refusal
        if first:
            admitted = [claim for number, claim in claims.items() if number not in refusals]
            note_instances(tx, admission.node.id, admitted, now)
        return refusals
