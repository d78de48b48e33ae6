"""From the templates that manifests want and those that are there to changes, told in words."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from troth.core.manifest.reader import render_duration
from troth.identity.plan import LEFT_ALONE, Action
from troth.identity.readers import ANY_NODE
from troth.identity.template import Template
from troth.identity.template_manifest import find_prefix_conflicts, may_rival

GONE = (
    "makes no more identities: it is in no manifest",
    "those it made stay until nobody puts their end off: unattendedAfter from when each was seen",
)


@dataclass(frozen=True, slots=True)
class StoredTemplate:
    """A template as it is there; `revision` counts changes and starts at 1."""

    template: Template
    revision: int


@dataclass(frozen=True, slots=True)
class TemplateChange:
    """One step: add has a `template`, remove what is `stored`, change both."""

    action: Action
    name: str
    words: tuple[str, ...]
    template: Template | None = None
    stored: StoredTemplate | None = None


@dataclass(frozen=True, slots=True)
class TemplatePlan:
    """All steps in their order; with `refusals` none may be taken. `remaining` is what follows."""

    changes: tuple[TemplateChange, ...]
    remaining: tuple[Template, ...]
    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def plan_templates(
    wanted: Sequence[Template],
    current: Iterable[StoredTemplate],
    *,
    prune: bool,
    others: Container[str] = (),
) -> TemplatePlan:
    """Compare `wanted` with what is there; only `prune` removes what is in no manifest. It leaves
    those alone that are `others`', by name, and says nothing of them."""
    there = {stored.template.name: stored for stored in current}
    names = {template.name for template in wanted}
    absent = {name: stored for name, stored in there.items() if name not in names}
    changes = [_plan_absence(s, prune=prune) for n, s in absent.items() if n not in others]
    changes += [_plan_one(template, there.get(template.name)) for template in wanted]
    remaining = [
        *_list_staying(changes),
        *(stored.template for name, stored in absent.items() if name in others),
    ]
    refusals = [
        f"The prefix '{second.prefix}' of template '{second.name}' lies in that of "
        f"'{first.name}'; give each its own."
        for first, second in find_prefix_conflicts(remaining)
    ]
    order = (Action.REMOVE, Action.CHANGE, Action.ADD, Action.KEEP)
    changes.sort(key=lambda change: (order.index(change.action), change.name))
    warnings = _list_rivals(wanted, [t for t in remaining if t.name not in names])
    return TemplatePlan(tuple(changes), tuple(remaining), tuple(refusals), tuple(warnings))


def _list_staying(changes: Iterable[TemplateChange]) -> Iterator[Template]:
    for change in changes:
        if change.action is not Action.REMOVE and change.template is not None:
            yield change.template
        elif change.action is not Action.REMOVE and change.stored is not None:
            yield change.stored.template


def _plan_absence(stored: StoredTemplate, *, prune: bool) -> TemplateChange:
    name = stored.template.name
    if prune:
        return TemplateChange(Action.REMOVE, name, GONE, stored=stored)
    words = LEFT_ALONE.replace("retire", "remove")
    return TemplateChange(Action.KEEP, name, (words,), stored=stored)


def _plan_one(template: Template, stored: StoredTemplate | None) -> TemplateChange:
    if stored is None:
        words = (_describe_reach(template), *_describe_terms(template))
        return TemplateChange(Action.ADD, template.name, words, template)
    before = describe_template(stored.template)
    differing = [
        f"{name}: {before[name]} → {value}"
        for name, value in describe_template(template).items()
        if value != before[name]
    ]
    if not differing:
        return TemplateChange(Action.KEEP, template.name, (), template, stored)
    differing.append("identities that it made take this over when their end is next put off")
    return TemplateChange(Action.CHANGE, template.name, tuple(differing), template, stored)


def describe_template(template: Template) -> Mapping[str, str]:
    """Each field as manifests call it, in words."""
    return {
        "match": " and ".join(sorted(map(str, template.match))),
        "nodes": ", ".join(sorted(template.nodes)),
        "prefix": template.prefix,
        "naming": template.naming.text,
        "kind": template.kind.value,
        "owner": template.owner,
        "purpose": template.purpose,
        "environment": template.environment,
        "labels": " ".join(f"{k}={v}" for k, v in sorted(template.labels.items())) or "none",
        "ttl.x509": render_duration(template.x509_ttl),
        "ttl.jwt": render_duration(template.jwt_ttl),
        "hint": template.hint or "none",
        "unattendedAfter": render_duration(template.unattended_after),
        "retireAfter": render_duration(template.retire_after),
        "expires": f"{template.lifetime.days}d",
        "max": str(template.limit),
        "start": "proposed" if template.needs_approval else "active",
    }


def _describe_reach(template: Template) -> str:
    fields = describe_template(template)
    any_node = ANY_NODE in template.nodes
    where = "any attested node" if any_node else f"node {fields['nodes']}"
    return (
        f"each workload with {fields['match']} on {where} gains its own "
        f"{template.kind.value} {template.prefix}/{template.naming.text} at first sight"
    )


def _describe_terms(template: Template) -> Iterator[str]:
    fields = describe_template(template)
    yield (
        f"of {template.owner} in {template.environment}: {template.purpose}; at most "
        f"{template.limit} at a time, {fields['ttl.x509']} certificates, no DNS names"
    )
    yield (
        f"each ends {fields['unattendedAfter']} after it was seen last, or after "
        f"{fields['expires']}, and is retired {fields['retireAfter']} later"
    )
    if template.needs_approval:
        yield "each starts as proposed and waits for `troth identity activate`"


def _list_rivals(wanted: Sequence[Template], others: Sequence[Template]) -> Iterator[str]:
    """The manifests were compared with each other; what is there beside them is compared here."""
    for template in wanted:
        rival = next((other for other in others if may_rival(template, other)), None)
        if rival is not None:
            yield (
                f"Template '{template.name}' may fit the same process as '{rival.name}', which is "
                "in no manifest here, and neither is more special: such a process gets nothing."
            )
