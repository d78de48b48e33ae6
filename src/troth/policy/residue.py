"""What of a condition is still open once everything is known that stands in declarations.

An identity and a resource are what their manifests say; what the request, trust and grants will be
nobody knows before the question is asked.
"""

from __future__ import annotations

from collections.abc import Callable

from troth.policy.condition import (
    ALWAYS,
    All,
    Any_,
    Condition,
    Not,
    Operator,
    Test,
    every,
    judge_test,
    one_of,
)
from troth.policy.fact import LABELS, Fact, Facts, find_value

NEVER = Any_()
Opens = Callable[[Fact], bool]

_SETTLED = {
    "identity": frozenset(("name", "spiffe_id", "kind", "owner", "environment", "state")),
    "resource": frozenset(("name", "owner", "environment", "sensitivity")),
    "subject": frozenset(("type", "id")),
    "action": frozenset(("name",)),
}


def is_open(fact: Fact) -> bool:
    """Whether only the question itself will tell; otherwise what isn't known now never is."""
    settled = _SETTLED.get(fact.group)
    if settled is None:
        return True
    return fact.key not in settled and not fact.key.startswith(LABELS)


def settle(
    condition: Condition, facts: Facts, *, certain: bool, opens: Opens = is_open
) -> Condition:
    """The condition with everything decided that `facts` decide: `ALWAYS`, `NEVER` or what is left.

    A fact that is unknown for good counts for no where the condition must be `certain`, as that of
    a permit must, and otherwise for yes; `opens` says of which others the question will tell.
    """
    if isinstance(condition, Test):
        return _settle_test(condition, facts, opens, certain=certain)
    if isinstance(condition, Not):
        part = settle(condition.part, facts, certain=not certain, opens=opens)
        if part == ALWAYS:
            return NEVER
        return ALWAYS if part == NEVER else Not(part)
    ends, neutral = (NEVER, ALWAYS) if isinstance(condition, All) else (ALWAYS, NEVER)
    left: dict[Condition, None] = {}
    for part in condition.parts:
        found = settle(part, facts, certain=certain, opens=opens)
        if found == ends:
            return ends
        if found != neutral:
            left[found] = None
    if not left:
        return neutral
    return every(left) if isinstance(condition, All) else one_of(left)


def _settle_test(test: Test, facts: Facts, opens: Opens, *, certain: bool) -> Condition:
    asked = [test.fact, *([] if test.other is None else [test.other])]
    unknown = [fact for fact in asked if find_value(facts, fact) is None]
    if any(not opens(fact) for fact in unknown):
        if test.operator is Operator.KNOWN:
            return NEVER
        return NEVER if certain else ALWAYS
    if unknown:
        return test
    return ALWAYS if judge_test(test, facts) else NEVER
