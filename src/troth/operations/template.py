"""Templates: planned and applied with the other manifests, listed, and kept apart from the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from troth.core.errors import Refused
from troth.core.ids import TrustDomain
from troth.identity.identity import IdentitySpec
from troth.identity.naming import list_claimants, name_path
from troth.identity.plan import Action
from troth.identity.template import MAX_TEMPLATES, Template
from troth.identity.template_manifest import find_claimant
from troth.identity.template_plan import (
    StoredTemplate,
    TemplateChange,
    TemplatePlan,
    plan_templates,
)
from troth.operations.authorship import may_drop, reads_all
from troth.operations.call import Call
from troth.operations.recording import record_event
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import templates as wire


def check_unclaimed(tx: Transaction, spec: IdentitySpec) -> None:
    """Raise `Refused` if name or path of a new identity belong to a template."""
    owner = tx.templates.find_owner(list_claimants(spec.name, spec.path))
    if owner is not None:
        raise Refused(explain_claim(owner, spec))


def explain_claim(owner: str, spec: IdentitySpec) -> str:
    """Why an identity can't have this name and path."""
    return (
        f"'{spec.name}' at {spec.path} would be one of template '{owner}', whose names and paths "
        "nobody else may have. Choose others."
    )


def plan_in(
    tx: Transaction,
    call: Call[Any],
    wanted: Sequence[Template],
    added: Sequence[IdentitySpec],
    trust_domain: TrustDomain,
    *,
    prune: bool,
) -> TemplatePlan:
    """The plan for templates; `Refused` if it can't be, with `added` new identities beside it. A
    prune reaches those that the caller may declare."""
    there = tx.templates.list()
    hidden = prune or not reads_all(call)
    others = {
        one.template.name
        for one in there
        if hidden and not may_drop(call, one.template, trust_domain)
    }
    plan = plan_templates(wanted, there, prune=prune, others=others)
    refusals = list(plan.refusals)
    if len(plan.remaining) > MAX_TEMPLATES:
        refusals.append(f"There would be more than {MAX_TEMPLATES:,} templates.")
    for change in plan.changes:
        if change.action in (Action.ADD, Action.CHANGE) and change.template is not None:
            refusals += _find_intruders(tx, change.template, trust_domain)
    if plan.remaining:
        for spec in added:
            owner = find_claimant(plan.remaining, spec.name, spec.path)
            if owner is not None:
                refusals.append(explain_claim(owner.name, spec))
    if refusals:
        raise Refused("Nothing was changed. " + "; ".join(refusals[:20]))
    return plan


def _find_intruders(tx: Transaction, template: Template, trust_domain: TrustDomain) -> list[str]:
    found = tx.identities.find_intruder(
        f"spiffe://{trust_domain}{template.prefix}", name_path(template.prefix), template.name
    )
    if found is None:
        return []
    return [
        f"The prefix '{template.prefix}' of template '{template.name}' belongs to '{found.name}' "
        f"at {found.spiffe_id.path}. Choose another prefix, or retire that identity first."
    ]


def apply_in(
    tx: Transaction, call: Call[Any], changes: Sequence[TemplateChange], now: datetime
) -> None:
    """Take the steps of a plan inside a transaction."""
    for change in changes:
        name, words = change.name, list(change.words)
        if change.action is Action.ADD and change.template is not None:
            tx.templates.add(change.template, now)
            record_event(tx, call, "template.added", name, now, name=name, words=words)
        elif change.action is Action.CHANGE and change.template and change.stored:
            tx.templates.save(change.stored, change.template, now)
            record_event(tx, call, "template.changed", name, now, name=name, words=words)
        elif change.action is Action.REMOVE:
            tx.templates.remove(name)
            record_event(tx, call, "template.removed", name, now, name=name, words=words)


@dataclass(frozen=True, slots=True)
class ListTemplates:
    """``template.ls``: all templates, with how many identities of each live."""

    store: Store

    async def __call__(self, call: Call[wire.ListTemplates]) -> wire.TemplateList:
        """By name."""

        def collect(tx: Transaction) -> wire.TemplateList:
            return wire.TemplateList(
                items=[
                    _view(stored, tx.identities.count_of_template(stored.template.name))
                    for stored in tx.templates.list()
                ]
            )

        return await self.store.read(collect)


def _view(stored: StoredTemplate, living: int) -> wire.TemplateView:
    template = stored.template
    return wire.TemplateView(
        name=template.name,
        prefix=template.prefix,
        naming=template.naming.text,
        match=[str(pattern) for pattern in template.match],
        nodes=list(template.nodes),
        kind=template.kind.value,
        owner=template.owner,
        purpose=template.purpose,
        environment=template.environment,
        labels=dict(template.labels),
        x509_ttl=_seconds(template.x509_ttl),
        jwt_ttl=_seconds(template.jwt_ttl),
        hint=template.hint,
        unattended_after=_seconds(template.unattended_after),
        retire_after=_seconds(template.retire_after),
        lifetime=_seconds(template.lifetime),
        max=template.limit,
        start="proposed" if template.needs_approval else "active",
        identities=living,
        revision=stored.revision,
    )


def _seconds(span: timedelta) -> int:
    return int(span.total_seconds())
