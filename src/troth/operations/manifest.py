"""Manifests: plan in words, apply all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Invalid, Refused
from troth.core.ids import IdentityId, SpiffeId, TrustDomain, new_id
from troth.core.manifest.problem import Limits, PlainDocument
from troth.identity.identity import Identity, State
from troth.identity.plan import Action, Change, Plan, apply_spec, new_identity, plan_changes
from troth.identity.template_plan import TemplateChange, TemplatePlan
from troth.manifests.declared import DeclaredChange
from troth.manifests.reading import ManifestSet, parse_manifests
from troth.operations.authorship import (
    check_declared,
    check_identities,
    check_templates,
    keep_own,
)
from troth.operations.call import Call
from troth.operations.declaration import (
    Changes,
    apply_declarations,
    list_remaining,
    plan_declarations,
    warn_of_findings,
    warn_of_names,
)
from troth.operations.identity import move_in
from troth.operations.recording import describe_identity, record_identity, record_revocations
from troth.operations.template import apply_in, plan_in
from troth.operations.withdrawal import check_withdrawn
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import manifests as wire

SHOWN_PROBLEMS = 20
MENTIONED = 1000
"""How many identities that no manifest names any more a plan lists, unless it retires them."""


_Plans = tuple[Plan, TemplatePlan, Changes, list[str]]
"""With what is doubtful: names that nothing explains, and findings about rules."""


def loses_access(before: Identity, after: Identity) -> bool:
    """Whether some process that holds the identity, or a name in it, is not meant any more.

    Its certificates are revoked then; whoever is still meant gets a new one on the open stream.
    """
    return (
        before.selectors != after.selectors
        or not set(before.nodes) <= set(after.nodes)
        or not set(before.dns_names) <= set(after.dns_names)
    )


@dataclass(frozen=True, slots=True)
class SubmitManifests:
    """``manifest.plan`` and ``manifest.apply``: the same steps, with and without the last one."""

    apply: bool
    store: Store
    clock: Clock
    entropy: Entropy
    trust_domain: TrustDomain
    limits: Limits

    async def __call__(self, call: Call[wire.SubmitManifests]) -> wire.ManifestPlan:
        """The plan; applied in one transaction when asked. `Invalid` lists every problem."""
        parsed = await asyncio.to_thread(self._parse, call.body)  # thousands take a while
        if self.apply:
            plans = await self.store.transact(lambda tx: self._carry_out(tx, call, parsed))
        else:
            plans = await self.store.read(lambda tx: self._plan(tx, call, parsed))
        plan, templates, declared, names = plans
        return wire.ManifestPlan(
            changes=[
                *(_view_change(change.kind, change) for change in declared),
                *(_view_change("Template", change) for change in templates.changes),
                *(_view_change("Identity", change) for change in plan.changes),
            ],
            warnings=[*(str(problem) for problem in parsed.warnings), *templates.warnings, *names],
            applied=self.apply,
        )

    def _parse(self, body: wire.SubmitManifests) -> ManifestSet:
        documents = [PlainDocument(d.value, d.source, d.line) for d in body.documents]
        parsed = parse_manifests(documents, self.limits, self.clock.now())
        if parsed.errors:
            shown = [str(problem) for problem in parsed.errors[:SHOWN_PROBLEMS]]
            raise Invalid("Nothing was changed. " + "; ".join(shown))
        return parsed

    def _plan(
        self, tx: Transaction, call: Call[wire.SubmitManifests], parsed: ManifestSet
    ) -> _Plans:
        names = {spec.name for spec in parsed.specs}
        living = tx.identities.list_named(names)
        # What no manifest names is retired, all of it; or mentioned, as far as anybody reads.
        limit = None if call.body.prune else MENTIONED
        managed = keep_own(call, tx.identities.list_managed(without=names, limit=limit))
        paths = [SpiffeId.of(self.trust_domain, spec.path) for spec in parsed.specs]
        holders = tx.identities.list_living_at(paths)
        plan = plan_changes(
            parsed.specs,
            list({identity.id: identity for identity in [*living, *managed, *holders]}.values()),
            prune=call.body.prune,
            trust_domain=self.trust_domain,
            now=self.clock.now(),
            default_lifetime=self.limits.lifetime_default,
        )
        if plan.refusals:
            raise Refused("Nothing was changed. " + "; ".join(plan.refusals[:SHOWN_PROBLEMS]))
        added = [c.spec for c in plan.changes if c.action is Action.ADD and c.spec is not None]
        templates = plan_in(tx, parsed.templates, added, self.trust_domain, prune=call.body.prune)
        declared = plan_declarations(tx, parsed, call)
        remaining = list_remaining(declared)
        check_identities(call, plan.changes, remaining)
        check_templates(call, templates.changes)
        check_declared(call, declared, remaining)
        doubts = [
            *warn_of_names(tx, parsed, declared),
            *warn_of_findings(declared, self.clock.now()),
        ]
        return plan, templates, declared, doubts

    def _carry_out(
        self, tx: Transaction, call: Call[wire.SubmitManifests], parsed: ManifestSet
    ) -> _Plans:
        plans = self._plan(tx, call, parsed)
        plan, templates, declared, _ = plans
        added = [change for change in plan.changes if change.action is Action.ADD]
        for change in plan.changes:  # removals first: they free names and paths
            self._carry_out_one(tx, call, change)
        self._add_all(tx, call, added)
        now = self.clock.now()
        apply_in(tx, call, templates.changes, now)
        apply_declarations(tx, call, declared, now)
        return plans

    def _add_all(self, tx: Transaction, call: Call[Any], added: Sequence[Change]) -> None:
        now = self.clock.now()
        made = [
            new_identity(
                change.spec,
                IdentityId(new_id("idn", self.entropy)),
                self.trust_domain,
                now,
                self.limits.lifetime_default,
                State.ACTIVE,
                managed=True,
            )
            for change in added
            if change.spec is not None
        ]
        check_withdrawn(tx, [str(one.spiffe_id) for one in made])
        tx.identities.add_all(made)
        tx.journal.append_all(
            [
                describe_identity(call, "registered", one, now, words=list(change.words))
                for change, one in zip(added, made, strict=True)
            ]
        )

    def _carry_out_one(self, tx: Transaction, call: Call[Any], change: Change) -> None:
        now = self.clock.now()
        if change.action is Action.CHANGE and change.spec and change.identity:
            changed = apply_spec(change.identity, change.spec, now)
            tx.identities.save(changed, change.identity.revision)
            words, before = list(change.words), change.identity
            record_identity(tx, call, "changed", changed, now, before, words=words)
            if loses_access(change.identity, changed):
                serials = tx.certificates.revoke_for_identity(changed.id, now, "superseded")
                record_revocations(tx, call, serials, "superseded", now)
        elif change.action is Action.REMOVE and change.identity:
            reason = "removed from the manifests"
            move_in(tx, call, change.identity, "retire", reason, now=now)


def _view_change(
    kind: str, change: Change | TemplateChange | DeclaredChange[Any]
) -> wire.ManifestChange:
    return wire.ManifestChange(
        action=change.action.value, kind=kind, name=change.name, words=list(change.words)
    )
