"""How a machine becomes a node: with a join token, or by the certificate that it was made with.

A name belongs to the way in which its node proved itself. Nobody takes an active node's name in
another way or with a certificate for another key, and who was evicted doesn't come back by a
certificate until an administrator lets them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Denied, Invalid, Limited, Refused
from troth.core.ids import NodeId, TrustDomain, new_id
from troth.identity.x509pop import NODE, Possession, Vouchers, verify_possession
from troth.issuance.csr import parse_csr
from troth.operations.call import Call
from troth.operations.leaf import LeafIssuer
from troth.operations.node import NODE_TTL, certify_node, name_node, view_node
from troth.operations.pacing import Turns
from troth.operations.recording import record_event, record_revocations
from troth.operations.single_use import hash_key
from troth.operations.throttle import Throttle
from troth.operations.token import REMEDY, find_token, parse_token, take_token
from troth.store.engine import Store
from troth.store.records import JoinToken, Node, NodeState
from troth.store.transaction import Transaction
from troth.wire.api import nodes as wire
from troth.wire.api.readmission import ReadmitNode as ReadmitRequest
from troth.wire.x509pop import parse_evidence

JOIN_TOKEN = "join_token"  # noqa: S105 - the name of a method
X509POP = "x509pop"
REJOIN_AFTER = timedelta(seconds=10)
"""A machine's agent that joins in a loop writes no more than this lets it."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """Which trust domain machines join, who vouches for them, how many may join at once, and how
    often one may ask again for an answer that was lost."""

    trust_domain: TrustDomain
    vouchers: Vouchers
    turns: Turns
    retries: Throttle


@dataclass(frozen=True, slots=True)
class AttestNode:
    """``node.attest``: take a proof once and certify the node's key."""

    store: Store
    clock: Clock
    entropy: Entropy
    leaves: LeafIssuer
    entrance: Entrance

    async def __call__(self, call: Call[wire.AttestNode]) -> wire.NodeCredential:
        """The node's certificate. A bad CSR costs no proof; a bad proof writes nothing."""
        public_key = parse_csr(call.body.csr)
        self.leaves.check_fresh()  # before a proof is used up and an earlier certificate revoked
        match call.body.method:
            case "join_token":
                node = await self._join_by_token(call, public_key)
            case "x509pop":
                node = await self._join_by_certificate(call)
            case other:
                raise Invalid(
                    f"Attestation by {other[:40]!r} isn't known; use join_token or x509pop."
                )

        def guard(tx: Transaction) -> None:
            current = tx.nodes.get(node.id)
            if current.state is not NodeState.ACTIVE or current.attested_at != node.attested_at:
                raise Denied(f"Node {node.name} was evicted or has joined anew meanwhile.")

        return await certify_node(self.store, self.leaves, call, node, public_key, guard)

    async def _join_by_token(self, call: Call[wire.AttestNode], public_key: bytes) -> Node:
        token_id, secret = parse_token(call.body.evidence)
        key_hash = hash_key(public_key)
        now = self.clock.now()
        # Anybody may call this: what is wrong is found out without a turn of the writer.
        shown = await self.store.read(lambda tx: find_token(tx, token_id, secret, key_hash, now))
        if shown.used_at is not None:
            self.entrance.retries.check(token_id)
            self.entrance.retries.count(token_id)
        self.entrance.turns.take(call.caller)
        node_id = NodeId(new_id("nod", self.entropy))

        def join(tx: Transaction) -> Node:
            token = find_token(tx, token_id, secret, key_hash, now)
            if token.used_at is not None:
                return _find_joined(tx, token)
            node = self._make_node(node_id, token.node_name, JOIN_TOKEN, now)
            node = _enter(tx, call, node, token=token.id)
            take_token(tx, token, key_hash, now, node.id)
            return node

        return await self.store.transact(join)

    async def _join_by_certificate(self, call: Call[wire.AttestNode]) -> Node:
        now = self.clock.now()
        possession = await asyncio.to_thread(self._verify, call.body, now)
        name = self.entrance.vouchers.name_machine(possession)
        node = self._make_node(
            NodeId(new_id("nod", self.entropy)), name, X509POP, now, possession.key
        )

        def check(tx: Transaction) -> None:
            if tx.used_proofs.is_used(possession.digest):
                raise Refused("The proof was used before; make a new one for each request.")
            _check_name(tx, node)

        def join(tx: Transaction) -> Node:
            tx.used_proofs.take(possession.digest, possession.expires_at)
            _check_name(tx, node)
            return _enter(
                tx,
                call,
                node,
                key=possession.key,
                fingerprint=possession.fingerprint,
                issuer=possession.issuer,
                authority=possession.authority,
            )

        await self.store.read(check)
        self.entrance.turns.take(call.caller)
        return await self.store.transact(join)

    def _verify(self, body: wire.AttestNode, now: datetime) -> Possession:
        evidence = parse_evidence(body.evidence)
        return verify_possession(
            authorities=self.entrance.vouchers.authorities,
            chain=evidence.chain,
            signature=evidence.signature,
            at=evidence.at,
            purpose=NODE,
            trust_domain=self.entrance.trust_domain,
            csr=body.csr,
            now=now,
        )

    def _make_node(
        self,
        node_id: NodeId,
        name: str,
        attestation: str,
        now: datetime,
        key: str | None = None,
    ) -> Node:
        return Node(
            id=node_id,
            name=name,
            spiffe_id=name_node(self.entrance.trust_domain, name),
            state=NodeState.ACTIVE,
            attestation=attestation,
            attested_at=now,
            certificate_serial="",
            expires_at=now + NODE_TTL,
            last_seen=now,
            fingerprint=key,
        )


def _find_joined(tx: Transaction, token: JoinToken) -> Node:
    """The node that joined with a used token, for another certificate of the same key as in a
    renewal; `Refused` once the node is anything but what that use made it."""
    node = tx.nodes.find(NodeId(token.used_by or ""))
    if node is None or node.state is not NodeState.ACTIVE or node.attested_at != token.used_at:
        raise Refused(
            f"The node that joined with this token was evicted or has joined anew; {REMEDY}"
        )
    held = tx.certificates.find(node.certificate_serial)
    if held is not None and held.revoked_at is not None:
        raise Refused(f"The certificate that this token was used for was revoked; {REMEDY}")
    return node


def _check_name(tx: Transaction, node: Node) -> None:
    """`Refused` if the machine was evicted, or its name is another's."""
    barred = tx.nodes.list_barred(node.fingerprint or "")
    previous = tx.nodes.find_named(node.name)
    if previous is not None and previous.state is NodeState.EVICTED:
        barred += [] if previous.readmitted_at else [previous]
    if barred:
        raise Refused(
            f"This machine was evicted, as node {barred[0].name}. An administrator can let it "
            f"come back: troth node readmit {barred[0].name} --reason TEXT"
        )
    if previous is None or previous.state is NodeState.EVICTED:
        return
    if previous.attestation != X509POP:
        raise Refused(
            f"The name {node.name} belongs to a node that joined with a token; evict that one and "
            f"readmit the name, if the machine shall have it: troth node evict {node.name}"
        )
    since = node.attested_at - previous.attested_at
    if previous.fingerprint == node.fingerprint and since < REJOIN_AFTER:
        raise Limited(
            "This machine joined a moment ago; each time ends all that it holds. Wait.",
            (REJOIN_AFTER - since).total_seconds(),
        )
    if previous.fingerprint != node.fingerprint and previous.readmitted_at is None:
        raise Refused(
            f"The name {node.name} belongs to a node with another key. If the machine has a new "
            f"one, let it in: troth node readmit {node.name} --reason TEXT"
        )


def _enter(tx: Transaction, call: Call[Any], node: Node, **proof: str) -> Node:
    """Record the node, in place of an active one of that name; its certificates end with it."""
    previous = tx.nodes.find_named(node.name)
    if previous is None or previous.state is NodeState.EVICTED:
        tx.nodes.add(node)  # an evicted node comes back as a new one
    else:
        if previous.attestation != node.attestation:
            raise Refused(
                f"The name {node.name} belongs to a node that proves itself by {X509POP}; evict "
                f"that one first: troth node evict {node.name}"
            )
        node = replace(node, id=previous.id)
        tx.nodes.save(node)
        serials = tx.certificates.revoke_for_node(node.id, node.attested_at, "superseded")
        record_revocations(tx, call, serials, "superseded", node.attested_at)
    record_event(
        tx,
        call,
        "node.attested",
        str(node.spiffe_id),
        node.attested_at,
        id=node.id,
        method=node.attestation,
        **proof,
    )
    return node


@dataclass(frozen=True, slots=True)
class ReadmitNode:
    """``node.readmit``: let a machine prove itself anew under a name, by a certificate.

    An evicted one may come back; an active one may come with another key than before.
    """

    store: Store
    clock: Clock

    async def __call__(self, call: Call[ReadmitRequest]) -> wire.NodeView:
        """Let it; `Refused` for a node whose next proof is a token anyway."""
        now = self.clock.now()

        def readmit(tx: Transaction) -> Node:
            node = tx.nodes.get_named(call.body.name)
            active = node.state is NodeState.ACTIVE
            if active and node.attestation != X509POP:
                raise Refused(
                    f"Node {node.name} joined with a token and is active; to let its machine join "
                    f"again: troth token join --node {node.name}"
                )
            tx.nodes.readmit(node.name, now)
            record_event(
                tx,
                call,
                "node.readmitted",
                str(node.spiffe_id),
                now,
                id=node.id,
                name=node.name,
                reason=call.body.reason,
            )
            return tx.nodes.get(node.id)

        return view_node(await self.store.transact(readmit))
