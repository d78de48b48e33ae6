"""JWT-SVIDs: the same pipeline of intent, act and result. A token itself is never stored."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Denied, TrothError, Unavailable
from troth.core.ids import IdentityId, NodeId, new_id
from troth.drivers.keystores import Keystore
from troth.identity.identity import Identity
from troth.issuance.authorities import Authority, Use
from troth.issuance.jwtsvid import (
    JwtPlan,
    check_jwt,
    finish_jwt,
    plan_jwt_svid,
    render_signing_input,
)
from troth.live.snapshot import Snapshot
from troth.operations.admission import (
    Claim,
    note_instances,
    open_admission,
    read_claim,
    require_node,
)
from troth.operations.call import Call
from troth.operations.certificate import limit_ttl
from troth.operations.leaf import ATTEMPTS
from troth.operations.recording import record_event
from troth.operations.succession import may_hand_out, may_record
from troth.store.engine import Store
from troth.store.records import IssuanceState, JwtSvidRecord
from troth.store.transaction import Transaction
from troth.wire.api import certificates as wire


@dataclass(frozen=True, slots=True)
class IssueJwtSvid:
    """``jwtsvid.issue``: one JWT-SVID for an instance that the calling node attested."""

    store: Store
    clock: Clock
    entropy: Entropy
    snapshot: Snapshot
    keystore: Keystore
    issuer_url: str

    async def __call__(self, call: Call[wire.IssueJwtSvid]) -> wire.IssuedJwtSvid:
        """The token; `Denied` with the reason if the instance may not have it."""
        self.snapshot.check_fresh()
        for _ in range(ATTEMPTS):
            issued = await self._attempt(call)
            if issued is not None:
                return issued
        raise Unavailable("The signing authority is being replaced; try again in a moment.")

    async def _attempt(self, call: Call[wire.IssueJwtSvid]) -> wire.IssuedJwtSvid | None:
        """The token, or None if the authority was replaced meanwhile and all is to do again."""
        node_id = require_node(call.caller)
        identity, authority = await self.store.read(
            lambda tx: (
                tx.identities.find(IdentityId(call.body.identity_id)),
                tx.authorities.active(Use.JWT),
            )
        )
        if identity is None:
            raise Denied(f"There is no identity {call.body.identity_id[:60]!r} for this node.")
        claim = read_claim(node_id, identity.id, call.body.instance)
        plan = self._plan(identity, authority, call.body.audiences)
        signing_input = render_signing_input(plan)
        record = _record(plan, identity, node_id, authority, signing_input)
        if not await self.store.transact(lambda tx: self._intend(tx, call, claim, record)):
            return None
        signature = await asyncio.to_thread(self.keystore.sign, authority.key_ref, signing_input)
        token = finish_jwt(signing_input, signature)
        check_jwt(token, signing_input, signature, authority.public_key)
        outcome = await self.store.transact(lambda tx: self._finish(tx, call, claim, record))
        if outcome is None:
            return None
        if isinstance(outcome, TrothError):
            raise outcome
        return wire.IssuedJwtSvid(
            spiffe_id=str(identity.spiffe_id), token=token, expires_at=plan.expires_at
        )

    def _plan(self, identity: Identity, authority: Authority, audiences: list[str]) -> JwtPlan:
        now = self.clock.now()
        return plan_jwt_svid(
            spiffe_id=identity.spiffe_id,
            audiences=audiences,
            issuer=authority,
            issuer_url=self.issuer_url,
            jti=new_id("jti", self.entropy),
            ttl=limit_ttl(identity.jwt_ttl, identity, now),
            now=now,
        )

    def _intend(
        self,
        tx: Transaction,
        call: Call[wire.IssueJwtSvid],
        claim: Claim,
        record: JwtSvidRecord,
    ) -> bool:
        if not may_record(tx, record.authority_id):
            return False
        now = self.clock.now()
        identity = open_admission(tx, call.caller, [claim], now).check(claim)
        note_instances(tx, require_node(call.caller), [claim], now)
        tx.jwt_svids.add_intended(record)
        self._note(tx, call, "intended", record, identity)
        return True

    def _finish(
        self,
        tx: Transaction,
        call: Call[wire.IssueJwtSvid],
        claim: Claim,
        record: JwtSvidRecord,
    ) -> TrothError | JwtSvidRecord | None:
        """The record; None if all is to do again; or the refusal, returned rather than raised:
        raising would roll the abandoning back."""
        if not may_hand_out(tx, record.authority_id):
            tx.jwt_svids.abandon(record.jti)
            self._note(tx, call, "abandoned", record)
            return None
        try:
            now = self.clock.now()
            identity = open_admission(tx, call.caller, [claim], now).check(claim)
        except TrothError as refusal:
            tx.jwt_svids.abandon(record.jti)
            self._note(tx, call, "abandoned", record)
            return refusal
        tx.jwt_svids.mark_issued(record.jti)
        self._note(tx, call, "issued", record, identity)
        return record

    def _note(
        self,
        tx: Transaction,
        call: Call[wire.IssueJwtSvid],
        verbed: str,
        record: JwtSvidRecord,
        identity: Identity | None = None,
    ) -> None:
        identity = identity or tx.identities.get(record.identity_id)
        record_event(
            tx,
            call,
            f"jwtsvid.{verbed}",
            str(identity.spiffe_id),
            self.clock.now(),
            jti=record.jti,
            audiences=list(record.audiences),
            node=record.node_id,
            sha256=record.digest,
            expires_at=record.expires_at.isoformat(),
        )


def _record(
    plan: JwtPlan, identity: Identity, node_id: NodeId, authority: Authority, signing_input: bytes
) -> JwtSvidRecord:
    return JwtSvidRecord(
        jti=plan.jti,
        identity_id=identity.id,
        node_id=node_id,
        audiences=plan.audiences,
        authority_id=authority.id,
        state=IssuanceState.INTENDED,
        digest=hashlib.sha256(signing_input).hexdigest(),
        issued_at=plan.issued_at,
        expires_at=plan.expires_at,
    )
