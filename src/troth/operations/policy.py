"""Versions of the policy set: listed, shown, compared, rolled back; and held changes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from troth.core.errors import Conflict, Refused
from troth.manifests.declared import plan_declared
from troth.operations.applying import (
    Applier,
    check_approver,
    check_pending,
    digest_base,
    name_expired,
    replace_plan,
)
from troth.operations.call import OPEN, Call
from troth.operations.comparing import view_access
from troth.operations.declaration import Changes, make_remaining_book
from troth.operations.planning import Content, Plans, view_change
from troth.operations.recording import record_event
from troth.operations.versions import (
    KINDS,
    SignVersions,
    check_version,
    decode_declared,
    read_declared,
)
from troth.policy.version import Version, find_faults
from troth.store.declarations import Declared, name_kind
from troth.store.engine import Store
from troth.store.policy_sets import Proposal
from troth.store.transaction import Transaction
from troth.wire.api import manifests as manifests_wire
from troth.wire.api import policies as wire


@dataclass(frozen=True, slots=True)
class ListVersions:
    """``policy.history``: every set that was applied, and whether its signature holds."""

    store: Store
    signer: SignVersions

    async def __call__(self, call: Call[wire.ListVersions]) -> wire.VersionPage:
        """The newest first."""
        body = call.body
        # One more, since each is checked against the one before it.
        found = await self.store.read(
            lambda tx: tx.policy_sets.list(before=body.before, limit=body.limit + 1)
        )
        more = len(found) > body.limit
        shown, earlier = found[: body.limit], found[body.limit] if more else None
        key = await self.signer.read_key()
        faults = await asyncio.to_thread(find_faults, reversed(shown), earlier, key)
        return wire.VersionPage(
            items=[_view_version(one, faults[one.number]) for one in shown],
            next=shown[-1].number if more else None,
        )


@dataclass(frozen=True, slots=True)
class ShowVersion:
    """``policy.show``: what one version declares."""

    store: Store
    signer: SignVersions

    async def __call__(self, call: Call[wire.NameVersion]) -> wire.VersionContent:
        """In words; also of one that isn't what was applied, and then it says so."""
        number = int(call.body.number)
        key = await self.signer.read_key()

        def read(tx: Transaction) -> tuple[Version, str, bytes]:
            fault = check_version(tx, number, key)
            return tx.policy_sets.get(number), fault, tx.policy_sets.read_content(number)

        version, fault, content = await self.store.read(read)
        declared = await asyncio.to_thread(_describe, [], decode_declared(content))
        return wire.VersionContent(version=_view_version(version, fault), declared=declared)


@dataclass(frozen=True, slots=True)
class CompareVersions:
    """``policy.diff``: what differs between two versions, and whose access."""

    applier: Applier

    async def __call__(self, call: Call[wire.CompareVersions]) -> wire.Difference:
        """In words, and by the identities as they are now."""
        body = call.body

        def read(tx: Transaction) -> tuple[list[Declared], list[Declared]]:
            before = read_declared(tx, body.before)
            if body.after is not None:
                return before, read_declared(tx, body.after)
            now = [one.value for one in tx.declarations.list()]
            return before, [one for one in now if name_kind(one) in KINDS]

        before, after = await self.applier.store.read(read)
        changes = await asyncio.to_thread(_describe, before, after)
        books = [await asyncio.to_thread(make_remaining_book, 0, one) for one in (before, after)]
        found = await self.applier.comparer.compare_books(books[0], books[1])
        return wire.Difference(
            changes=[one for one in changes if one.action != "keep"],
            access=view_access(found),
            access_more=found.more,
            access_complete=found.complete,
        )


@dataclass(frozen=True, slots=True)
class RollBack:
    """``policy.rollback``: what an earlier version declares becomes a new version; identities,
    templates and issuers stay as they are."""

    applier: Applier

    async def __call__(self, call: Call[wire.RollBack]) -> manifests_wire.ManifestPlan:
        """As ``manifest.apply`` does it; `Refused` for a version that isn't what was applied."""
        number = int(call.body.number)
        key = await self.applier.signer.read_key()
        fault = await self.applier.store.read(lambda tx: check_version(tx, number, key))
        if fault:
            raise Refused(f"Version {number} can't be trusted, so it isn't applied: {fault}")
        content = Content(version=number)
        if call.body.dry_run:
            return await self.applier.plan(call, content)
        return await self.applier.apply(call, content)


@dataclass(frozen=True, slots=True)
class ListHeld:
    """``policy.pending``: changes that wait for a second person."""

    applier: Applier

    async def __call__(self, call: Call[wire.ListHeld]) -> wire.HeldPage:
        """The newest first; without those that expired, unless all are asked for."""
        now, body = self.applier.planner.clock.now(), call.body
        found = await self.applier.store.read(
            lambda tx: tx.proposals.list(pending=not body.all, limit=body.limit)
        )
        named = [name_expired(one, now) for one in found]
        return wire.HeldPage(
            items=[_view_held(one) for one in named if body.all or one.state == "pending"]
        )


@dataclass(frozen=True, slots=True)
class ReviewHeld:
    """``policy.review``: what approving a held change would do, as things are now."""

    applier: Applier

    async def __call__(self, call: Call[wire.NameHeld]) -> wire.HeldPlan:
        """Planned anew; without a plan where there is nothing to approve any more."""
        applier, number = self.applier, int(call.body.number)
        now = applier.planner.clock.now()
        proposal, content = await applier.store.read(lambda tx: _read_held(tx, number))
        proposal = name_expired(proposal, now)
        if proposal.state != "pending":
            return wire.HeldPlan(change=_view_held(proposal), outdated=f"It is {proposal.state}.")
        try:
            wanted = await applier.planner.read(content)
            whoever = replace(call, gate=OPEN)  # who may look at it need not be who may do it
            plans = await applier.store.read(lambda tx: applier.planner.plan(tx, whoever, wanted))
        except Refused as error:
            return wire.HeldPlan(change=_view_held(proposal), outdated=error.detail)
        outdated = "" if digest_base(plans) == proposal.base else _explain_change(number)
        view = await applier.view(wanted, plans)
        return wire.HeldPlan(
            change=_view_held(proposal),
            plan=replace_plan(view, reasons=list(proposal.reasons)),
            outdated=outdated,
        )


@dataclass(frozen=True, slots=True)
class ApproveHeld:
    """``policy.approve``: a second person agrees, and the change is applied."""

    applier: Applier

    async def __call__(self, call: Call[wire.NameHeld]) -> manifests_wire.ManifestPlan:
        """What was applied. `Denied` for its own author, `Refused` for one that was decided or
        expired, `Conflict` if what it was planned against has changed."""
        applier, number = self.applier, int(call.body.number)
        proposal, content = await applier.store.read(lambda tx: _read_held(tx, number))
        check_approver(proposal, call.caller.principal)
        check_pending(proposal, applier.planner.clock.now())
        wanted = await applier.planner.read(content)

        def carry(tx: Transaction) -> Plans:
            now = applier.planner.clock.now()
            held = tx.proposals.get(number)
            check_pending(held, now)
            plans = applier.planner.plan(tx, call, wanted)
            if digest_base(plans) != held.base:
                raise Conflict(_explain_change(number))
            tx.proposals.decide(number, "approved", call.caller.principal, now, "")
            applier.carry_out(tx, call, plans, held.author)
            _note(tx, call, held, "approved", "", applier)
            return plans

        plans = await applier.store.transact(carry)
        await applier.signer.attempt()
        return replace_plan(await applier.view(wanted, plans), applied=True)


@dataclass(frozen=True, slots=True)
class RejectHeld:
    """``policy.reject``: a held change won't be."""

    applier: Applier

    async def __call__(self, call: Call[wire.RejectHeld]) -> wire.HeldChange:
        """Also by its author, who takes it back; `Refused` for one that was decided or expired."""
        number, reason = int(call.body.number), call.body.reason

        def reject(tx: Transaction) -> Proposal:
            now = self.applier.planner.clock.now()
            held = tx.proposals.get(number)
            check_pending(held, now)
            tx.proposals.decide(number, "rejected", call.caller.principal, now, reason)
            _note(tx, call, held, "rejected", reason, self.applier)
            return tx.proposals.get(number)

        return _view_held(await self.applier.store.transact(reject))


def _note(
    tx: Transaction, call: Call[Any], held: Proposal, verb: str, reason: str, applier: Applier
) -> None:
    record_event(
        tx,
        call,
        f"policy.{verb}",
        str(held.number),
        applier.planner.clock.now(),
        change=held.number,
        author=held.author,
        reason=reason,
    )


def _explain_change(number: int) -> str:
    return (
        f"What change {number} was planned against has changed since, so it would do something "
        "else than what was asked for. Reject it, and apply it again."
    )


def _read_held(tx: Transaction, number: int) -> tuple[Proposal, Content]:
    proposal, content = tx.proposals.get(number), tx.proposals.read_content(number)
    return proposal, msgspec.json.decode(content, type=Content) if content else Content()


def _describe(before: list[Declared], after: list[Declared]) -> list[manifests_wire.ManifestChange]:
    """What differs of each kind."""
    changes: Changes = []
    for kind in KINDS:
        sides = [[one for one in side if name_kind(one) == kind] for side in (after, before)]
        changes += plan_declared(kind, sides[0], sides[1], prune=True)
    return [view_change(one.kind, one) for one in changes]


def _view_version(version: Version, fault: str) -> wire.VersionView:
    return wire.VersionView(
        number=version.number,
        digest=version.digest,
        previous=version.previous,
        epoch=version.epoch,
        author=version.author,
        approver=version.approver,
        request_id=version.request_id,
        created_at=version.created_at,
        key_id=version.key_id,
        fault=fault,
    )


def _view_held(held: Proposal) -> wire.HeldChange:
    return wire.HeldChange(
        number=held.number,
        author=held.author,
        request_id=held.request_id,
        created_at=held.created_at,
        expires_at=held.expires_at,
        reasons=list(held.reasons),
        words=list(held.words),
        state=held.state,
        decided_by=held.decided_by,
        decided_at=held.decided_at,
        reason=held.reason,
    )
