"""Devices without an agent: enrol with proof and a CSR, renew over mutual TLS.

An enrolled device is an instance of its identity, as a process on a node is, only that no node
speaks for it: it can be locked alone, and whatever cuts the identity off cuts it off.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from troth.core.clock import Clock
from troth.core.errors import Denied, Invalid, Refused, TrothError, Unavailable
from troth.core.ids import IdentityId, InstanceId, NodeId, TrustDomain
from troth.identity.identity import Identity, Instance
from troth.identity.lifecycle import may_hold_credentials
from troth.identity.selectors import Selector, match_selectors
from troth.identity.x509pop import DEVICE, Possession, Vouchers, verify_possession
from troth.issuance.csr import parse_csr
from troth.operations.admission import limit_ttl
from troth.operations.call import Call
from troth.operations.enrolment import (
    CODE,
    REMEDY,
    find_code,
    parse_code,
    require_kind,
    take_code,
)
from troth.operations.gathering import Issued, LeafGatherer
from troth.operations.leaf import Wish
from troth.operations.recording import record_event
from troth.operations.single_use import hash_key
from troth.operations.throttle import Throttle
from troth.store.engine import Store
from troth.store.identities import MOST_CERTIFIED
from troth.store.records import CertificateKind, CertificateRecord, EnrolmentCode
from troth.store.transaction import Transaction
from troth.wire.api import devices as wire
from troth.wire.x509pop import parse_evidence

NO_NODE = NodeId("")
"""Where a device's instance runs: no agent speaks for it."""

Take = Callable[[Transaction, datetime], bool]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a device proved: which identity's which copy it is, for which key.

    `take` uses the proof up, in the transaction that records the intent, and raises if it is good
    no more. It says whether the enrolment is to be recorded.
    """

    identity: Identity
    instance_id: InstanceId
    public_key: bytes
    method: str
    evidence: tuple[str, ...]
    take: Take


@dataclass(frozen=True, slots=True)
class EnrollDevice:
    """``device.enroll``: a device's first certificate, for a code or its manufacturer's one."""

    store: Store
    clock: Clock
    trust_domain: TrustDomain
    leaves: LeafGatherer
    vouchers: Vouchers
    throttle: Throttle

    async def __call__(self, call: Call[wire.EnrollDevice]) -> wire.DeviceCredential:
        """The certificate. What is wrong with a request is found without a turn of the writer."""
        public_key = parse_csr(call.body.csr)
        self.throttle.check(call.caller.source)
        match call.body.method:
            case "code":
                claim = await self._read_code(call, public_key)
            case "x509pop":
                claim = await self._read_certificate(call, public_key)
            case other:
                raise Invalid(f"Enrolment by {other!r} isn't known; use code or x509pop.")
        return await certify_device(self.clock, self.leaves, call, claim)

    def _count(self, claim: Claim) -> None:
        """Brake who enrols again and again: it writes each time, and proves what it did before."""
        self.throttle.check(claim.instance_id)
        self.throttle.count(claim.instance_id)

    async def _read_code(self, call: Call[wire.EnrollDevice], public_key: bytes) -> Claim:
        secret = parse_code(call.body.evidence)
        now = self.clock.now()

        def look(tx: Transaction) -> tuple[EnrolmentCode, Identity] | None:
            code = find_code(tx, secret)
            return None if code is None else (code, tx.identities.get(code.identity_id))

        found = await self.store.read(look)
        if found is None:
            self.throttle.count(call.caller.source)
            raise Refused(f"This enrolment code is not valid here; {REMEDY}")
        code, identity = found
        key_hash = hash_key(public_key)
        CODE.check(code, key_hash, now)

        def take(tx: Transaction, now: datetime) -> bool:
            current = find_code(tx, secret)
            if current is None:
                raise Refused(f"This enrolment code is not valid here; {REMEDY}")
            return take_code(tx, current, key_hash, now)

        claim = Claim(
            identity=identity,
            instance_id=name_device(identity.id, code.id),
            public_key=public_key,
            method="code",
            evidence=(f"code:{code.id}",),
            take=take,
        )
        self._count(claim)
        return claim

    async def _read_certificate(self, call: Call[wire.EnrollDevice], public_key: bytes) -> Claim:
        """The claim of a device by its manufacturer's certificate; the proof is taken here.

        An answer that gets lost costs nothing: the device makes another proof.
        """
        now = self.clock.now()
        try:
            possession = await asyncio.to_thread(self._verify, call.body, now)
        except Denied:
            self.throttle.count(call.caller.source)
            raise
        proved = list_selectors(possession)
        self.throttle.check(possession.key)

        def look(tx: Transaction) -> list[Identity]:
            if tx.used_proofs.is_used(possession.digest):
                raise Refused("The proof was used before; make a new one for each request.")
            return tx.identities.find_certified(proved)

        found = await self.store.read(look)
        meant = [i for i in found if match_selectors(i.selectors, frozenset(proved)).complete]
        if len(found) == MOST_CERTIFIED:
            meant = found  # there may be more, so that a single one needn't be the only one
        if len(meant) != 1:
            raise await self._refuse(call, possession, proved, meant)
        (identity,) = meant
        claim = Claim(
            identity=identity,
            instance_id=name_device(identity.id, possession.key),
            public_key=public_key,
            method="x509pop",
            evidence=tuple(map(str, proved)),
            take=lambda tx, now: False,
        )
        self._count(claim)

        def enter(tx: Transaction) -> None:
            admit_device(tx, identity, claim.instance_id, now)
            tx.used_proofs.take(possession.digest, possession.expires_at)
            record_enrolment(tx, call, claim, now)

        await self.store.transact(enter)
        return claim

    def _verify(self, body: wire.EnrollDevice, now: datetime) -> Possession:
        evidence = parse_evidence(body.evidence)
        return verify_possession(
            authorities=self.vouchers.authorities,
            chain=evidence.chain,
            signature=evidence.signature,
            at=evidence.at,
            purpose=DEVICE,
            trust_domain=self.trust_domain,
            csr=body.csr,
            now=now,
        )

    async def _refuse(
        self,
        call: Call[wire.EnrollDevice],
        possession: Possession,
        proved: Sequence[Selector],
        meant: Sequence[Identity],
    ) -> TrothError:
        """The refusal of a genuine device that nobody registered, or several did; journaled, so
        that somebody sees it, and braked for each device by itself."""
        self.throttle.count(possession.key)
        names = ", ".join(identity.name for identity in meant[:5])
        reason = f"several devices ask for it: {names}" if meant else "no device asks for it"
        now = self.clock.now()

        def note(tx: Transaction) -> None:
            tx.used_proofs.take(possession.digest, possession.expires_at)
            record_event(
                tx,
                call,
                "device.refused",
                str(proved[0]),
                now,
                selectors=list(map(str, proved)),
                issuer=possession.issuer,
                reason=reason,
            )

        await self.store.transact(note)
        if meant:
            return Refused(f"The certificate doesn't say which device this is: {reason}.")
        return Denied(
            f"No device is registered for this certificate; register one with the selector "
            f"{proved[0]}."
        )


def list_selectors(possession: Possession) -> list[Selector]:
    """What a manufacturer's certificate proves about its device, the most telling first."""
    selectors = [
        Selector("x509pop:sha256", possession.fingerprint),
        Selector("x509pop:ca", possession.authority),
    ]
    if possession.common_name is not None:
        selectors.append(Selector("x509pop:cn", possession.common_name))
    return selectors


def name_device(identity_id: IdentityId, key: str) -> InstanceId:
    """The id of one device: what proves the same enrolment or the same hardware is the same one."""
    text = f"device\0{identity_id}\0{key}".encode()
    return InstanceId(f"ins_{hashlib.sha256(text).hexdigest()[:24]}")


def admit_device(
    tx: Transaction, planned: Identity, instance_id: InstanceId, now: datetime
) -> None:
    """Raise `Denied` unless this device may hold its identity's credentials now, in this very
    transaction; `Unavailable` if the identity isn't any more what the certificate was made from."""
    identity = tx.identities.get(planned.id)
    require_kind(identity)
    if not may_hold_credentials(identity, now):
        state = "expired" if identity.expires_at <= now else identity.state.value
        raise Denied(f"'{identity.name}' may hold no credentials: it is {state}.")
    known = tx.instances.find(instance_id)
    if known is not None and known.locked:
        raise Denied(f"Instance {instance_id} of '{identity.name}' is locked.")
    if _list_terms(identity) != _list_terms(planned):
        raise Unavailable(f"'{identity.name}' was changed just now; ask again.")


def _list_terms(identity: Identity) -> tuple[Any, ...]:
    return set(identity.selectors), identity.dns_names, identity.x509_ttl


def require_proof(tx: Transaction, identity: Identity, instance_id: InstanceId) -> None:
    """Raise `Denied` if the registration asks for more by now than its device had proved.

    A code proves nothing that a registration could ask for.
    """
    known = tx.instances.find(instance_id)
    evidence = set() if known is None else set(known.evidence)
    wanted = {str(selector) for selector in identity.selectors}
    by_certificate = any(one.startswith("x509pop:") for one in evidence)
    if by_certificate and not (wanted and wanted <= evidence):
        raise Denied(
            f"'{identity.name}' asks for another certificate by now than this device showed; "
            "enrol anew."
        )


def record_enrolment(tx: Transaction, call: Call[Any], claim: Claim, now: datetime) -> None:
    """Note that the device lives, with what it proved, and that it enrolled."""
    instance = Instance(
        id=claim.instance_id,
        identity_id=claim.identity.id,
        node_id=NO_NODE,
        pid=0,
        evidence=claim.evidence,
        locked=False,
        locked_reason="",
        first_seen=now,
        last_seen=now,
    )
    tx.instances.upsert_all([instance])
    record_event(
        tx,
        call,
        "device.enrolled",
        str(claim.identity.spiffe_id),
        now,
        id=claim.instance_id,
        identity=claim.identity.name,
        method=claim.method,
        evidence=list(claim.evidence),
    )


async def certify_device(
    clock: Clock, leaves: LeafGatherer, call: Call[Any], claim: Claim
) -> wire.DeviceCredential:
    """Issue the certificate of a device that proved who it is.

    A code is used up together with the intent, never before.
    """

    def admit(tx: Transaction, first: bool) -> None:
        now = clock.now()
        admit_device(tx, claim.identity, claim.instance_id, now)
        if first and claim.take(tx, now):
            record_enrolment(tx, call, claim, now)

    wish = make_wish(claim.identity, claim.instance_id, claim.public_key, clock.now())
    issued = await leaves.issue(call, wish, admit)
    return answer_device(clock, claim.identity, claim.instance_id, issued)


def make_wish(
    identity: Identity, instance_id: InstanceId, public_key: bytes, now: datetime
) -> Wish:
    """The certificate that a device may have: what the registration says, for its key."""
    return Wish(
        kind=CertificateKind.DEVICE,
        spiffe_id=identity.spiffe_id,
        public_key=public_key,
        ttl=limit_ttl(identity.x509_ttl, identity, now),
        dns_names=identity.dns_names,
        identity_id=identity.id,
        instance_id=instance_id,
    )


def answer_device(
    clock: Clock, identity: Identity, instance_id: InstanceId, issued: Issued
) -> wire.DeviceCredential:
    """The certificate with the roots to trust and the time to come back."""
    leaf, roots = issued
    now = clock.now()
    return wire.DeviceCredential(
        identity=identity.name,
        instance_id=instance_id,
        spiffe_id=str(identity.spiffe_id),
        chain=[leaf.der],
        x509_authorities=roots,
        not_after=leaf.not_after,
        renew_after=now + (leaf.not_after - now) / 2,
    )


@dataclass(frozen=True, slots=True)
class RenewDevice:
    """``device.renew``: the calling device's next certificate, for a key of its choice."""

    store: Store
    clock: Clock
    leaves: LeafGatherer
    throttle: Throttle

    async def __call__(self, call: Call[wire.RenewDevice]) -> wire.DeviceCredential:
        """The new certificate; the old one lives out its time, so that a lost answer is no loss."""
        public_key = parse_csr(call.body.csr)
        serial = call.caller.serial

        def look(tx: Transaction) -> tuple[CertificateRecord, Identity]:
            held = require_certificate(tx, serial)
            assert held.identity_id is not None  # a device certificate always has one
            return held, tx.identities.get(held.identity_id)

        held, identity = await self.store.read(look)
        assert held.instance_id is not None  # the same
        instance_id = held.instance_id
        self.throttle.check(instance_id)
        self.throttle.count(instance_id)

        def admit(tx: Transaction, first: bool) -> None:
            require_certificate(tx, serial)
            now = self.clock.now()
            admit_device(tx, identity, instance_id, now)
            require_proof(tx, tx.identities.get(identity.id), instance_id)
            if first:
                tx.instances.touch([instance_id], now)

        wish = make_wish(identity, instance_id, public_key, self.clock.now())
        issued = await self.leaves.issue(call, wish, admit)
        return answer_device(self.clock, identity, instance_id, issued)


def require_certificate(tx: Transaction, serial: str) -> CertificateRecord:
    """The calling device's certificate, if it stands in this very transaction; else `Denied`."""
    found = tx.certificates.find(serial)
    if found is None or found.kind is not CertificateKind.DEVICE or found.revoked_at is not None:
        raise Denied("Only an enrolled device may ask for this, with a certificate that stands.")
    return found
