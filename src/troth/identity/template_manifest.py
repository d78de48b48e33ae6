"""A manifest of kind Template, from its fields to a template, with what is wrong or doubtful."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from troth.core.errors import Invalid
from troth.core.ids import SpiffeId
from troth.core.manifest.kind import ManifestKind
from troth.core.manifest.problem import Node
from troth.identity.naming import VARIABLES, Naming, check_length, covers, list_claimants
from troth.identity.pattern import ANCHORS, Pattern
from troth.identity.readers import ANY_NODE
from troth.identity.template import Template, rank_match
from troth.identity.template_fields import TEMPLATE_SPEC

MOST_COMPARED = 200
"""Templates of one rank that are compared with each other."""
ROOT = "0"


def make_template(node: Node, values: dict[str, Any]) -> Template | None:
    """The template of a document whose fields are read; None with its errors noted."""
    before = len(node.problems)
    match: tuple[Pattern, ...] = values["match"]
    section = node.child("spec")
    if values["prefix"] is None:
        values["prefix"] = "/" + values["name"].replace(".", "/")
    if values["naming"] is None:
        values["naming"] = derive_naming(match)
    values["needs_approval"] = values.pop("start") == "proposed"
    _check_anchor(section, match)
    _check_naming(section, match, values["prefix"], values["naming"])
    if len(node.problems) > before:
        return None
    template = Template(**values)
    _warn_about_reach(section, template)
    return template


def derive_naming(match: tuple[Pattern, ...]) -> Naming:
    """The node, then every variable whose value the patterns leave open."""
    return Naming("/".join(f"{{{name}}}" for name in ("node", *_list_open(match))))


def _list_open(match: tuple[Pattern, ...]) -> list[str]:
    """The variables that tell one fitting process from another."""
    named = {key: name for name, key in VARIABLES.items() if key}
    return [named[pattern.key] for pattern in match if not pattern.is_exact]


def _check_anchor(section: Node, match: tuple[Pattern, ...]) -> None:
    if not any(pattern.key in ANCHORS for pattern in match):
        section.child("match").error(
            "names no uid and no unit: another program under the same uid can pass for a path, a "
            f"hash or a group. Add one of {' or '.join(ANCHORS)}."
        )


def _check_naming(section: Node, match: tuple[Pattern, ...], prefix: str, naming: Naming) -> None:
    place = section.child("naming") if section.value.get("naming") is not None else section
    keys = {pattern.key for pattern in match}
    for name in sorted(naming.variables - {"node"}):
        if VARIABLES[name] not in keys:
            place.error(f"{{{name}}} has no value: no pattern asks for {VARIABLES[name]}.")
    missing = [name for name in _list_open(match) if name not in naming.variables]
    for name in missing:
        place.error(
            f"two processes with another {VARIABLES[name]} would get the same name: add "
            f"{{{name}}} to 'naming'."
        )
    if (ambiguity := naming.find_ambiguity()) is not None:
        place.error(f"two processes could get the same name: {ambiguity}")
    try:
        check_length(prefix, naming)
        if section.limits.trust_domain is not None:
            SpiffeId.of(section.limits.trust_domain, f"{prefix}/{'x' * naming.longest}")
    except Invalid as error:
        place.error(error.detail)


def _warn_about_reach(section: Node, template: Template) -> None:
    elsewhere = len(template.nodes) > 1 or ANY_NODE in template.nodes
    if elsewhere and "node" not in template.naming.variables:
        section.child("naming").warn(
            "the same identity on several nodes: whoever controls one of them holds it for all. "
            "Add {node} if they needn't be one."
        )
    for pattern in template.match:
        if pattern.key == "unix:uid" and not pattern.is_exact and pattern.fits(ROOT):
            section.child("match").warn("root (uid 0) is in the range; begin it at 1.")


def report_rivals(read: Iterable[tuple[Node, Template]]) -> None:
    """Warn where two templates may fit one process equally well, which then gets nothing."""
    groups: dict[tuple[int, ...], list[tuple[Node, Template]]] = {}
    for node, template in read:
        group = groups.setdefault(rank_match(template.match), [])
        rival = next((other for _, other in group if may_rival(template, other)), None)
        if rival is not None:
            node.child("spec").child("match").warn(
                f"may fit the same process as template '{rival.name}', and neither is more "
                "special: such a process gets nothing. Make one of them narrower."
            )
        if len(group) < MOST_COMPARED:
            group.append((node, template))


def may_rival(one: Template, other: Template) -> bool:
    """Whether some process on some node may fit both, with the same rank."""
    if rank_match(one.match) != rank_match(other.match):
        return False
    if not (ANY_NODE in one.nodes or any(map(other.allows, one.nodes))):
        return False
    theirs = {pattern.key: pattern for pattern in other.match}
    return all(p.meets(theirs[p.key]) for p in one.match if p.key in theirs)


def find_prefix_conflicts(templates: Iterable[Template]) -> list[tuple[Template, Template]]:
    """Pairs of which the second's prefix is, or lies in or around, that of the first."""
    found: list[tuple[Template, Template]] = []
    ordered = sorted(templates, key=lambda one: (one.prefix.split("/"), one.name))
    for number, first in enumerate(ordered):
        for second in ordered[number + 1 :]:
            if not covers(first.prefix, second.prefix):
                break  # sorted by their parts, all that lie in the first follow it at once
            found.append((first, second))
    return found


def find_claimant(templates: Iterable[Template], name: str, path: str) -> Template | None:
    """The template to whose prefix an identity of that name and path would belong."""
    claimants = list_claimants(name, path)
    return next((one for one in templates if one.prefix in claimants), None)


TEMPLATE = ManifestKind("Template", TEMPLATE_SPEC, make_template)
