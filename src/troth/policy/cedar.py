"""Rules as Cedar: the text that decides.

A permit asks ``has`` before it reads, so that a fact that isn't there makes it no permit. A forbid
does the opposite: what it can't know, it takes for true. So a missing fact always denies.

Source: the Cedar policy language (docs.cedarpolicy.com, "Policy syntax", "Operators"), version 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from troth.core.glob import ANY
from troth.policy.condition import Any_, Condition, Not, Operator, Test
from troth.policy.fact import BY_NAME, LABELS, Fact
from troth.policy.rule import IDENTITY, SYSTEM, Effect, Rule, Subjects

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_RESERVED = frozenset({"true", "false", "if", "then", "else", "in", "like", "has", "is", "__cedar"})
WINDOWS = "windows"
"""The key in ``context.request`` of the windows of time that it is in."""


def quote(text: str) -> str:
    """A string literal."""
    return f'"{_escape(text)}"'


def _escape(text: str) -> str:
    return "".join(
        c if c.isascii() and c.isprintable() and c not in "\"\\'" else f"\\u{{{ord(c):x}}}"
        for c in text
    )


def name_entity(kind: str, name: str) -> str:
    """An entity's unique identifier, such as ``Role::"reader"``."""
    return f"{kind}::{quote(name)}"


def name_action(resource: str, action: str) -> str:
    """Actions belong to their resource, since each resource has attributes of its own."""
    return f"{resource}/{action}"


def kind_of_resource(name: str) -> str:
    """The entity type of a resource: ``System`` for what troth itself is."""
    return "System" if name.startswith(SYSTEM) else "Resource"


def render_rule(rule: Rule) -> str:
    """One Cedar policy, with its id as its annotation."""
    return f"@id({quote(rule.id)})\n{render_text(rule)}"


def render_text(rule: Rule) -> str:
    """One Cedar policy without a name."""
    if rule.cedar:
        return rule.cedar.strip()
    sure = rule.effect is Effect.PERMIT
    scope, tests = _render_scope(rule, sure=sure)
    tests += [text for text in [_render(rule.condition, sure=sure)] if text != "true"]
    when = f" when {{ {' && '.join(tests)} }}" if tests else ""
    unless = "".join(f" unless {{ {_render_exception(one)} }}" for one in rule.exceptions)
    return f"{rule.effect.value}({scope}){when}{unless};"


def _render_scope(rule: Rule, *, sure: bool) -> tuple[str, list[str]]:
    """The head of a policy, and what of its scope must stand in its ``when``."""
    tests: list[str] = []
    who = [name for names in _group_subjects(rule.subjects) for name in names]
    principal = "principal"
    if not rule.subjects.anyone:
        if len(who) == 1:
            principal = f"principal in {who[0]}"
        else:
            tests.append(_render_membership("principal", _group_subjects(rule.subjects)))
    action = "action"
    if rule.actions and rule.resources:
        actions = _list_actions(rule)
        action = (
            f"action == {actions[0]}" if len(actions) == 1 else f"action in [{', '.join(actions)}]"
        )
    elif rule.actions:
        tests.append(_render_action(rule, sure=sure))
    resource = "resource"
    if not rule.resources:
        resource = "resource is Resource"
    elif len(rule.resources) == 1:
        resource = f"resource == {_name_resource(rule.resources[0])}"
    else:
        tests.append(_render_membership("resource", _group_resources(rule.resources)))
    return f"{principal}, {action}, {resource}", tests


def _render_exception(rule: Rule) -> str:
    """The whole of a rule as one expression."""
    tests: list[str] = []
    if not rule.subjects.anyone:
        tests.append(_render_membership("principal", _group_subjects(rule.subjects)))
    if rule.actions and rule.resources:
        tests.append(f"action in [{', '.join(_list_actions(rule))}]")
    elif rule.actions:
        tests.append(_render_action(rule, sure=True))
    if rule.resources:
        tests.append(_render_membership("resource", _group_resources(rule.resources)))
    else:
        tests.append("resource is Resource")
    tests.append(_render(rule.condition, sure=True))
    return " && ".join(tests)


def _group_subjects(subjects: Subjects) -> list[list[str]]:
    groups = {"Role": subjects.roles, "Identity": subjects.identities, "Type": subjects.types}
    return [[name_entity(kind, name) for name in names] for kind, names in groups.items() if names]


def _group_resources(names: Iterable[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(kind_of_resource(name), []).append(_name_resource(name))
    return list(groups.values())


def _render_membership(variable: str, groups: Sequence[Sequence[str]]) -> str:
    """Whether it is one of these, or in one: a set is of one type to Cedar's validator."""
    return _any_of(
        f"{variable} in {one[0]}" if len(one) == 1 else f"{variable} in [{', '.join(one)}]"
        for one in groups
    )


def _list_actions(rule: Rule) -> list[str]:
    return [
        name_entity("Action", name_action(resource, action))
        for resource in rule.resources
        for action in rule.actions
    ]


def _name_resource(name: str) -> str:
    return name_entity(kind_of_resource(name), name)


def _render_action(rule: Rule, *, sure: bool) -> str:
    """Whether it is one of the rule's actions, at whichever resource."""
    return _render_test(Test(BY_NAME["action.name"], Operator.IN, rule.actions), sure=sure)


# Conditions


def _render(condition: Condition, *, sure: bool) -> str:
    """An expression that is true if the condition certainly holds, or, if not `sure`, if it may."""
    if isinstance(condition, Test):
        return _render_test(condition, sure=sure)
    if isinstance(condition, Not):
        return f"!({_render(condition.part, sure=not sure)})"
    joint, empty = (" || ", "false") if isinstance(condition, Any_) else (" && ", "true")
    parts = [_render(part, sure=sure) for part in condition.parts]
    if not parts:
        return empty
    return parts[0] if len(parts) == 1 else f"({joint.join(parts)})"


def _render_test(test: Test, *, sure: bool) -> str:
    there = [_render_known(test.fact)]
    if test.operator is Operator.KNOWN:
        return there[0]
    if test.operator is Operator.WINDOW:
        # The windows are always there: whoever decides knows the time.
        names = ", ".join(quote(window.name) for window in test.values)
        return f"context.request.{WINDOWS}.containsAny([{names}])"
    if test.other is not None:
        there.append(_render_known(test.other))
    text = _render_comparison(test)
    if sure:
        return f"({' && '.join(there)} && {text})"
    # The validator follows ``if``, and not ``||``, in what is known to be there.
    return f"(if {' && '.join(there)} then {text} else true)"


def _render_comparison(test: Test) -> str:
    place, values = place_fact(test.fact), test.values
    if test.operator is Operator.SAME and test.other is not None:
        return f"{place} == {place_fact(test.other)}"
    if test.operator is Operator.IN:
        literals = [_render_literal(value) for value in values]
        if len(literals) == 1:
            return f"{place} == {literals[0]}"
        return f"[{', '.join(literals)}].contains({place})"
    if test.operator is Operator.LIKE:
        return _any_of(f'{place} like "{_render_pattern(one)}"' for one in values)
    if test.operator is Operator.NETWORK:
        return _any_of(f'{place}.isInRange(ip("{one}"))' for one in values)
    if test.operator in (Operator.CONTAINS, Operator.MEETS):
        verb = "containsAll" if test.operator is Operator.CONTAINS else "containsAny"
        return f"{place}.{verb}([{', '.join(map(quote, values))}])"
    sign = ">=" if test.operator is Operator.AT_LEAST else "<="
    return f"{place} {sign} {_render_literal(values[0])}"


def _any_of(texts: Iterable[str]) -> str:
    found = list(texts)
    if len(found) == 1:
        return found[0]
    return f"({' || '.join(found)})" if found else "false"


def _render_pattern(pattern: str) -> str:
    return "*".join(_escape(part).replace("*", r"\*") for part in pattern.split(ANY))


def _render_literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else quote(str(value))


def split_key(fact: Fact) -> tuple[str, ...]:
    """The names from its group's record down to the fact."""
    if fact.key.startswith(LABELS):
        return ("labels", fact.key.removeprefix(LABELS))
    return (fact.key,)


def place_fact(fact: Fact) -> str:
    """Where the context has it."""
    return "context" + "".join(map(_access, (fact.group, *split_key(fact))))


def _render_known(fact: Fact) -> str:
    *above, last = (fact.group, *split_key(fact))
    name = last if _is_plain(last) else quote(last)
    return f"context{''.join(map(_access, above))} has {name}"


def _access(name: str) -> str:
    return f".{name}" if _is_plain(name) else f"[{quote(name)}]"


def _is_plain(name: str) -> bool:
    return bool(_PLAIN.fullmatch(name)) and name not in _RESERVED


def kind_of_principal(type_: str) -> str:
    """The entity type of a principal."""
    return "Identity" if type_ == IDENTITY else "Subject"
