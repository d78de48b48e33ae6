"""Conditions in words, for people who ask why."""

from __future__ import annotations

from troth.policy.condition import All, Condition, Not, Operator, Test
from troth.policy.fact import GRANTED

_SHOWN = 5


def describe_test(test: Test, *, wanted: bool = True) -> str:
    """What must be so for a test to come out as `wanted`, such as ``trust.score ≥ 60``."""
    name = test.fact.name
    if test.words:
        return test.words if wanted else f"not {test.words}"
    if test.fact == GRANTED:
        roles = " or ".join(map(str, test.values))
        return f"{'an' if wanted else 'no'} approved grant on role {roles}"
    if test.operator is Operator.KNOWN:
        return f"{name} {'known' if wanted else 'not known'}"
    if test.operator is Operator.SAME and test.other is not None:
        return f"{name} {'the same as' if wanted else 'other than'} {test.other.name}"
    if test.operator in (Operator.AT_LEAST, Operator.AT_MOST):
        signs = ("≥", "<") if test.operator is Operator.AT_LEAST else ("≤", ">")
        return f"{name} {signs[0 if wanted else 1]} {test.values[0]}"
    return f"{name} {_VERBS[test.operator][0 if wanted else 1]} {_list(test.values)}"


_VERBS = {
    Operator.IN: ("being", "not being"),
    Operator.LIKE: ("like", "not like"),
    Operator.CONTAINS: ("with all of", "without one of"),
    Operator.MEETS: ("with one of", "with none of"),
    Operator.NETWORK: ("in", "outside of"),
    Operator.WINDOW: ("within", "outside of"),
}


def _list(values: tuple[object, ...]) -> str:
    shown = [str(getattr(value, "name", value)) for value in values[:_SHOWN]]
    if len(values) > _SHOWN:
        shown.append(f"{len(values) - _SHOWN} more")
    return " or ".join(shown)


LONGEST = 300


def describe_condition(condition: Condition, *, wanted: bool = True) -> str:
    """What must be so for a condition to come out as `wanted`; cut where nobody reads on."""
    text = _describe(condition, wanted=wanted)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _describe(condition: Condition, *, wanted: bool, inner: bool = False) -> str:
    if isinstance(condition, Test):
        return describe_test(condition, wanted=wanted)
    if isinstance(condition, Not):
        return _describe(condition.part, wanted=not wanted, inner=inner)
    joined = "and" if isinstance(condition, All) is wanted else "or"
    if not condition.parts:
        return "always" if joined == "and" else "never"
    alone = len(condition.parts) == 1
    parts = dict.fromkeys(
        _describe(part, wanted=wanted, inner=not alone) for part in condition.parts
    )
    text = f" {joined} ".join(parts)
    return f"({text})" if inner and len(parts) > 1 else text
