"""Certificates of workloads: issue for an attested node, list, revoke."""

from __future__ import annotations

from dataclasses import dataclass

from troth.core.clock import Clock
from troth.core.errors import Internal, Invalid, NotFound, Refused, TrothError
from troth.core.ids import IdentityId, NodeId
from troth.identity.identity import Identity
from troth.issuance.csr import parse_csr
from troth.live.snapshot import Snapshot
from troth.operations.admission import (
    Claim,
    ClaimGuard,
    limit_ttl,
    read_claim,
    read_identities,
    require_node,
)
from troth.operations.call import Call, Target
from troth.operations.leaf import Leaf, LeafIssuer, Wish
from troth.operations.recording import record_revocations
from troth.operations.target import target_of
from troth.store.engine import Store
from troth.store.records import SERIAL_DIGITS, CertificateKind, CertificateRecord
from troth.store.transaction import Transaction
from troth.wire.api import certificates as wire


def _shape(identity: Identity) -> object:
    """What of an identity goes into its certificates."""
    return identity.spiffe_id, identity.dns_names, identity.x509_ttl


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
        node_id = require_node(call.caller)
        requests = call.body.requests
        wanted = (request.identity_id for request in requests)
        identities = await read_identities(self.store, self.snapshot, wanted)
        answers: list[wire.IssuedCertificate | None] = [None] * len(requests)
        claims: list[Claim] = []
        wishes: dict[int, Wish] = {}
        for index, request in enumerate(requests):
            try:
                identity = identities.get(IdentityId(request.identity_id))
                if identity is None:
                    raise NotFound(f"There is no identity {request.identity_id[:60]!r}.")
                claim = read_claim(node_id, identity.id, request.instance)
                wishes[index] = self._wish(claim, node_id, identity, request.csr)
                claims.append(claim)
            except TrothError as refusal:
                answers[index] = _refuse(request.identity_id, refusal)
        if not wishes:
            return wire.IssuedCertificates(results=[answer for answer in answers if answer])
        guard = ClaimGuard(call.caller, self.clock, claims, identities, _shape)
        outcomes = await self.leaves.issue(call, list(wishes.values()), guard)
        for (index, wish), outcome in zip(wishes.items(), outcomes, strict=True):
            answers[index] = _answer(wish, outcome)
        return wire.IssuedCertificates(results=[answer for answer in answers if answer])

    def _wish(self, claim: Claim, node_id: NodeId, identity: Identity, csr: bytes) -> Wish:
        return Wish(
            kind=CertificateKind.WORKLOAD,
            spiffe_id=identity.spiffe_id,
            public_key=parse_csr(csr),
            ttl=limit_ttl(identity.x509_ttl, identity, self.clock.now()),
            dns_names=identity.dns_names,
            identity_id=identity.id,
            instance_id=claim.instance_id,
            node_id=node_id,
        )


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
            call.gate.check(target_of(identity))
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
            call.gate.check(_find_target(tx, record))
            if record.kind is CertificateKind.CA:
                raise Invalid("A signing authority isn't revoked this way.")
            if record.revoked_at is not None or record.not_after <= now:
                raise Refused(f"Certificate {serial} is over already.")
            tx.certificates.revoke(serial, now, "unspecified")
            record_revocations(tx, call, [serial], call.body.reason, now)
            return _view(tx.certificates.get(serial))

        return await self.store.transact(revoke)


def _find_target(tx: Transaction, record: CertificateRecord) -> Target:
    """The identity that holds it; that of a node or the server is no team's."""
    held = tx.identities.find_all([record.identity_id] if record.identity_id else [])
    return target_of(next(iter(held.values()))) if held else Target()


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
