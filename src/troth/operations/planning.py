"""Plans: what applying manifests comes to, and carrying it out inside a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

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
from troth.operations.authorship import Surroundings, check_changes, keep_own
from troth.operations.call import Call
from troth.operations.declaration import (
    Changes,
    RememberedBooks,
    apply_declarations,
    list_hidden,
    list_remaining,
    plan_declarations,
    plan_return,
    warn_of_findings,
    warn_of_names,
)
from troth.operations.identity import move_in
from troth.operations.recording import describe_identity, record_identity, record_revocations
from troth.operations.template import apply_in, plan_in
from troth.operations.versions import read_declared
from troth.operations.withdrawal import check_withdrawn
from troth.store.transaction import Transaction
from troth.wire.api import manifests as wire

SHOWN_PROBLEMS = 20
MENTIONED = 1000
"""How many identities that no manifest names any more a plan lists, unless it retires them."""


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants, as it is kept while it waits: manifests, or the rules of a `version`."""

    documents: list[wire.ManifestDocument] = []
    prune: bool = False
    version: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants, read and free of errors."""

    content: Content
    parsed: ManifestSet


@dataclass(frozen=True, slots=True)
class Plans:
    """Every step. `told` are sentences about what is doubtful, such as names that nothing explains;
    `hidden` the kinds and names of which the caller isn't told that they stay as they are."""

    identities: Plan
    templates: TemplatePlan
    declared: Changes
    told: Sequence[str] = ()
    hidden: frozenset[tuple[str, str]] = frozenset()

    @property
    def steps(self) -> list[tuple[str, Change | TemplateChange | DeclaredChange[Any]]]:
        """All of them, with the kind of manifest that each is of."""
        return [
            *((change.kind, change) for change in self.declared),
            *(("Template", change) for change in self.templates.changes),
            *(("Identity", change) for change in self.identities.changes),
        ]

    @property
    def shown(self) -> list[tuple[str, Change | TemplateChange | DeclaredChange[Any]]]:
        """Those that the caller is told of."""
        return [(kind, one) for kind, one in self.steps if (kind, one.name) not in self.hidden]


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
class Planner:
    """Makes plans, and takes their steps."""

    clock: Clock
    entropy: Entropy
    trust_domain: TrustDomain
    limits: Limits
    books: RememberedBooks = field(default_factory=RememberedBooks)

    async def read(self, content: Content) -> Wanted:
        """What is wanted; `Invalid` lists every problem."""
        parsed = await asyncio.to_thread(self._parse, content)  # thousands take a while
        return Wanted(content, parsed)

    def _parse(self, content: Content) -> ManifestSet:
        documents = [PlainDocument(d.value, d.source, d.line) for d in content.documents]
        parsed = parse_manifests(documents, self.limits, self.clock.now())
        if parsed.errors:
            shown = [str(problem) for problem in parsed.errors[:SHOWN_PROBLEMS]]
            raise Invalid("Nothing was changed. " + "; ".join(shown))
        return parsed

    def plan(
        self, tx: Transaction, call: Call[Any], wanted: Wanted, *, only_planned: bool = False
    ) -> Plans:
        """The steps from what is there; `Refused` if they can't be taken together, `Denied` if the
        caller may not have one of them. Where they are `only_planned`, whoever may read everything
        is told in a sentence instead."""
        domain = self.trust_domain
        if wanted.content.version:
            declared = plan_return(tx, read_declared(tx, wanted.content.version), self.books)
            around = Surroundings(tx, domain, list_remaining(declared))
            told = check_changes(call, around, (), (), declared, only_planned=only_planned)
            hidden = list_hidden(call, declared)
            return Plans(Plan(()), TemplatePlan((), ()), declared, told, hidden)
        parsed, prune = wanted.parsed, wanted.content.prune
        plan = self._plan_identities(tx, call, wanted, only_planned=only_planned)
        added = [c.spec for c in plan.changes if c.action is Action.ADD and c.spec is not None]
        templates = plan_in(tx, call, parsed.templates, added, domain, prune=prune)
        declared = plan_declarations(tx, parsed, call, domain, self.books, prune=prune)
        around = Surroundings(tx, domain, list_remaining(declared), parsed.specs)
        told = check_changes(
            call, around, plan.changes, templates.changes, declared, only_planned=only_planned
        )
        told += warn_of_names(tx, parsed, declared)
        hidden = list_hidden(call, declared)
        if not hidden:  # a finding speaks of whatever rules there are
            told += warn_of_findings(declared, self.books, self.clock.now())
        return Plans(plan, templates, declared, told, hidden)

    def _plan_identities(
        self, tx: Transaction, call: Call[Any], wanted: Wanted, *, only_planned: bool
    ) -> Plan:
        parsed, prune = wanted.parsed, wanted.content.prune
        names = {spec.name for spec in parsed.specs}
        living = tx.identities.list_named(names)
        # What no manifest names is retired, all of it; or mentioned, as far as anybody reads.
        limit = None if prune else MENTIONED
        found = tx.identities.list_managed(without=names, limit=limit)
        managed = keep_own(call, found, only_planned=only_planned)
        paths = [SpiffeId.of(self.trust_domain, spec.path) for spec in parsed.specs]
        holders = tx.identities.list_living_at(paths)
        plan = plan_changes(
            parsed.specs,
            list({identity.id: identity for identity in [*living, *managed, *holders]}.values()),
            prune=prune,
            trust_domain=self.trust_domain,
            now=self.clock.now(),
            default_lifetime=self.limits.lifetime_default,
        )
        if plan.refusals:
            raise Refused("Nothing was changed. " + "; ".join(plan.refusals[:SHOWN_PROBLEMS]))
        return plan

    def carry_out(self, tx: Transaction, call: Call[Any], plans: Plans) -> None:
        """Take every step."""
        added = [change for change in plans.identities.changes if change.action is Action.ADD]
        for change in plans.identities.changes:  # removals first: they free names and paths
            self._carry_out_one(tx, call, change)
        self._add_all(tx, call, added)
        now = self.clock.now()
        apply_in(tx, call, plans.templates.changes, now)
        apply_declarations(tx, call, plans.declared, now)

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

    def list_moved(self, plan: Plan) -> tuple[list[Identity], list[Identity]]:
        """The identities that a plan adds, changes or retires: before, and after."""
        now = self.clock.now()
        before, after = [], []
        for change in plan.changes:
            if change.action is Action.KEEP:
                continue
            if change.identity is not None:
                before.append(change.identity)
            if change.action is Action.REMOVE or change.spec is None:
                continue
            if change.identity is not None:
                after.append(apply_spec(change.identity, change.spec, now))
                continue
            after.append(
                new_identity(
                    change.spec,
                    IdentityId("idn_planned"),
                    self.trust_domain,
                    now,
                    self.limits.lifetime_default,
                    State.ACTIVE,
                    managed=True,
                )
            )
        return before, after


def view_change(
    kind: str, change: Change | TemplateChange | DeclaredChange[Any]
) -> wire.ManifestChange:
    """A step as the API shows it."""
    return wire.ManifestChange(
        action=change.action.value, kind=kind, name=change.name, words=list(change.words)
    )
