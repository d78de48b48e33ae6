"""Identities: register, list, show, and move along the life cycle."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Invalid
from troth.core.ids import IdentityId, TrustDomain, new_id
from troth.core.manifest.problem import Limits, PlainDocument
from troth.identity.identity import Identity, Kind, State
from troth.identity.lifecycle import PAST, move_identity
from troth.identity.plan import new_identity
from troth.manifests.reading import parse_manifests
from troth.operations.authorship import check_new
from troth.operations.call import Call
from troth.operations.moments import check_zones
from troth.operations.recording import BACKGROUND, record_identity, record_revocations
from troth.operations.target import target_of
from troth.operations.template import check_unclaimed
from troth.operations.withdrawal import BATCH, check_withdrawn, withdraw_later
from troth.store.engine import Store
from troth.store.identities import mark_page
from troth.store.records import HolderKind
from troth.store.transaction import Transaction
from troth.wire.api import identities as wire

REVOKES = {
    "suspend": "privilegeWithdrawn",
    "quarantine": "privilegeWithdrawn",
    "retire": "cessationOfOperation",
}
"""verb → the RFC 5280 reason with which it revokes whatever the identity holds."""

EXPIRY_BATCH = 100
MOST_PAGES = 20
LEAST_READ = 500
"""Of how many pages one is made for whoever may see a few of the identities alone, and how many
identities each of them has then: what one call reads is bounded."""

COPIES_LOOKED_AT = 4
"""For each identity that is wanted, since many copies may belong to one."""

UNSEEN_AFTER = timedelta(days=30)
"""After so long without a sign of life a registered identity is reported as unattended."""

Choice = TypeVar("Choice", bound=StrEnum)


class Order(StrEnum):
    """How identities are listed."""

    NAME = "name"
    ATTENTION = "attention"


@dataclass(frozen=True, slots=True)
class RegisterIdentity:
    """``identity.register``: one identity, proposed unless it is to be active at once."""

    store: Store
    clock: Clock
    entropy: Entropy
    trust_domain: TrustDomain
    limits: Limits

    async def __call__(self, call: Call[wire.RegisterIdentity]) -> wire.IdentityView:
        """Register it; `Conflict` if its name or SPIFFE ID is taken by a living one."""
        now = self.clock.now()
        body = call.body
        parsed = parse_manifests([PlainDocument(_manifest_of(body))], self.limits, now)
        if parsed.errors:
            raise Invalid("; ".join(f"{p.path}: {p.message}" for p in parsed.errors))
        (spec,) = parsed.specs
        state = State.ACTIVE if body.activate else State.PROPOSED
        made = new_identity(
            spec,
            IdentityId(new_id("idn", self.entropy)),
            self.trust_domain,
            now,
            self.limits.lifetime_default,
            state,
            managed=False,
        )

        call.gate.check(target_of(made))

        def register(tx: Transaction) -> None:
            check_new(call, tx, made)
            check_unclaimed(tx, spec)
            check_withdrawn(tx, [str(made.spiffe_id)])
            tx.identities.add(made)
            record_identity(tx, call, "registered", made, now, purpose=made.purpose)

        await self.store.transact(register)
        return view_identity(made)


def _manifest_of(body: wire.RegisterIdentity) -> dict[str, object]:
    """The manifest that says the same, so that one parser guards both ways in."""
    spec: dict[str, object] = {
        "kind": body.kind,
        "owner": body.owner,
        "purpose": body.purpose,
        "environment": body.environment,
        "nodes": body.nodes,
        "selectors": body.selectors,
        "dnsNames": body.dns_names,
        "ttl": {"x509": f"{body.x509_ttl}s", "jwt": f"{body.jwt_ttl}s"},
    }
    if body.path:
        spec["path"] = body.path
    if body.hint:
        spec["hint"] = body.hint
    if body.expires_at is not None:
        check_zones(expires_at=body.expires_at)
        spec["expires"] = body.expires_at.isoformat()
    return {
        "apiVersion": "troth/v1",
        "kind": "Identity",
        "metadata": {"name": body.name, "labels": body.labels},
        "spec": spec,
    }


@dataclass(frozen=True, slots=True)
class ListIdentities:
    """``identity.ls``: a page of identities by name."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.ListIdentities]) -> wire.IdentityPage:
        """The page; `Invalid` for an unknown state or kind."""
        body = call.body
        state = _choose(State, body.state, "state")
        kind = _choose(Kind, body.kind, "kind")
        since = self.clock.now() - UNSEEN_AFTER
        order = _choose(Order, body.order, "order")

        def page(tx: Transaction) -> wire.IdentityPage:
            if order is Order.ATTENTION and not (state or kind or body.text or body.after):
                found = find_attention(tx, body.limit)
                return wire.IdentityPage(items=_view_seen(tx, _keep(call, found)), next=None)
            kept: list[Identity] = []
            after, limit = body.after, body.limit
            for _ in range(MOST_PAGES):
                found = tx.identities.page(
                    state=state,
                    kind=kind,
                    text=body.text,
                    template=body.template,
                    unattended_since=since if body.unattended else None,
                    after=after,
                    limit=limit,
                    living=body.living,
                )
                kept += _keep(call, found)
                after = mark_page(found[-1]) if len(found) == limit else None
                if after is None or len(kept) >= body.limit:
                    break
                limit = max(body.limit, LEAST_READ)
            if len(kept) > body.limit or (after and len(kept) == body.limit):
                kept = kept[: body.limit]
                after = mark_page(kept[-1])
            return wire.IdentityPage(items=_view_seen(tx, kept), next=after)

        return await self.store.read(page)


@dataclass(frozen=True, slots=True)
class ShowIdentity:
    """``identity.show``: one identity by name."""

    store: Store

    async def __call__(self, call: Call[wire.NameIdentity]) -> wire.IdentityView:
        """The identity; `NotFound` says how to list them."""

        def show(tx: Transaction) -> wire.IdentityView:
            identity = tx.identities.get_named(call.body.name)
            call.gate.check(target_of(identity))
            (view,) = _view_seen(tx, [identity])
            return view

        return await self.store.read(show)


@dataclass(frozen=True, slots=True)
class MoveIdentity:
    """``identity.<verb>``: one step of the life cycle, revoking what the step takes away."""

    verb: str
    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.MoveIdentity]) -> wire.IdentityView:
        """Take the step; `Refused` if it isn't possible from the present state, `Unavailable`
        while certificates that it would make good again are still being revoked."""
        now = self.clock.now()
        # Looked up before: where they are many, the step itself must not even read them.
        later = self.verb in REVOKES and await self.store.read(lambda tx: self._is_much(tx, call))

        def move(tx: Transaction) -> wire.IdentityView:
            identity = tx.identities.get_named(call.body.name)
            call.gate.check(target_of(identity))
            moved = move_in(tx, call, identity, self.verb, call.body.reason, now=now, later=later)
            return view_identity(moved, revoking=tx.withdrawals.find(moved.id) is not None)

        return await self.store.transact(move)

    def _is_much(self, tx: Transaction, call: Call[wire.MoveIdentity]) -> bool:
        identity = tx.identities.get_named(call.body.name)
        now = self.clock.now()
        return tx.certificates.holds_more(HolderKind.IDENTITY, identity.id, now, BATCH)


def move_in(
    tx: Transaction,
    call: Call[Any],
    identity: Identity,
    verb: str,
    reason: str,
    *,
    now: datetime,
    later: bool = False,
) -> Identity:
    """Take one step of the life cycle inside a transaction.

    What it takes away is revoked in the same one, unless that is to be done `later`.
    """
    moved = move_identity(identity, verb, reason, now)
    if verb not in REVOKES:
        check_withdrawn(tx, [str(identity.spiffe_id)])
    tx.identities.save(moved, identity.revision)
    record_identity(tx, call, PAST[verb], moved, now, reason=reason)
    if verb in ("release", "resume"):
        # What was cut off stays ended, also for who learned of it only now.
        tx.token_revocations.end_issued(str(moved.spiffe_id), now)
    if verb not in REVOKES:
        return moved
    if later:
        withdraw_later(tx, call, moved, REVOKES[verb], now)
    else:
        serials = tx.certificates.revoke_for_identity(identity.id, now, REVOKES[verb])
        record_revocations(tx, call, serials, REVOKES[verb], now)
    tx.enrolment_codes.end_for_identity(identity.id, now)
    return moved


def _keep(call: Call[Any], found: list[Identity]) -> list[Identity]:
    """Those of a page that the caller may see."""
    return [identity for identity in found if call.gate.allows(target_of(identity))]


def _choose(choices: type[Choice], text: str | None, what: str) -> Choice | None:
    if text is None:
        return None
    try:
        return choices(text)
    except ValueError:
        known = ", ".join(choice.value for choice in choices)
        raise Invalid(f"{text[:40]!r} is not a {what}; choose one of {known}.") from None


def view_identity(
    identity: Identity,
    last_seen: datetime | None = None,
    instances: int = 0,
    *,
    revoking: bool = False,
) -> wire.IdentityView:
    """The identity as the API shows it."""
    return wire.IdentityView(
        id=identity.id,
        name=identity.name,
        spiffe_id=str(identity.spiffe_id),
        kind=identity.kind.value,
        owner=identity.owner,
        purpose=identity.purpose,
        environment=identity.environment,
        labels=dict(identity.labels),
        selectors=[str(s) for s in identity.selectors],
        nodes=list(identity.nodes),
        dns_names=list(identity.dns_names),
        x509_ttl=_seconds(identity.x509_ttl),
        jwt_ttl=_seconds(identity.jwt_ttl),
        hint=identity.hint,
        expires_at=identity.expires_at,
        state=identity.state.value,
        state_reason=identity.state_reason,
        managed=identity.managed,
        revision=identity.revision,
        created_at=identity.created_at,
        updated_at=identity.updated_at,
        last_seen=last_seen,
        instances=instances,
        template=identity.template,
        revoking=revoking,
    )


def find_attention(tx: Transaction, limit: int) -> list[Identity]:
    """At most `limit` living identities: those that are cut off, then those seen last, then any.

    It costs as much with a million identities as with a thousand.
    """
    found: dict[IdentityId, Identity] = {}
    for state in (State.QUARANTINED, State.SUSPENDED):
        if len(found) < limit:
            held = tx.identities.page(state=state, limit=limit - len(found))
            found.update((identity.id, identity) for identity in held)
    seen = tx.instances.list_seen_last(COPIES_LOOKED_AT * limit)[: 2 * limit]
    known = tx.identities.find_all(i for i in seen if i not in found)
    latest = [known[i] for i in seen if i in known and known[i].state is not State.RETIRED]
    found.update((identity.id, identity) for identity in latest[: limit - len(found)])
    if len(found) < limit:
        rest = tx.identities.page(living=True, limit=limit)
        for identity in rest:
            if len(found) < limit:
                found.setdefault(identity.id, identity)
    return list(found.values())


def _view_seen(tx: Transaction, found: list[Identity]) -> list[wire.IdentityView]:
    ids = [identity.id for identity in found]
    seen = tx.instances.last_seen_by_identity(ids)
    counts = tx.instances.count_by_identity(ids)
    revoking = {withdrawal.holder for withdrawal in tx.withdrawals.list_open()}
    return [
        view_identity(i, seen.get(i.id), counts.get(i.id, 0), revoking=i.id in revoking)
        for i in found
    ]


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())


@dataclass(frozen=True, slots=True)
class ExpireIdentities:
    """Background: retire identities whose time is over. Idempotent."""

    store: Store
    clock: Clock

    async def __call__(self) -> None:
        """Retire what is due, in batches."""
        now = self.clock.now()

        def expire(tx: Transaction) -> int:
            due = tx.identities.due_to_expire(now, EXPIRY_BATCH)
            for identity in due:
                reason = f"expired at {identity.expires_at.isoformat()}"
                move_in(tx, BACKGROUND, identity, "retire", reason, now=now)
            return len(due)

        while await self.store.transact(expire) == EXPIRY_BATCH:
            pass
