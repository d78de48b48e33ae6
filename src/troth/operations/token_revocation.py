"""The end of access tokens before their time: ``token.revoke`` and ``token.surrender``.

They are two, since a name is a permission: whoever operates the server ends tokens that others
hold, by their ``jti`` or by whose they are, an identity's or one running copy's; any client gives
its own up, by showing them (RFC 7009; sections in brackets).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from troth.core.clock import Clock
from troth.core.errors import Invalid, Refused, TrothError
from troth.core.ids import InstanceId
from troth.core.jose.jws import parse_token
from troth.identity.identity import Identity
from troth.issuance.accesstoken import LEEWAY, TYP
from troth.issuance.profiles import TOKENS_OVER
from troth.live.snapshot import Snapshot
from troth.operations.bearer import Rejected, TokenJudge, Verified
from troth.operations.call import Call, Target
from troth.operations.client import Authenticator, Proven
from troth.operations.introspection import use_up
from troth.operations.recording import record_event
from troth.operations.rejection import RejectionJournal, name_caller
from troth.operations.target import target_of
from troth.operations.throttle import Throttle
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import tokens as wire
from troth.wire.oauth.errors import UnsupportedTokenType
from troth.wire.oauth.request import OAuthRequest

REACH = timedelta(seconds=1)
"""How long another server may take to know of a revocation, and until then to exchange a token that
ended for one that wasn't issued yet: what is issued so soon afterwards ends too."""

BURST = 200
PER_SECOND = 10.0
"""Tokens that one client may surrender: every server remembers each for as long as it would have
lived."""


@dataclass(frozen=True, slots=True)
class RevokeTokens:
    """``token.revoke``: end one token, or all that an identity or one running copy of it has."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.RevokeTokens]) -> wire.TokensRevoked:
        """What ended; `Refused` if that token was revoked before."""
        body, now = call.body, self.clock.now()
        if [body.jti, body.identity, body.instance].count(None) != 2:
            raise Invalid(
                "Name either the jti of one token, or an identity or an instance whose tokens all "
                "end."
            )

        def revoke(tx: Transaction) -> wire.TokensRevoked:
            if body.jti is not None:
                call.gate.check(Target())  # nobody knows whose it is
                return _revoke_one(tx, call, body.jti, now)
            if body.instance is not None:
                return _revoke_instance(tx, call, InstanceId(body.instance), now)
            identity = tx.identities.get_named(body.identity or "")
            call.gate.check(target_of(identity))
            until = end_tokens(tx, call, identity, now, body.reason)
            return _answer(until, spiffe_id=str(identity.spiffe_id))

        return await self.store.transact(revoke)


def _revoke_one(
    tx: Transaction, call: Call[wire.RevokeTokens], jti: str, now: datetime
) -> wire.TokensRevoked:
    """No row says when it expires, so it is remembered as if it had been issued just now."""
    end = now + TOKENS_OVER
    if not tx.token_revocations.add(jti, end):
        raise Refused(f"The token {jti} was revoked before.")
    _record(tx, call, jti, now, end, jti=jti, reason=call.body.reason)
    return wire.TokensRevoked(expires_at=end, jti=jti)


def _revoke_instance(
    tx: Transaction, call: Call[wire.RevokeTokens], instance_id: InstanceId, now: datetime
) -> wire.TokensRevoked:
    instance = tx.instances.get(instance_id)
    identity = tx.identities.get(instance.identity_id)
    call.gate.check(target_of(identity))
    until = end_tokens(tx, call, identity, now, call.body.reason, instance.id)
    return _answer(until, instance=instance.id)


def end_tokens(
    tx: Transaction,
    call: Call[Any],
    identity: Identity,
    now: datetime,
    reason: str,
    instance: InstanceId | None = None,
) -> datetime:
    """End all that was issued to an identity, or to that running copy of it alone; the moment up to
    which tokens ended."""
    until, spiffe_id = now + REACH, str(identity.spiffe_id)
    whose = {"spiffe_id": spiffe_id} if instance is None else {"instance": instance}
    tx.token_revocations.end_issued(instance or spiffe_id, until)
    _record(
        tx,
        call,
        spiffe_id,
        now,
        until + TOKENS_OVER,
        issued_until=until.isoformat(),
        reason=reason,
        **whose,
    )
    return until


def _answer(until: datetime, **whose: str) -> wire.TokensRevoked:
    return wire.TokensRevoked(expires_at=until + TOKENS_OVER, issued_until=until, **whose)


@dataclass(frozen=True, slots=True)
class Restraint:
    """What a client may do with the revocation endpoint, and what is noted of what it may not."""

    rejections: RejectionJournal
    throttle: Throttle


def restrain(rejections: RejectionJournal, clock: Clock) -> Restraint:
    """The restraint of all clients of one server."""
    return Restraint(rejections, Throttle(clock, BURST, PER_SECOND))


@dataclass(frozen=True, slots=True)
class SurrenderToken:
    """``token.surrender``: a client has no more use for a token of its own (RFC 7009)."""

    store: Store
    snapshot: Snapshot
    clock: Clock
    authenticator: Authenticator
    judge: TokenJudge
    restraint: Restraint

    async def __call__(self, call: Call[OAuthRequest]) -> None:
        """Nothing is answered, whether it lived or not [2.2]; a hint is looked at by nobody [2.1].

        `UnsupportedTokenType` for a JWT that is no access token [2.2.1], `Limited` for very many.
        """
        client = await self.authenticator.authenticate(call.body)
        text = call.body.form.require("token")
        _check_type(text)
        found = await self.judge.verify(text, await self.judge.read_bundle())
        mine = isinstance(found, Verified) and found.claims["client_id"] == client.client_id
        if isinstance(found, Verified) and mine and not self.snapshot.tokens.is_revoked(found.jti):
            self.restraint.throttle.check(client.client_id)
            self.restraint.throttle.count(client.client_id)
            await self._revoke(call, client, found)
            return
        if client.proofs:
            await self.store.transact(lambda tx: use_up(tx, client))
        if isinstance(found, Verified) and not mine:
            reason = "A client can't surrender the token of another one."
            found = Rejected(reason, found)
        elif isinstance(found, Verified) or found.token is not None:
            return  # it ended before, as tokens do
        await self.restraint.rejections.record(call, client, found)

    async def _revoke(self, call: Call[OAuthRequest], client: Proven, token: Verified) -> None:
        now = self.clock.now()
        end = datetime.fromtimestamp(token.claims["exp"], UTC) + LEEWAY

        def revoke(tx: Transaction) -> None:
            use_up(tx, client)
            if tx.token_revocations.add(token.jti, end):
                by_client = name_caller(call, client)
                reason = "surrendered"
                _record(tx, by_client, token.subject, now, end, jti=token.jti, reason=reason)

        await self.store.transact(revoke)


def _record(
    tx: Transaction, call: Call[Any], subject: str, now: datetime, end: datetime, **body: Any
) -> None:
    record_event(tx, call, "token.revoked", subject, now, expires_at=end.isoformat(), **body)


def _check_type(text: str) -> None:
    """Raise `UnsupportedTokenType` for what says itself that it is something else."""
    try:
        typ = str(parse_token(text).header.get("typ", "JWT")).lower()
    except TrothError:
        return  # no JWT at all: unknown here, and that is no error
    if typ.removeprefix("application/") != TYP:
        raise UnsupportedTokenType(
            "Access tokens can be revoked here, and this is another kind of token (its typ says)."
        )
