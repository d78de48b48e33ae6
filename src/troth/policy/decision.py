"""The decision: one question, answered by the rules that could matter, with all that explains it.

Default deny; a forbid beats every permit; what can't be known never permits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import cedarpy

from troth.policy.cedar import kind_of_resource, name_action
from troth.policy.fact import Facts, Value
from troth.policy.index import Enlisted, PolicyIndex, Slice
from troth.policy.rule import Effect, Principal


@dataclass(frozen=True, slots=True)
class Question:
    """May `principal` do `action` at the declared `resource`, as things are: `facts`."""

    principal: Principal
    action: str
    resource: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. Ask `.allowed`; the object itself is no truth value.

    `determining` are the names of the rules that decided: permits of a permission, forbids of a
    denial, none if nothing permits. `faults` are names of rules that could not be evaluated.
    `read` are the facts that could have mattered, by name. It holds until `valid_until` as long as
    those facts stay as they are; None: time alone doesn't end it.
    """

    allowed: bool
    determining: tuple[str, ...]
    valid_until: datetime | None
    slice: Slice | None = field(default=None, repr=False, compare=False)
    question: Question | None = field(default=None, repr=False, compare=False)
    faults: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        raise TypeError("a Decision is not a truth value: ask .allowed")

    @property
    def read(self) -> Mapping[str, Value]:
        """The facts that could have mattered, of those that were known, by name."""
        if self.slice is None or self.question is None:
            return {}
        return self.slice.pick_facts(self.question.facts)


def decide(index: PolicyIndex, question: Question, now: datetime) -> Decision:
    """The answer by all rules that could apply. Nothing but these arguments is looked at."""
    enlisted = index.enlist(question.principal)
    cut = index.cut(enlisted.marks, question.resource, question.action, now)
    return decide_on(cut, enlisted, question, now)


def decide_on(cut: Slice, enlisted: Enlisted, question: Question, now: datetime) -> Decision:
    """The answer by the rules of one slice."""
    if not cut.rules:
        return Decision(False, (), None, cut, question)
    resource = question.resource
    request = {
        "principal": enlisted.uid,
        "action": {"type": "Action", "id": name_action(resource, question.action)},
        "resource": {"type": kind_of_resource(resource), "id": resource},
        "context": cut.render_context(question.facts, now),
    }
    found = cedarpy.is_authorized(request, cut.policies, enlisted.entities)
    reasons = found.diagnostics.reasons
    allowed = found.allowed
    faults: tuple[str, ...] = ()
    if found.diagnostics.errors or found.decision is cedarpy.Decision.NoDecision:
        # Cedar passes over what it can't evaluate. For a forbid that would be the wrong way.
        faults = _list_faults(cut, found.diagnostics.errors)
        allowed = allowed and not any(
            rule.id in faults for rule in cut.rules if rule.effect is Effect.FORBID
        )
    rules = cut.rules
    determining = tuple([rules[int(one[6:])].id for one in reasons])  # "policy<number>"
    return Decision(allowed, determining, cut.find_end(now), cut, question, faults)


_FAULT = re.compile(r"policy `policy(\d+)`")


def _list_faults(cut: Slice, errors: list[str]) -> tuple[str, ...]:
    """The rules that Cedar could not evaluate."""
    numbers = (int(number) for text in errors for number in _FAULT.findall(text))
    return tuple(dict.fromkeys(cut.rules[number].id for number in numbers))
