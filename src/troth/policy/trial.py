"""Trials: questions with the answers that they should have, put to a rule book."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from troth.core import glob
from troth.policy.comparison import UNTOLD
from troth.policy.decision import decide
from troth.policy.explanation import Explanation, explain
from troth.policy.fact import GRANTED, Facts, Value, find_value
from troth.policy.inquiry import Inquiry, Party, make_question
from troth.policy.resource import Resource
from troth.policy.rule import SYSTEM, Principal
from troth.policy.rulebook import RuleBook

_OWN = f"role/{SYSTEM}"


@dataclass(frozen=True, slots=True)
class Case:
    """One question: may this party do `action` to a thing of that type and id, or to some thing of
    the resource called `resource`, with these `facts`? `expected` is the answer, `by` the rules
    that must determine it, `missing` the facts that must be named as missing; `place` says where
    it stands."""

    name: str
    place: str
    action: str
    expected: bool
    resource: str = ""
    resource_type: str = ""
    resource_id: str = ""
    properties: Mapping[str, Any] = field(default_factory=dict)
    action_properties: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)
    at: datetime | None = None
    by: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """How one case went. `failures` are sentences; none: it passed."""

    case: Case
    allowed: bool
    determining: tuple[str, ...]
    reason: str
    missing: tuple[str, ...]
    failures: tuple[str, ...]


def run_case(book: RuleBook, party: Party | None, case: Case, now: datetime) -> Trial:
    """The answer to a case as of its own time, or `now`. Nobody is permitted nothing."""
    resource = _find_resource(book, case)
    if party is None or resource is None or case.action not in resource.actions:
        reason = _explain_absence(case, party, resource)
        return _check(case, False, (), Explanation(reason))
    known = _add_facts(book, party, case.facts)
    id_ = case.resource_id or glob.fill(resource.pattern) or resource.name
    told: dict[str, Mapping[str, Any]] = {
        "resource": case.properties,
        "action": case.action_properties,
        **{group: case.facts[group] for group in _TOLD if group in case.facts},
    }
    inquiry = Inquiry(case.action, resource.entity_type, id_, told)
    at = case.at or now
    decision = decide(book.index, make_question(book, resource, inquiry, known), at)
    return _check(case, decision.allowed, decision.determining, explain(book, decision, at))


_TOLD = ("request", "task", "delegation")


def _find_resource(book: RuleBook, case: Case) -> Resource | None:
    if case.resource:
        return book.resources.get(case.resource)
    return book.match(case.resource_type, case.resource_id)


def _explain_absence(case: Case, party: Party | None, resource: Resource | None) -> str:
    if party is None:
        return "Nobody of that name is declared here."
    if resource is None:
        what = case.resource or f"{case.resource_type}:{case.resource_id}"
        return f"No resource is declared for {what}."
    return f"Resource {resource.name} has no action {case.action}."


def _add_facts(book: RuleBook, party: Party, facts: Facts) -> Party:
    """The party with what the case says of trust, grants and so on."""
    known: dict[str, Mapping[str, Value]] = dict(party.facts)
    for group in ("trust", "grant", "identity", "subject"):
        if group in facts:
            known[group] = {**known.get(group, {}), **facts[group]}
    principal = party.principal
    granted = find_value(facts, GRANTED)
    if isinstance(granted, tuple):
        roles = book.expand((*principal.roles, *granted))
        principal = Principal(principal.type, principal.id, roles)
    return Party(principal, known)


def _check(
    case: Case,
    allowed: bool,
    determining: tuple[str, ...],
    explanation: Explanation,
) -> Trial:
    words = {True: "permit", False: "deny"}
    found: list[str] = []
    if allowed is not case.expected:
        found.append(f"expected {words[case.expected]}, got {words[allowed]}")
    for wanted in case.by:
        if not any(one == wanted or one.startswith(f"{wanted}/") for one in determining):
            told = ", ".join(determining) or "no rule"
            found.append(f"expected to be determined by {wanted}, and it was by {told}")
    named = {one.fact.name for one in explanation.missing} | set(explanation.unknown)
    for name in case.missing:
        if name not in named:
            told = ", ".join(sorted(named)) or "nothing"
            found.append(f"expected {name} to be missing, and it was {told}")
    missing = tuple(one.words for one in explanation.missing)
    return Trial(case, allowed, determining, explanation.reason, missing, tuple(found))


def list_unexercised(book: RuleBook, trials: Iterable[Trial]) -> list[str]:
    """The rules that determined none of the answers, without those that come with troth."""
    used = {rule for trial in trials for rule in trial.determining}
    return [
        rule.id
        for rule in book.index.rules
        if rule.id not in used and not rule.id.startswith((*UNTOLD, _OWN))
    ]
