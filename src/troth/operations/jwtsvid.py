"""JWT-SVIDs in batches: the same pipeline of intent, act and result. A token is never stored."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Denied, Internal, TrothError, Unavailable
from troth.core.events import Event
from troth.core.ids import IdentityId, NodeId, new_ordered_id
from troth.core.jose.jwk import derive_key_id
from troth.drivers.keystores import Keystore
from troth.identity.identity import Identity
from troth.issuance.authorities import Authority, Use
from troth.issuance.der import load_verifier
from troth.issuance.jwtsvid import (
    JwtPlan,
    check_jwt,
    finish_jwt,
    plan_jwt_svid,
    render_header,
    render_signing_input,
)
from troth.live.snapshot import Snapshot
from troth.operations.admission import (
    Claim,
    ClaimGuard,
    limit_ttl,
    read_claim,
    read_identities,
    require_node,
)
from troth.operations.call import Call
from troth.operations.leaf import ATTEMPTS
from troth.operations.recording import make_event
from troth.operations.succession import may_hand_out, may_record
from troth.store.engine import Store
from troth.store.records import IssuanceState, JwtSvidRecord
from troth.store.transaction import Transaction
from troth.wire.api import jwt_svids as wire
from troth.wire.api.certificates import Failure


@dataclass(frozen=True, slots=True)
class _Wish:
    identity: Identity
    claim: Claim
    audiences: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Draft:
    """A token before it is signed; `digest` is the SHA-256 (hex) of the bytes to be signed, and
    `told` what its events say."""

    wish: _Wish
    plan: JwtPlan
    signing_input: bytes
    digest: str
    told: Mapping[str, Any]


_Drafts = Mapping[int, _Draft]
"""By place among the wishes."""
_Refusals = dict[int, TrothError]


@dataclass(frozen=True, slots=True)
class IssueJwtSvids:
    """``jwtsvid.issue``: JWT-SVIDs for instances that the calling node attested, in batches."""

    store: Store
    clock: Clock
    entropy: Entropy
    snapshot: Snapshot
    keystore: Keystore
    issuer_url: str

    async def __call__(self, call: Call[wire.IssueJwtSvids]) -> wire.IssuedJwtSvids:
        """An answer for each request, in order; one refusal doesn't touch the others."""
        self.snapshot.check_fresh()
        node_id = require_node(call.caller)
        requests = call.body.requests
        wanted = (request.identity_id for request in requests)
        identities = await read_identities(self.store, self.snapshot, wanted)
        answers: dict[int, wire.IssuedJwtSvid] = {}
        wishes: dict[int, _Wish] = {}
        for index, request in enumerate(requests):
            try:
                wishes[index] = _read_wish(node_id, identities, request)
            except TrothError as refusal:
                answers[index] = _refuse(request, refusal)
        outcomes = await self._issue(call, list(wishes.values()), identities)
        for index, outcome in zip(wishes, outcomes, strict=True):
            if isinstance(outcome, TrothError):
                outcome = _refuse(requests[index], outcome)
            answers[index] = outcome
        return wire.IssuedJwtSvids(results=[answers[index] for index in range(len(requests))])

    async def _issue(
        self,
        call: Call[Any],
        wishes: Sequence[_Wish],
        identities: Mapping[IdentityId, Identity],
    ) -> list[wire.IssuedJwtSvid | TrothError]:
        claims = [wish.claim for wish in wishes]
        guard = ClaimGuard(call.caller, self.clock, claims, identities, _shape)
        for _ in range(ATTEMPTS if wishes else 0):
            outcomes = await self._attempt(call, wishes, guard)
            if outcomes is not None:
                return [outcomes[number] for number in range(len(wishes))]
        if wishes:
            raise Unavailable("The signing authority is being replaced; try again in a moment.")
        return []

    async def _attempt(
        self, call: Call[Any], wishes: Sequence[_Wish], guard: ClaimGuard
    ) -> dict[int, wire.IssuedJwtSvid | TrothError] | None:
        """The outcomes, or None if the authority was replaced meanwhile and all is to do again."""
        authority = await self.store.read(lambda tx: tx.authorities.active(Use.JWT))
        planned, outcomes = await asyncio.to_thread(
            self._draft, authority, wishes, call.caller.node_id
        )
        refused = await self.store.transact(
            lambda tx: self._intend(tx, call, authority, planned, guard)
        )
        if refused is None:
            return None
        outcomes.update(refused)
        drafts = {number: draft for number, draft in planned.items() if number not in refused}
        try:
            tokens = await asyncio.to_thread(self._sign, authority, drafts)
        except Exception as error:
            # Nothing was handed out and we know it.
            reason = "it could not be signed"
            await self.store.transact(lambda tx: self._abandon(tx, call, drafts, reason))
            if isinstance(error, TrothError):
                raise
            raise Unavailable("The signing key can't be used now; try again.") from error
        refused = await self.store.transact(
            lambda tx: self._finish(tx, call, authority, drafts, guard)
        )
        if refused is None:
            return None
        answers = {number: _answer(draft, tokens[number]) for number, draft in drafts.items()}
        return {**outcomes, **answers, **refused}

    def _draft(
        self, authority: Authority, wishes: Sequence[_Wish], node_id: NodeId | None
    ) -> tuple[dict[int, _Draft], dict[int, wire.IssuedJwtSvid | TrothError]]:
        drafts: dict[int, _Draft] = {}
        refusals: dict[int, wire.IssuedJwtSvid | TrothError] = {}
        now, kid = self.clock.now(), derive_key_id(authority.public_key)
        header = render_header(kid)
        for number, wish in enumerate(wishes):
            try:
                # It would prove nothing: the second in which this copy's tokens ended isn't over.
                self.snapshot.tokens.check_issuing((wish.claim.instance_id,), now)
                plan = plan_jwt_svid(
                    spiffe_id=wish.identity.spiffe_id,
                    audiences=wish.audiences,
                    issuer=authority,
                    issuer_url=self.issuer_url,
                    jti=new_ordered_id("jti", now, self.entropy),
                    ttl=limit_ttl(wish.identity.jwt_ttl, wish.identity, now),
                    now=now,
                    kid=kid,
                    instance=wish.claim.instance_id,
                )
            except TrothError as refusal:
                refusals[number] = refusal
                continue
            drafts[number] = _make_draft(wish, plan, header, node_id)
        return drafts, refusals

    def _intend(
        self,
        tx: Transaction,
        call: Call[Any],
        authority: Authority,
        drafts: _Drafts,
        guard: ClaimGuard,
    ) -> _Refusals | None:
        if not may_record(tx, authority.id):
            return None
        now = self.clock.now()
        refusals = guard(tx, drafts, first=True)
        kept = [draft for number, draft in drafts.items() if number not in refusals]
        node_id = call.caller.node_id
        tx.jwt_svids.add_all_intended([_record(draft, node_id, authority) for draft in kept])
        if kept:
            tx.journal.append(_announce(call, authority, kept, now))
        return refusals

    def _sign(self, authority: Authority, drafts: _Drafts) -> dict[int, str]:
        tokens: dict[int, str] = {}
        verifier = load_verifier(authority.public_key)
        batch = [draft.signing_input for draft in drafts.values()]
        signatures = self.keystore.sign_all(authority.key_ref, batch) if batch else []
        for (number, draft), signature in zip(drafts.items(), signatures, strict=True):
            token = finish_jwt(draft.signing_input, signature)
            check_jwt(token, draft.signing_input, signature, verifier)
            tokens[number] = token
        return tokens

    def _finish(
        self,
        tx: Transaction,
        call: Call[Any],
        authority: Authority,
        drafts: _Drafts,
        guard: ClaimGuard,
    ) -> _Refusals | None:
        """The refusals, returned rather than raised: raising would roll the abandoning back."""
        if not may_hand_out(tx, authority.id):
            self._abandon(tx, call, drafts, "its authority is trusted no longer")
            return None
        now = self.clock.now()
        refusals = guard(tx, drafts, first=False)
        numbers = {draft.plan.jti: n for n, draft in drafts.items() if n not in refusals}
        lost = tx.jwt_svids.mark_all_issued(list(numbers))
        refusals.update({numbers[jti]: refusal for jti, refusal in lost.items()})
        events: list[Event] = []
        for number, draft in drafts.items():
            refusal = refusals.get(number)
            if refusal is None:
                events.append(_describe(call, "issued", draft, now))
            else:
                if tx.jwt_svids.abandon(draft.plan.jti):  # else the reconciler has told it
                    events.append(_describe(call, "abandoned", draft, now, reason=refusal.detail))
        tx.journal.append_all(events)
        return refusals

    def _abandon(self, tx: Transaction, call: Call[Any], drafts: _Drafts, reason: str) -> None:
        now = self.clock.now()
        closed = [draft for draft in drafts.values() if tx.jwt_svids.abandon(draft.plan.jti)]
        tx.journal.append_all(
            [_describe(call, "abandoned", draft, now, reason=reason) for draft in closed]
        )


def _shape(identity: Identity) -> object:
    """What of an identity goes into its tokens."""
    return identity.spiffe_id, identity.jwt_ttl


def _read_wish(
    node_id: NodeId, identities: Mapping[IdentityId, Identity], request: wire.JwtSvidRequest
) -> _Wish:
    identity = identities.get(IdentityId(request.identity_id))
    if identity is None:
        raise Denied(f"There is no identity {request.identity_id[:60]!r} for this node.")
    claim = read_claim(node_id, identity.id, request.instance)
    return _Wish(identity, claim, request.audiences)


def _answer(draft: _Draft, token: str) -> wire.IssuedJwtSvid:
    return wire.IssuedJwtSvid(
        identity_id=draft.wish.identity.id,
        spiffe_id=str(draft.plan.spiffe_id),
        token=token,
        expires_at=draft.plan.expires_at,
    )


def _refuse(request: wire.JwtSvidRequest, refusal: TrothError) -> wire.IssuedJwtSvid:
    if isinstance(refusal, Internal):
        raise refusal
    failure = Failure(code=refusal.code, detail=refusal.detail)
    return wire.IssuedJwtSvid(identity_id=request.identity_id[:128], error=failure)


def _make_draft(wish: _Wish, plan: JwtPlan, header: bytes, node_id: NodeId | None) -> _Draft:
    signing_input = render_signing_input(plan, header)
    digest = hashlib.sha256(signing_input).hexdigest()
    told = {
        "jti": plan.jti,
        "audiences": plan.audiences,
        "instance": wish.claim.instance_id,
        "node": node_id,
        "sha256": digest,
        "expires_at": plan.expires_at.isoformat(),
    }
    return _Draft(wish, plan, signing_input, digest, told)


def _announce(
    call: Call[Any], authority: Authority, drafts: Sequence[_Draft], now: datetime
) -> Event:
    """One event for the intents of a batch: each token's own record is in the same transaction,
    and each token gets an event of its own when its fate is known."""
    tokens = {draft.plan.jti: draft.digest for draft in drafts}
    return make_event(
        call, "jwtsvid.intended", call.caller.principal, now, authority=authority.id, tokens=tokens
    )


def _describe(call: Call[Any], verbed: str, draft: _Draft, now: datetime, **body: Any) -> Event:
    subject = str(draft.plan.spiffe_id)
    return make_event(call, f"jwtsvid.{verbed}", subject, now, **draft.told, **body)


def _record(draft: _Draft, node_id: NodeId | None, authority: Authority) -> JwtSvidRecord:
    plan = draft.plan
    return JwtSvidRecord(
        jti=plan.jti,
        identity_id=draft.wish.identity.id,
        node_id=node_id,
        audiences=plan.audiences,
        authority_id=authority.id,
        state=IssuanceState.INTENDED,
        digest=draft.digest,
        issued_at=plan.issued_at,
        expires_at=plan.expires_at,
    )
