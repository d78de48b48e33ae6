"""Rotation of signing authorities by hand: prepare, activate, taint, revoke.

In that order nobody is ever refused: verifiers learn of the successor before it signs, holders
replace what the old one signed, and only then it leaves the bundle. With `force` steps go faster,
for a key that was stolen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from troth.core.clock import Clock
from troth.core.errors import Refused, Unavailable
from troth.core.ids import AuthorityId
from troth.issuance.authorities import (
    TOKEN_ALGORITHMS,
    Authority,
    AuthorityState,
    Use,
    check_activation,
    check_revocation,
    check_taint,
)
from troth.operations.call import Call
from troth.operations.recording import name_key, record_authority
from troth.operations.succession import (
    AuthorityMaker,
    activate,
    add_prepared,
    has_living,
    hold_lease,
    last_token_end,
)
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import authorities as wire

ATTEMPTS = 5
"""How often who still needs an authority is counted anew because others changed meanwhile."""


@dataclass(frozen=True, slots=True)
class ListAuthorities:
    """``authority.ls``: every authority, and who still needs it."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.ListAuthorities]) -> wire.AuthorityList:
        """The oldest first."""
        now = self.clock.now()
        return await self.store.read(
            lambda tx: wire.AuthorityList(
                items=[_describe(tx, authority, now) for authority in tx.authorities.list()]
            )
        )


@dataclass(frozen=True, slots=True)
class PrepareAuthority:
    """``authority.prepare``: make the next authority of a use and publish it."""

    store: Store
    clock: Clock
    maker: AuthorityMaker

    async def __call__(self, call: Call[wire.PrepareAuthority]) -> wire.SigningAuthority:
        """It doesn't sign yet. `Refused` if one waits already."""
        use = Use(call.body.use)
        # A holder of its own: background work of this very server is somebody else.
        holder = f"{call.caller.principal} {call.request_id}"
        async with hold_lease(self.store, self.clock, use, holder) as held:
            if not held:
                raise Unavailable(
                    f"The {use.value} authorities are being changed now; try again in a moment."
                )
            await self.store.read(lambda tx: self._check_free(tx, use))
            made = await self.maker.make(call, use)
            now = self.clock.now()
            prepared = await self.store.transact(
                lambda tx: add_prepared(tx, call, made, now, reason=call.body.reason)
            )
        return await self.store.read(lambda tx: _describe(tx, prepared, now))

    def _check_free(self, tx: Transaction, use: Use) -> None:
        now = self.clock.now()
        for authority in tx.authorities.list(use):
            if authority.state is AuthorityState.PREPARED and authority.is_valid(now):
                raise Refused(
                    f"Authority {authority.id} is prepared already; activate it, or revoke it "
                    "first if it shall not be used."
                )


@dataclass(frozen=True, slots=True)
class ActivateAuthority:
    """``authority.activate``: let a prepared authority sign."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.ForceAuthority]) -> wire.SigningAuthority:
        """The one that signed until now retires. `Refused` too early, unless forced."""
        body, now = call.body, self.clock.now()

        def move(tx: Transaction) -> Authority:
            authority = tx.authorities.get(AuthorityId(body.id))
            check_activation(authority, now, force=body.force)
            if authority.use is Use.X509:
                listed = tx.crls.latest(authority.id)
                if listed is None or listed.der is None:
                    # Verifiers that check lists refuse a chain without one.
                    raise Unavailable(
                        f"Authority {authority.id} has no revocation list yet; try again in a "
                        "moment."
                    )
            forced = body.force and now < authority.ready_at
            return activate(tx, call, authority, now, reason=body.reason, forced=forced)

        moved = await self.store.transact(move)
        return await self.store.read(lambda tx: _describe(tx, moved, now))


@dataclass(frozen=True, slots=True)
class TaintAuthority:
    """``authority.taint``: have all that an authority signed replaced at once."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.MoveAuthority]) -> wire.SigningAuthority:
        """It stays published until it is revoked. `Refused` for the active one."""
        now = self.clock.now()

        def move(tx: Transaction) -> Authority:
            authority = tx.authorities.get(AuthorityId(call.body.id))
            check_taint(authority)
            tainted = replace(authority, state=AuthorityState.TAINTED)
            tx.authorities.save(tainted)
            record_authority(tx, call, "tainted", tainted, now, reason=call.body.reason)
            return tainted

        moved = await self.store.transact(move)
        return await self.store.read(lambda tx: _describe(tx, moved, now))


@dataclass(frozen=True, slots=True)
class RevokeAuthority:
    """``authority.revoke``: take an authority out of the bundle, for good."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.ForceAuthority]) -> wire.SigningAuthority:
        """`Refused` for the active one, and while somebody depends on it, unless forced."""
        for _ in range(ATTEMPTS):
            answer = await self._attempt(call)
            if answer is not None:
                return answer
        raise Unavailable("Other authorities are being changed; try again in a moment.")

    async def _attempt(self, call: Call[wire.ForceAuthority]) -> wire.SigningAuthority | None:
        """The revoked authority, or None if others changed meanwhile and all is to do again."""
        now = self.clock.now()
        counted = await self.store.read(lambda tx: self._count(tx, call.body, now))
        moved = await self.store.transact(lambda tx: self._revoke(tx, call, counted, now))
        if moved is None:
            return None
        return await self.store.read(lambda tx: _describe(tx, moved, now))

    def _count(self, tx: Transaction, body: wire.ForceAuthority, now: datetime) -> _Count:
        authority = tx.authorities.get(AuthorityId(body.id))
        check_revocation(authority, 0, force=body.force)
        return _Count(tx.authorities.list(), _count_holders(tx, authority, now))

    def _revoke(
        self, tx: Transaction, call: Call[wire.ForceAuthority], counted: _Count, now: datetime
    ) -> Authority | None:
        """The revoked authority; None if what was counted may be wrong by now.

        Counting here would hold up every writer for as long as it takes, and on PostgreSQL collide
        with each issuance until it is given up. What was counted can only fall as long as no
        authority changes: one that is past signs nothing more, and holders gain newer
        certificates. (Who loses a newer one meanwhile was cut off on purpose.)
        """
        body = call.body
        authority = tx.authorities.get(AuthorityId(body.id))
        if not body.force and tx.authorities.list() != counted.authorities:
            return None
        check_revocation(authority, counted.holders, force=body.force)
        revoked = replace(authority, state=AuthorityState.REVOKED)
        tx.authorities.save(revoked)
        record_authority(
            tx, call, "revoked", revoked, now, reason=body.reason, holders=counted.holders
        )
        return revoked


@dataclass(frozen=True, slots=True)
class _Count:
    """How many held on to one authority while these were all there were."""

    authorities: list[Authority]
    holders: int


def _count_holders(tx: Transaction, authority: Authority, now: datetime) -> int:
    """Who lives on what it signed alone. A token has no replacement: each counts until its end.

    Access tokens have no rows: whoever holds one counts as one holder.
    """
    if authority.use in TOKEN_ALGORITHMS:
        return int(authority.retired_at is not None and has_living(tx, authority, now))
    if authority.use is Use.JWT:
        return tx.jwt_svids.count_living(authority.id, now)
    return tx.certificates.count_unreplaced(authority.id, now)


def _describe(tx: Transaction, authority: Authority, now: datetime) -> wire.SigningAuthority:
    past = authority.state is not AuthorityState.ACTIVE
    return wire.SigningAuthority(
        id=authority.id,
        use=authority.use.value,
        state=authority.state.value,
        key_id=name_key(authority),
        created_at=authority.created_at,
        not_before=authority.not_before,
        not_after=authority.not_after,
        ready_at=authority.ready_at if authority.state is AuthorityState.PREPARED else None,
        needed_until=_last_end(tx, authority, now) if past else None,
        holders=_count_holders(tx, authority, now) if past else None,
    )


def _last_end(tx: Transaction, authority: Authority, now: datetime) -> datetime | None:
    if authority.use in TOKEN_ALGORITHMS:
        end = last_token_end(authority)
        return end if end is not None and end > now else None
    signed = tx.certificates if authority.use is Use.X509 else tx.jwt_svids
    return signed.last_end(authority.id, now)
