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
    try:
        enlisted = index.enlist(question.principal)
    except UnicodeError:
        return Decision(False, (), None, None, question, (CONTEXT,))
    cut = index.cut(enlisted.marks, question.resource, question.action, now)
    return decide_on(cut, enlisted, question, now)


def decide_on(cut: Slice, enlisted: Enlisted, question: Question, now: datetime) -> Decision:
    """The answer by the rules of one slice."""
    if not cut.rules:
        return Decision(False, (), None, cut, question)
    resource = question.resource
    try:
        request = {
            "principal": enlisted.uid,
            "action": {"type": "Action", "id": name_action(resource, question.action)},
            "resource": {"type": kind_of_resource(resource), "id": resource},
            "context": cut.render_context(question.facts, now),
        }
        found = cedarpy.is_authorized(request, cut.policies, enlisted.entities)
    except (ValueError, OverflowError, TypeError):
        # Something told is no text, number or address that there can be, such as half of a
        # surrogate pair.
        return Decision(False, (), cut.find_end(now), cut, question, (CONTEXT,))
    diagnostics, rules = found.diagnostics, cut.rules
    reasons = diagnostics.reasons
    numbers = sorted([int(one[6:]) for one in reasons]) if len(reasons) > 1 else ()
    determining = tuple([rules[number].id for number in numbers or map(_read_number, reasons)])
    if not diagnostics.errors and found.decision is not cedarpy.Decision.NoDecision:
        return Decision(found.allowed, determining, cut.find_end(now), cut, question)
    return _fail(found.allowed, determining, diagnostics.errors, cut, question, now)


CONTEXT = "context"
"""What `faults` names where no rule is at fault, but what is known of the question."""


def _read_number(reason: str) -> int:
    return int(reason[6:])  # "policy<number>"


def _fail(
    allowed: bool,
    determining: tuple[str, ...],
    errors: list[str],
    cut: Slice,
    question: Question,
    now: datetime,
) -> Decision:
    """The answer where Cedar could not evaluate something. It passes over that, which would be
    the wrong way for a forbid."""
    found = [_FAULT.match(text) for text in errors]
    faulty = [cut.rules[int(one[1])] for one in found if one is not None]
    faults = tuple(dict.fromkeys(rule.id for rule in faulty))
    if len(faulty) < len(errors) or not errors:
        faults = (*faults, CONTEXT)
    forbids = tuple(rule.id for rule in faulty if rule.effect is Effect.FORBID)
    if allowed and (forbids or CONTEXT in faults):
        allowed, determining = False, forbids
    return Decision(allowed, determining, cut.find_end(now), cut, question, faults)


_FAULT = re.compile(r"error while evaluating policy `policy(\d+)`:")
