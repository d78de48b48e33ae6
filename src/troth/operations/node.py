"""Nodes: renew, list, evict, report, and the stream that keeps an agent in step."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import takewhile
from typing import Any

import msgspec

from troth.core.bucket import Buckets
from troth.core.clock import Clock
from troth.core.errors import Denied, Refused
from troth.core.ids import InstanceId, NodeId, SpiffeId, TrustDomain
from troth.issuance.authorities import Use
from troth.issuance.csr import parse_csr
from troth.live.snapshot import Snapshot
from troth.operations.admission import admit_node, require_node
from troth.operations.call import Call
from troth.operations.entries import Entries
from troth.operations.leaf import Leaf, LeafIssuer, Wish
from troth.operations.publication import collect_jwt_keys
from troth.operations.recording import name_key, record_event, record_revocations
from troth.operations.withdrawal import BATCH, withdraw_later
from troth.store.engine import Store
from troth.store.nodes import mark_page
from troth.store.records import CertificateKind, HolderKind, Node, NodeState
from troth.store.transaction import Transaction
from troth.wire.api import nodes as wire
from troth.wire.bundle import render_jwt_bundle

NODE_TTL = timedelta(hours=24)
"""How long a node may be away and still come back by itself."""

HEARTBEAT_SECONDS = 5.0
NODES_PER_SECOND = 200
"""How many nodes may do the same thing in one second."""
REFUSALS_BURST = 200
REFUSALS_PER_SECOND = 2.0
"""Of one node; an agent knows a thousand different ones in ten minutes at most."""
SELECTORS_ROOM, REASON_ROOM = 2560, 1024
"""Bytes of one refusal's row, which stays below 4 KiB."""
MAX_SPREAD = 10
"""Seconds."""


def name_node(trust_domain: TrustDomain, name: str) -> SpiffeId:
    """The SPIFFE ID of a node; the path under ``/troth/`` is closed to registrations."""
    return SpiffeId.of(trust_domain, f"/troth/node/{name}")


@dataclass(frozen=True, slots=True)
class RenewNode:
    """``node.renew``: the calling node's next certificate, for a key of its choice."""

    store: Store
    leaves: LeafIssuer

    async def __call__(self, call: Call[wire.RenewNode]) -> wire.NodeCredential:
        """The new certificate; the old one lives out its time."""
        public_key = parse_csr(call.body.csr)
        node_id = require_node(call.caller)
        node = await self.store.read(lambda tx: tx.nodes.get(node_id))

        def guard(tx: Transaction) -> None:
            admit_node(tx, call.caller)

        return await certify_node(self.store, self.leaves, call, node, public_key, guard)


async def certify_node(
    store: Store,
    leaves: LeafIssuer,
    call: Call[Any],
    node: Node,
    public_key: bytes,
    guard: Callable[[Transaction], None],
) -> wire.NodeCredential:
    """Issue a node's certificate, if `guard` agrees, and note its serial."""

    wish = Wish(
        kind=CertificateKind.NODE,
        spiffe_id=node.spiffe_id,
        public_key=public_key,
        ttl=NODE_TTL,
        node_id=node.id,
    )
    leaf = await leaves.issue_one(call, wish, guard)

    def note(tx: Transaction) -> list[bytes]:
        guard(tx)  # or the serial of who was evicted or superseded would stand for the next one's
        current = tx.nodes.get(node.id)
        tx.nodes.save(replace(current, certificate_serial=leaf.serial, expires_at=leaf.not_after))
        return collect_roots(tx)

    return _credential(node, leaf, await store.transact(note))


def _credential(node: Node, leaf: Leaf, roots: list[bytes]) -> wire.NodeCredential:
    return wire.NodeCredential(
        node_id=node.id,
        spiffe_id=str(node.spiffe_id),
        chain=[leaf.der],
        x509_authorities=roots,
        not_after=leaf.not_after,
    )


def collect_roots(tx: Transaction) -> list[bytes]:
    """The certificates of all X.509 authorities whose leaves may still live."""
    found = tx.authorities.list(Use.X509)
    return [a.certificate for a in found if a.published]


@dataclass(frozen=True, slots=True)
class EvictNode:
    """``node.evict``: end a node for good, with every certificate of its own and its workloads."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.EvictNode]) -> wire.NodeView:
        """Evict it; `Refused` if it was evicted before.

        It can come back only as a new node: with a new token, or by its certificate once it was
        readmitted. Tokens that wait for it end with it.
        """
        now = self.clock.now()
        later = await self.store.read(lambda tx: self._is_much(tx, call))

        def evict(tx: Transaction) -> Node:
            node = tx.nodes.get_named(call.body.name)
            if node.state is not NodeState.ACTIVE:
                raise Refused(f"Node {node.name} was evicted before.")
            evicted = replace(node, state=NodeState.EVICTED, readmitted_at=None)
            tx.nodes.save(evicted)
            tx.join_tokens.end_for_node(node.name, now)
            record_event(
                tx,
                call,
                "node.evicted",
                str(node.spiffe_id),
                now,
                id=node.id,
                name=node.name,
                reason=call.body.reason,
            )
            withdrawn = "privilegeWithdrawn"
            if later:
                # Its own never wait: who comes back under its name would make them good again.
                serials = tx.certificates.revoke_nodes_own(node.id, now, withdrawn)
                withdraw_later(tx, call, node, withdrawn, now)
            else:
                serials = tx.certificates.revoke_for_node(node.id, now, withdrawn)
            record_revocations(tx, call, serials, withdrawn, now)
            return evicted

        return view_node(await self.store.transact(evict), revoking=later)

    def _is_much(self, tx: Transaction, call: Call[wire.EvictNode]) -> bool:
        node = tx.nodes.get_named(call.body.name)
        return tx.certificates.holds_more(HolderKind.NODE, node.id, self.clock.now(), BATCH)


@dataclass(frozen=True, slots=True)
class ListNodes:
    """``node.ls``: a page of nodes by name."""

    store: Store

    async def __call__(self, call: Call[wire.ListNodes]) -> wire.NodePage:
        """The page."""
        body = call.body

        def page(tx: Transaction) -> wire.NodePage:
            found = tx.nodes.page(after=body.after, limit=body.limit)
            revoking = {withdrawal.holder for withdrawal in tx.withdrawals.list_open()}
            full = len(found) == body.limit
            return wire.NodePage(
                items=[view_node(node, revoking=node.id in revoking) for node in found],
                next=mark_page(found[-1]) if full else None,
            )

        return await self.store.read(page)


def view_node(node: Node, *, revoking: bool = False) -> wire.NodeView:
    """A node as it is shown."""
    return wire.NodeView(
        id=node.id,
        name=node.name,
        spiffe_id=str(node.spiffe_id),
        state=node.state.value,
        attestation=node.attestation,
        attested_at=node.attested_at,
        expires_at=node.expires_at,
        last_seen=node.last_seen,
        fingerprint=node.fingerprint,
        revoking=revoking,
    )


class Restraint:
    """How many refusals of each node become rows of the journal, which keeps them for good."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets = Buckets(REFUSALS_BURST, REFUSALS_PER_SECOND)
        self._left_out: Counter[NodeId] = Counter()

    def choose(
        self, node_id: NodeId, refused: Sequence[wire.WorkloadRefused]
    ) -> tuple[Sequence[wire.WorkloadRefused], int]:
        """Those to note, and how many were left out since some were noted last."""
        now = self._clock.monotonic()
        room = (not self._buckets.take(node_id, 1, now) for _ in refused)
        chosen = refused[: sum(takewhile(bool, room))]
        left_out = self._left_out.pop(node_id, 0) if chosen else 0
        if len(chosen) < len(refused):
            self._left_out[node_id] += len(refused) - len(chosen)
        return chosen, left_out


def shorten(texts: Iterable[str], room: int) -> list[str]:
    """The first of these that take up `room` bytes as JSON, and a mark if some are missing."""
    found: list[str] = []
    for text in texts:
        room -= len(msgspec.json.encode(text)) - 2
        if room < 0:
            return [*found, "…"]
        found.append(text)
    return found


@dataclass(frozen=True, slots=True)
class ReportWorkloads:
    """``node.report``: which instances live, and which processes got nothing."""

    store: Store
    clock: Clock
    restraint: Restraint

    async def __call__(self, call: Call[wire.ReportWorkloads]) -> wire.Accepted:
        """Note it; refusals go to the journal, where `troth doctor` finds them."""
        node_id = require_node(call.caller)
        now = self.clock.now()
        refusals, left_out = self.restraint.choose(node_id, call.body.refused)
        more = {"left_out": left_out} if left_out else {}

        def note(tx: Transaction) -> None:
            admit_node(tx, call.caller)
            tx.nodes.touch(node_id, now)
            tx.instances.touch(
                [InstanceId(seen.instance_id) for seen in call.body.seen], now, of_node=node_id
            )
            for refused in refusals:
                record_event(
                    tx,
                    call,
                    "workload.refused",
                    call.caller.principal,
                    now,
                    pid=refused.pid,
                    selectors=shorten(refused.selectors, SELECTORS_ROOM),
                    reason="".join(shorten(refused.reason, REASON_ROOM)),
                    count=refused.count,
                    **more,
                )
                more.clear()

        await self.store.transact(note)
        return wire.Accepted()


@dataclass(frozen=True, slots=True)
class SyncNode:
    """``node.sync``: complete values for one node: at once, then after each change.

    Agents are many and alike: what was made of a row for one of them serves the others.
    """

    store: Store
    snapshot: Snapshot
    clock: Clock
    trust_domain: TrustDomain
    lease: timedelta
    _entries: Entries = field(default_factory=Entries)

    async def __call__(
        self, call: Call[wire.SyncNode]
    ) -> AsyncIterator[wire.NodeSnapshot | wire.Heartbeat]:
        """Snapshots when something that concerns this node changed, heartbeats in between."""
        node_id = require_node(call.caller)
        name, sent = "", b""
        read_at = -1
        loads = self.snapshot.loads
        while True:
            self.snapshot.check_fresh()
            self.snapshot.check_same(loads)
            epoch = self.snapshot.epoch
            if self.snapshot.find_change(name) <= read_at:
                yield wire.Heartbeat(epoch=epoch)
            else:
                read_at = epoch
                name, value = await self._read(node_id, epoch)
                body = msgspec.json.encode(msgspec.structs.replace(value, epoch=0))
                yield wire.Heartbeat(epoch=epoch) if body == sent else value
                sent = body
            await self.snapshot.wait_beyond(read_at, HEARTBEAT_SECONDS, node=name)

    async def _read(self, node_id: NodeId, epoch: int) -> tuple[str, wire.NodeSnapshot]:
        # From memory: it is complete as of `epoch`, and whatever comes later makes another value.
        cut_off = self.snapshot.list_cut_off()
        return await self.store.read(lambda tx: self._collect(tx, node_id, epoch, cut_off))

    def _collect(
        self, tx: Transaction, node_id: NodeId, epoch: int, cut_off: list[str]
    ) -> tuple[str, wire.NodeSnapshot]:
        """The node's name and its value."""
        node = tx.nodes.get(node_id)
        if node.state is not NodeState.ACTIVE:
            raise Denied(f"Node {node.name} was evicted; join anew.")
        now = self.clock.now()
        known = tx.authorities.list()
        roots = [a for a in known if a.use is Use.X509]
        crls = [tx.crls.latest(a.id) for a in roots if a.published]
        return node.name, wire.NodeSnapshot(
            epoch=epoch,
            lease=int(self.lease.total_seconds()),
            trust_domain=str(self.trust_domain),
            entries=self._entries.collect(tx, node.name),
            cut_off=cut_off,
            locked=[instance.id for instance in tx.instances.locked_for_node(node.id)],
            x509_authorities=collect_roots(tx),
            crls=[crl.der for crl in crls if crl is not None and crl.der is not None],
            jwks=msgspec.json.decode(render_jwt_bundle(collect_jwt_keys(tx))),
            tainted=[name_key(a) for a in known if a.distrusted and a.not_after > now],
            spread=min(tx.nodes.count() // NODES_PER_SECOND, MAX_SPREAD),
            templates=self._entries.collect_templates(tx, node.name),
        )
