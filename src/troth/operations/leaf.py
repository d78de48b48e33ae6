"""Leaf certificates, for workloads, nodes and the server itself: intent, act, result.

The one pipeline that makes certificates: plan and draft (linted), record the intent, let the
keystore sign exactly the recorded bytes, check, record the result. What a crash leaves between is
closed by `ReconcileIssuance`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import TrothError, Unavailable
from troth.core.events import Event
from troth.core.ids import AuthorityId, IdentityId, InstanceId, NodeId, SpiffeId
from troth.drivers.keystores import Keystore
from troth.issuance.authorities import Authority, Use
from troth.issuance.drafter import Drafter
from troth.issuance.x509svid import (
    CertificatePlan,
    assemble_certificate,
    check_certificate,
    draft_certificate,
    load_verifier,
    name_subject,
    plan_certificate,
)
from troth.live.snapshot import Snapshot
from troth.operations.call import Call
from troth.operations.recording import BACKGROUND, make_event, record_event, record_revocations
from troth.operations.succession import may_hand_out, may_record
from troth.store.engine import Store
from troth.store.records import CertificateKind, CertificateRecord, IssuanceState, format_serial
from troth.store.transaction import Transaction

SERIAL_BYTES = 20
STRANDED_AFTER = timedelta(minutes=5)
"""Longer than clocks of servers are apart: one that is ahead judges the intents of the others.
Where it isn't, an issuance under way is closed and fails; what was closed is never handed out."""
RECONCILE_LEASE = "issuance.reconcile"
RECONCILE_LEASE_TTL = timedelta(seconds=10)
RECONCILE_BATCH = 200
ATTEMPTS = 3
"""How often a batch is begun anew because its authority was replaced under it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One certificate that somebody may have. `public_key` is DER SubjectPublicKeyInfo.

    `call` is whose wish it is, if not that of the call that asks for the whole batch.
    """

    kind: CertificateKind
    spiffe_id: SpiffeId
    public_key: bytes
    ttl: timedelta
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    identity_id: IdentityId | None = None
    instance_id: InstanceId | None = None
    node_id: NodeId | None = None
    call: Call[Any] | None = None

    def on_behalf(self, call: Call[Any]) -> Wish:
        """The same wish, journaled as that of `call`."""
        return replace(self, call=call)


class Guard(Protocol):
    """Says which wishes of a batch are refused, inside both transactions, so that a change of
    state between them is seen."""

    def __call__(
        self, tx: Transaction, numbers: Sequence[int], *, first: bool
    ) -> Mapping[int, TrothError]:
        """The refusals among the wishes with these numbers (their places in the batch).

        `first` is true in the transaction that records the intents, which may note more.
        """
        ...


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate that was issued: DER, its serial as stored, its end, and who signed it."""

    der: bytes
    serial: str
    not_after: datetime
    authority_id: AuthorityId


@dataclass(frozen=True, slots=True)
class _Draft:
    wish: Wish
    plan: CertificatePlan
    tbs: bytes

    @property
    def serial(self) -> str:
        return format_serial(self.plan.serial)


@dataclass(frozen=True, slots=True)
class LeafIssuer:
    """Issues leaf certificates in batches.

    Nothing is issued while `snapshot` is stale: it is asked here, where all of them pass, so that
    no operation can forget it.

    With `common_names` identities' certificates have a subject.

    `crl_base` is the URL under which verifiers without a troth agent find CRLs, or "" to name none
    in certificates. It should be http: whoever fetches a list to check our certificates can't check
    ours first (RFC 5280, section 8).
    """

    store: Store
    snapshot: Snapshot
    clock: Clock
    entropy: Entropy
    keystore: Keystore
    drafter: Drafter
    crl_base: str
    common_names: bool = False

    def check_fresh(self) -> None:
        """Raise `Unavailable` while nothing may be issued: for who would change something first."""
        self.snapshot.check_fresh()

    async def issue_one(
        self, call: Call[Any], wish: Wish, guard: Callable[[Transaction], None]
    ) -> Leaf:
        """One certificate, or the refusal raised: by `guard`, which runs in both transactions."""

        def ask(
            tx: Transaction, numbers: Sequence[int], *, first: bool
        ) -> Mapping[int, TrothError]:
            try:
                guard(tx)
            except TrothError as refusal:
                return dict.fromkeys(numbers, refusal)
            return {}

        (outcome,) = await self.issue(call, [wish], ask)
        if isinstance(outcome, TrothError):
            raise outcome
        return outcome

    async def issue(
        self, call: Call[Any], wishes: Sequence[Wish], guard: Guard
    ) -> list[Leaf | TrothError]:
        """An outcome for each wish, in order; a refused one leaves no trace but its reason.

        `Unavailable` for all of them while the snapshot is stale.
        """
        self.check_fresh()
        for _ in range(ATTEMPTS):
            outcomes = await self._attempt(call, wishes, guard)
            if outcomes is not None:
                return outcomes
        raise Unavailable("The signing authority is being replaced; try again in a moment.")

    async def _attempt(
        self, call: Call[Any], wishes: Sequence[Wish], guard: Guard
    ) -> list[Leaf | TrothError] | None:
        """The outcomes, or None if the authority was replaced meanwhile and all is to do again."""
        authority = await self.store.read(lambda tx: tx.authorities.active(Use.X509))
        outcomes: dict[int, Leaf | TrothError] = {}
        planned = await asyncio.to_thread(self._draft, authority, wishes, outcomes)
        drafts = await self.store.transact(
            lambda tx: self._intend(tx, call, authority, planned, guard, outcomes)
        )
        if drafts is None:
            return None
        try:
            signed = await asyncio.to_thread(self._sign, authority, drafts)
        except Exception as error:
            # Nothing was handed out and we know it: only what a crash leaves open is revoked.
            await self.store.transact(lambda tx: self._give_up(tx, call, drafts))
            if isinstance(error, TrothError):
                raise
            raise Unavailable("The signing key can't be used now; try again.") from error
        done = await self.store.transact(
            lambda tx: self._finish(tx, call, authority, drafts, signed, guard, outcomes)
        )
        if not done:
            return None
        return [outcomes[index] for index in range(len(wishes))]

    def _name_subject(self, wish: Wish) -> str:
        """Identities alone are named: nodes and servers are known by their SPIFFE IDs."""
        named = self.common_names and wish.identity_id is not None
        return name_subject(wish.spiffe_id) if named else ""

    def _draft(
        self, authority: Authority, wishes: Sequence[Wish], outcomes: dict[int, Leaf | TrothError]
    ) -> dict[int, _Draft]:
        drafts: dict[int, _Draft] = {}
        now = self.clock.now()
        for index, wish in enumerate(wishes):
            try:
                plan = plan_certificate(
                    spiffe_id=wish.spiffe_id,
                    public_key=wish.public_key,
                    dns_names=wish.dns_names,
                    ip_addresses=wish.ip_addresses,
                    ttl=wish.ttl,
                    issuer=authority,
                    serial_bytes=self.entropy.token(SERIAL_BYTES),
                    now=now,
                    crl_url=f"{self.crl_base}/{authority.id}.crl" if self.crl_base else None,
                    common_name=self._name_subject(wish),
                )
                drafts[index] = _Draft(wish, plan, draft_certificate(plan, self.drafter))
            except TrothError as refusal:
                outcomes[index] = refusal
        return drafts

    def _intend(
        self,
        tx: Transaction,
        call: Call[Any],
        authority: Authority,
        drafts: dict[int, _Draft],
        guard: Guard,
        outcomes: dict[int, Leaf | TrothError],
    ) -> dict[int, _Draft] | None:
        if not may_record(tx, authority.id):
            return None
        now = self.clock.now()
        refusals = guard(tx, list(drafts), first=True)
        outcomes.update(refusals)
        kept = {index: draft for index, draft in drafts.items() if index not in refusals}
        tx.certificates.add_all_intended([_record(draft, now) for draft in kept.values()])
        tx.journal.append_all([_describe(call, "intended", draft, now) for draft in kept.values()])
        return kept

    def _sign(self, authority: Authority, drafts: dict[int, _Draft]) -> dict[int, bytes]:
        signed: dict[int, bytes] = {}
        verifier = load_verifier(authority.public_key)
        batch = [draft.tbs for draft in drafts.values()]
        signatures = self.keystore.sign_all(authority.key_ref, batch) if batch else []
        for (index, draft), signature in zip(drafts.items(), signatures, strict=True):
            der = assemble_certificate(draft.tbs, signature)
            check_certificate(der, draft.tbs, verifier)
            signed[index] = der
        return signed

    def _give_up(
        self,
        tx: Transaction,
        call: Call[Any],
        drafts: dict[int, _Draft],
        reason: str = "it could not be signed",
    ) -> None:
        now = self.clock.now()
        # A reconciler whose clock is ahead may have closed some, and told so.
        closed = [draft for draft in drafts.values() if tx.certificates.abandon(draft.serial)]
        tx.journal.append_all(
            [_describe(call, "abandoned", draft, now, reason=reason) for draft in closed]
        )

    def _finish(
        self,
        tx: Transaction,
        call: Call[Any],
        authority: Authority,
        drafts: dict[int, _Draft],
        signed: dict[int, bytes],
        guard: Guard,
        outcomes: dict[int, Leaf | TrothError],
    ) -> bool:
        if not may_hand_out(tx, authority.id):
            self._give_up(tx, call, drafts, "its authority is trusted no longer")
            return False
        now = self.clock.now()
        refusals = dict(guard(tx, list(drafts), first=False))
        numbers = {draft.serial: i for i, draft in drafts.items() if i not in refusals}
        lost = tx.certificates.mark_all_issued(
            {serial: signed[index] for serial, index in numbers.items()}
        )
        refusals.update({numbers[serial]: refusal for serial, refusal in lost.items()})
        events: list[Event] = []
        for index, draft in drafts.items():
            if (refusal := refusals.get(index)) is not None:
                if tx.certificates.abandon(draft.serial):  # else the reconciler has told it
                    events.append(_describe(call, "abandoned", draft, now, reason=refusal.detail))
                outcomes[index] = refusal
                continue
            der = signed[index]
            digest = hashlib.sha256(der).hexdigest()
            events.append(_describe(call, "issued", draft, now, sha256=digest))
            outcomes[index] = Leaf(der, draft.serial, draft.plan.not_after, authority.id)
        tx.journal.append_all(events)
        return True


def _describe(call: Call[Any], verbed: str, draft: _Draft, now: datetime, **body: Any) -> Event:
    return make_event(
        draft.wish.call or call,
        f"certificate.{verbed}",
        str(draft.wish.spiffe_id),
        now,
        serial=draft.serial,
        kind=draft.wish.kind.value,
        instance=draft.wish.instance_id,
        node=draft.wish.node_id,
        authority=draft.plan.issuer.id,
        not_after=draft.plan.not_after.isoformat(),
        **body,
    )


def _record(draft: _Draft, now: datetime) -> CertificateRecord:
    wish, plan = draft.wish, draft.plan
    return CertificateRecord(
        serial=draft.serial,
        kind=wish.kind,
        subject=wish.spiffe_id,
        identity_id=wish.identity_id,
        instance_id=wish.instance_id,
        node_id=wish.node_id,
        authority_id=plan.issuer.id,
        state=IssuanceState.INTENDED,
        tbs=draft.tbs,
        not_before=plan.not_before,
        not_after=plan.not_after,
        created_at=now,
    )


@dataclass(frozen=True, slots=True)
class ReconcileIssuance:
    """Background: close what a crash left between intent and result. Idempotent.

    A certificate that was intended and never recorded as issued was never handed out; yet its
    signature may exist, so it is abandoned and revoked. A JWT-SVID can't be revoked: it is
    abandoned, was never handed out, and ends by itself.

    `holder` names this server; a lease keeps two from closing the same, one of which would have to
    do it over.
    """

    store: Store
    clock: Clock
    holder: str

    async def __call__(self) -> None:
        """Abandon everything stranded for longer than `STRANDED_AFTER`."""
        now = self.clock.now()
        if not await self.store.read(lambda tx: _has_stranded(tx, now)):
            return

        def close(tx: Transaction) -> int:
            if not tx.leases.take(
                RECONCILE_LEASE, self.holder, self.clock.now(), RECONCILE_LEASE_TTL
            ):
                return 0
            stranded = tx.certificates.interrupted(now - STRANDED_AFTER, RECONCILE_BATCH)
            for record in stranded:
                tx.certificates.abandon(record.serial)
                revoked = tx.certificates.revoke(record.serial, now, "superseded")
                record_event(
                    tx,
                    BACKGROUND,
                    "certificate.abandoned",
                    str(record.subject),
                    now,
                    serial=record.serial,
                    not_after=record.not_after.isoformat(),
                    reason="interrupted between intent and result",
                )
                if revoked:  # and not before, by a quarantine while it was being signed
                    record_revocations(tx, BACKGROUND, [record.serial], "superseded", now)
            tokens = tx.jwt_svids.interrupted(now - STRANDED_AFTER, RECONCILE_BATCH)
            for token in tokens:
                tx.jwt_svids.abandon(token.jti)
                record_event(tx, BACKGROUND, "jwtsvid.abandoned", token.jti, now)
            return max(len(stranded), len(tokens))

        while await self.store.transact(close) == RECONCILE_BATCH:
            pass
        await self.store.transact(lambda tx: tx.leases.release(RECONCILE_LEASE, self.holder))


def _has_stranded(tx: Transaction, now: datetime) -> bool:
    before = now - STRANDED_AFTER
    return bool(tx.certificates.interrupted(before, 1) or tx.jwt_svids.interrupted(before, 1))
