"""Certificates of workloads: issue for an attested node, list, revoke."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from troth.core.clock import Clock
from troth.core.errors import Denied, Internal, Invalid, NotFound, Refused, TrothError
from troth.core.ids import IdentityId, InstanceId, NodeId
from troth.identity.identity import Identity, Instance
from troth.identity.lifecycle import may_hold_credentials
from troth.identity.selectors import Selector, match_selectors
from troth.issuance.csr import parse_csr
from troth.issuance.profiles import MIN_TTL
from troth.live.snapshot import Snapshot
from troth.operations.call import Call, Caller
from troth.operations.leaf import Leaf, LeafIssuer, Wish
from troth.operations.recording import record_revocations
from troth.store.engine import Store
from troth.store.records import SERIAL_DIGITS, CertificateKind, CertificateRecord, Node, NodeState
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


def name_instance(node_id: NodeId, identity_id: IdentityId, key: str) -> InstanceId:
    """The id of one running copy: the same process of the same node gets the same one."""
    text = f"{node_id}\0{identity_id}\0{key}".encode()
    return InstanceId(f"ins_{hashlib.sha256(text).hexdigest()[:24]}")


def admit_instance(
    tx: Transaction,
    caller: Caller,
    identity_id: IdentityId,
    claim: wire.InstanceClaim,
    now: datetime,
) -> Identity:
    """Check everything that must hold before an instance gets a credential; note that it lives.

    Raises `Denied` or `Refused` with the reason. The node attested the selectors; that they are
    the ones registered is checked here again, so that an agent's mistake gives nothing away.
    """
    node = admit_node(tx, caller)
    identity = tx.identities.find(identity_id)
    if identity is None or not ({node.name, "*"} & set(identity.nodes)):
        raise Denied(f"Node {node.name} holds no identity {identity_id!r:.60}.")
    if not may_hold_credentials(identity, now):
        state = "expired" if identity.expires_at <= now else identity.state.value
        raise Denied(f"'{identity.name}' may hold no credentials: it is {state}.")
    match = match_selectors(identity.selectors, frozenset(map(Selector.parse, claim.selectors)))
    if not match.complete:
        missing = ", ".join(map(str, match.missing)) or "any selector"
        raise Denied(f"'{identity.name}' needs {missing}, which was not attested.")
    instance_id = name_instance(node.id, identity_id, claim.key)
    known = tx.instances.find(instance_id)
    if known is not None and known.locked:
        raise Denied(f"Instance {instance_id} of '{identity.name}' is locked.")
    tx.instances.upsert(
        Instance(
            id=instance_id,
            identity_id=identity_id,
            node_id=node.id,
            pid=claim.pid,
            evidence=tuple(claim.selectors),
            locked=False,
            locked_reason="",
            first_seen=known.first_seen if known else now,
            last_seen=now,
        )
    )
    return identity


@dataclass(frozen=True, slots=True)
class IssueCertificates:
    """``certificate.issue``: X.509-SVIDs for what the calling node attested, in batches."""

    store: Store
    clock: Clock
    snapshot: Snapshot
    leaves: LeafIssuer

    async def __call__(self, call: Call[wire.IssueCertificates]) -> wire.IssuedCertificates:
        """An answer for each request, in order; one refusal doesn't touch the others."""
        self.snapshot.check_fresh()
        require_node(call.caller)
        requests = call.body.requests
        identities = await self._read_identities(requests)
        answers: list[wire.IssuedCertificate | None] = [None] * len(requests)
        wishes: dict[int, Wish] = {}
        for index, request in enumerate(requests):
            try:
                identity = identities.get(IdentityId(request.identity_id))
                if identity is None:
                    raise NotFound(f"There is no identity {request.identity_id[:60]!r}.")
                wishes[index] = self._wish(call.caller, identity, request)
            except TrothError as refusal:
                answers[index] = _refuse(request.identity_id, refusal)
        outcomes = await self.leaves.issue(call, list(wishes.values())) if wishes else []
        for (index, wish), outcome in zip(wishes.items(), outcomes, strict=True):
            answers[index] = _answer(wish, outcome)
        return wire.IssuedCertificates(results=[answer for answer in answers if answer])

    async def _read_identities(
        self, requests: list[wire.CertificateRequest]
    ) -> dict[IdentityId, Identity]:
        """Facts to plan with, live where they are known; the guards look at the store itself."""
        facts, epoch = self.snapshot.facts, self.snapshot.epoch
        ids = {IdentityId(request.identity_id) for request in requests}
        known = {i: identity for i in ids if (identity := facts.find(i)) is not None}
        missing = ids - known.keys()
        if missing:

            def read(tx: Transaction) -> list[Identity | None]:
                return [tx.identities.find(i) for i in missing]

            for identity in await self.store.read(read):
                if identity is not None:
                    facts.remember(identity, epoch)
                    known[identity.id] = identity
        return known

    def _wish(self, caller: Caller, identity: Identity, request: wire.CertificateRequest) -> Wish:
        node_id = require_node(caller)
        key = parse_csr(request.csr)
        return Wish(
            kind=CertificateKind.WORKLOAD,
            spiffe_id=identity.spiffe_id,
            public_key=key,
            ttl=limit_ttl(identity.x509_ttl, identity, self.clock.now()),
            dns_names=identity.dns_names,
            guard=self._guard(caller, identity, request.instance),
            identity_id=identity.id,
            instance_id=name_instance(node_id, identity.id, request.instance.key),
            node_id=node_id,
        )

    def _guard(
        self, caller: Caller, planned: Identity, claim: wire.InstanceClaim
    ) -> Callable[[Transaction], None]:
        def guard(tx: Transaction) -> None:
            identity = admit_instance(tx, caller, planned.id, claim, self.clock.now())
            if (identity.dns_names, identity.x509_ttl) != (planned.dns_names, planned.x509_ttl):
                raise Refused(f"'{identity.name}' was changed just now; ask again.")

        return guard


def _answer(wish: Wish, outcome: Leaf | TrothError) -> wire.IssuedCertificate:
    if isinstance(outcome, TrothError):
        return _refuse(wish.identity_id or "", outcome)
    return wire.IssuedCertificate(
        identity_id=wish.identity_id or "",
        instance_id=wish.instance_id or "",
        serial=outcome.serial,
        chain=[outcome.der],
        not_after=outcome.not_after,
    )


def _refuse(identity_id: str, refusal: TrothError) -> wire.IssuedCertificate:
    if isinstance(refusal, Internal):
        raise refusal
    return wire.IssuedCertificate(
        identity_id=identity_id[:128], error=wire.Failure(code=refusal.code, detail=refusal.detail)
    )


@dataclass(frozen=True, slots=True)
class ListCertificates:
    """``certificate.ls``: the unexpired certificates of one identity."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.ListCertificates]) -> wire.CertificateList:
        """Newest first."""

        def page(tx: Transaction) -> wire.CertificateList:
            identity = tx.identities.get_named(call.body.name)
            found = tx.certificates.of_identity(identity.id, self.clock.now())
            return wire.CertificateList(items=[_view(record) for record in found])

        return await self.store.read(page)


@dataclass(frozen=True, slots=True)
class RevokeCertificate:
    """``certificate.revoke``: one certificate, by serial."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.RevokeCertificate]) -> wire.CertificateView:
        """Revoke it; `Refused` if it is revoked or expired already."""
        serial = call.body.serial.zfill(SERIAL_DIGITS)
        now = self.clock.now()

        def revoke(tx: Transaction) -> wire.CertificateView:
            record = tx.certificates.get(serial)
            if record.kind is CertificateKind.CA:
                raise Invalid("A signing authority isn't revoked this way.")
            if record.revoked_at is not None or record.not_after <= now:
                raise Refused(f"Certificate {serial} is over already.")
            tx.certificates.revoke(serial, now, "unspecified")
            record_revocations(tx, call, [serial], call.body.reason, now)
            return _view(tx.certificates.get(serial))

        return await self.store.transact(revoke)


def _view(record: CertificateRecord) -> wire.CertificateView:
    return wire.CertificateView(
        serial=record.serial,
        spiffe_id=str(record.subject),
        state="revoked" if record.revoked_at is not None else record.state.value,
        not_before=record.not_before,
        not_after=record.not_after,
        instance_id=record.instance_id,
        node_id=record.node_id,
        revoked_at=record.revoked_at,
        revocation_reason=record.revocation_reason,
    )
