"""Applying: at once, or held until a second person agrees.

What is about resources of sensitivity critical must be agreed to by somebody other than who asked
for it. It is kept as it was submitted, with a digest of what it was planned against: what is
approved is what was looked at, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec

from troth.core.errors import Denied, Refused
from troth.identity.plan import Action
from troth.operations.call import Call
from troth.operations.comparing import Comparer, find_critical, view_access
from troth.operations.declaration import list_remaining
from troth.operations.planning import Content, Planner, Plans, Wanted, view_change
from troth.operations.recording import record_event
from troth.operations.versions import KINDS, SignVersions, record_version
from troth.store.declarations import describe_declared
from troth.store.engine import Store
from troth.store.policy_sets import Proposal
from troth.store.transaction import Transaction
from troth.wire.api import manifests as wire

PENDING = timedelta(days=7)
"""How long a held change may be approved."""
MOST_PENDING = 100
MOST_WORDS = 200
LARGEST = 16 << 20
"""Bytes of a change that can be held."""


@dataclass(frozen=True, slots=True)
class Applier:
    """Plans, holds and applies. With `second_person` what is critical waits for somebody else."""

    store: Store
    planner: Planner
    signer: SignVersions
    second_person: bool = True

    @property
    def comparer(self) -> Comparer:
        """What tells whose access changes."""
        return Comparer(self.store, self.planner)

    async def plan(self, call: Call[Any], content: Content) -> wire.ManifestPlan:
        """What applying would do."""
        wanted = await self.planner.read(content)

        def plan(tx: Transaction) -> tuple[Plans, tuple[str, ...]]:
            plans = self.planner.plan(tx, call, wanted, only_planned=True)
            return plans, self._find_reasons(plans)

        plans, reasons = await self.store.read(plan)
        return replace_plan(await self.view(wanted, plans), reasons=list(reasons))

    async def apply(self, call: Call[Any], content: Content) -> wire.ManifestPlan:
        """All of it or nothing, in one transaction; or held."""
        wanted = await self.planner.read(content)

        def carry(tx: Transaction) -> tuple[Plans, Proposal | None]:
            plans = self.planner.plan(tx, call, wanted)
            reasons = self._find_reasons(plans)
            if reasons:
                return plans, self._hold(tx, call, wanted, plans, reasons)
            self.carry_out(tx, call, plans)
            return plans, None

        plans, held = await self.store.transact(carry)
        view = await self.view(wanted, plans)
        if held is not None:
            return replace_plan(view, held=held.number, reasons=list(held.reasons))
        await self.signer.attempt()
        return replace_plan(view, applied=True)

    def _find_reasons(self, plans: Plans) -> tuple[str, ...]:
        return find_critical(self.planner, plans) if self.second_person else ()

    def carry_out(self, tx: Transaction, call: Call[Any], plans: Plans, author: str = "") -> None:
        """Take every step, and record the version that this makes."""
        self.planner.carry_out(tx, call, plans)
        if any(one.kind in KINDS and one.action is not Action.KEEP for one in plans.declared):
            remaining = list_remaining(plans.declared)
            record_version(tx, call, remaining, self.planner.clock.now(), author)

    async def view(self, wanted: Wanted, plans: Plans) -> wire.ManifestPlan:
        """A plan as the API shows it, with whose access changes."""
        found = await self.comparer.compare(plans)
        return wire.ManifestPlan(
            changes=[view_change(kind, change) for kind, change in plans.shown],
            warnings=[
                *(str(problem) for problem in wanted.parsed.warnings),
                *plans.templates.warnings,
                *plans.told,
            ],
            access=view_access(found),
            access_more=found.more,
            access_complete=found.complete,
        )

    def _hold(
        self,
        tx: Transaction,
        call: Call[Any],
        wanted: Wanted,
        plans: Plans,
        reasons: Sequence[str],
    ) -> Proposal:
        now = self.planner.clock.now()
        content = msgspec.json.encode(wanted.content)
        if len(content) > LARGEST:
            raise Refused(
                "A change that somebody else must approve may have "
                f"{LARGEST >> 20} MiB; apply it in parts."
            )
        if tx.proposals.count_pending(now) >= MOST_PENDING:
            raise Refused(
                f"{MOST_PENDING} changes wait for approval already: `troth policy pending` lists "
                "them; approve or reject some."
            )
        proposal = Proposal(
            number=tx.proposals.next_number(),
            author=call.caller.principal,
            request_id=call.request_id,
            created_at=now,
            expires_at=now + PENDING,
            base=digest_base(plans),
            reasons=tuple(reasons),
            words=tuple(list_words(plans)),
        )
        tx.proposals.add(proposal, content)
        record_event(
            tx,
            call,
            "policy.held",
            str(proposal.number),
            now,
            change=proposal.number,
            author=proposal.author,
            reasons=list(reasons),
            words=list(proposal.words),
            until=proposal.expires_at.isoformat(),
        )
        return proposal


def replace_plan(plan: wire.ManifestPlan, **changes: Any) -> wire.ManifestPlan:
    """The plan with other fields."""
    return msgspec.structs.replace(plan, **changes)


def list_words(plans: Plans) -> list[str]:
    """The steps that change something, one a line, as far as anybody reads."""
    signs = {Action.ADD: "+", Action.CHANGE: "~", Action.REMOVE: "-"}
    found = [
        f"{signs[step.action]} {kind} {step.name}: {'; '.join(step.words)}"[:500]
        for kind, step in plans.steps
        if step.action is not Action.KEEP
    ]
    more = len(found) - MOST_WORDS
    return found if more <= 0 else [*found[:MOST_WORDS], f"{more} more steps."]


def digest_base(plans: Plans) -> str:
    """What a plan was made against: all that is declared now, and the steps from there."""
    there = [
        (one.kind, one.name, describe_declared(one.stored))
        for one in plans.declared
        if one.stored is not None
    ]
    steps = [
        (kind, step.name, step.action.value, step.words)
        for kind, step in plans.steps
        if kind != "Identity" and step.action is not Action.KEEP
    ]
    # The words of an identity say when it ends, and that moves on while the change waits.
    moved = [
        (one.name, one.action.value, one.identity and (one.identity.id, one.identity.revision))
        for one in plans.identities.changes
        if one.action is not Action.KEEP
    ]
    there.sort(key=lambda one: one[:2])
    return sha256(msgspec.json.encode((there, steps, moved), order="sorted")).hexdigest()


def check_pending(proposal: Proposal, now: datetime) -> None:
    """Raise `Refused` unless a held change may still be decided."""
    if proposal.state != "pending":
        raise Refused(
            f"Change {proposal.number} was {proposal.state} by {proposal.decided_by}. Apply it "
            "again if it is wanted after all."
        )
    if now >= proposal.expires_at:
        raise Refused(
            f"Change {proposal.number} expired on {proposal.expires_at:%Y-%m-%d}. Apply it again."
        )


def check_approver(proposal: Proposal, principal: str) -> None:
    """Raise `Denied` unless somebody else than its author approves a change."""
    if proposal.author == principal:
        raise Denied(
            f"Change {proposal.number} is yours ({principal}): somebody else must approve it."
        )


def name_expired(proposal: Proposal, now: datetime) -> Proposal:
    """The held change, with the state that it has now."""
    if proposal.state == "pending" and now >= proposal.expires_at:
        return replace(proposal, state="expired")
    return proposal
