"""Rules on the wire: the conditions that a server compiled, and the same conditions again.

What is read is exactly what was rendered, so a service decides as the server does. What isn't
understood is refused as a whole: half of the rules would be other rules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, time
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import msgspec

from troth.core.errors import Internal, TrothError
from troth.policy.condition import ALWAYS, All, Any_, Condition, Not, Operator, Test
from troth.policy.fact import (
    BY_NAME,
    LABELLED,
    LABELS,
    Fact,
    FactKind,
    attribute_fact,
    label_fact,
)
from troth.policy.resource import Resource
from troth.policy.rule import Effect, Rule, Subjects
from troth.policy.window import Window, find_zone
from troth.wire.api.rules import (
    AllView,
    AnyView,
    ConditionView,
    NotView,
    RuleView,
    TestView,
)

UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


def show_rule(rule: Rule, resources: Collection[str]) -> RuleView:
    """A rule, as far as it is about `resources`."""
    return RuleView(
        id=rule.id,
        effect=rule.effect.value,
        roles=rule.subjects.roles,
        identities=rule.subjects.identities,
        types=rule.subjects.types,
        anyone=rule.subjects.anyone,
        actions=rule.actions,
        resources=tuple(name for name in rule.resources if name in resources),
        when=None if rule.condition == ALWAYS else show_condition(rule.condition),
        cedar=rule.cedar,
        reads=tuple((fact.name, fact.kind.value) for fact in rule.reads),
        expires=rule.expires,
        exceptions=tuple(
            show_rule(one, resources) for one in rule.exceptions if is_about(one, resources)
        ),
    )


def is_about(rule: Rule, resources: Collection[str]) -> bool:
    """Whether a rule can apply to one of these resources, none of which is troth's own."""
    return not rule.resources or any(name in resources for name in rule.resources)


def show_condition(condition: Condition) -> ConditionView:
    """A condition."""
    if isinstance(condition, Test):
        other = condition.other
        return TestView(
            fact=condition.fact.name,
            kind=condition.fact.kind.value,
            operator=condition.operator.value,
            values=tuple(map(_show_value, condition.values)),
            other="" if other is None else other.name,
            other_kind="" if other is None else other.kind.value,
            words=condition.words,
        )
    if isinstance(condition, Not):
        return NotView(part=show_condition(condition.part))
    parts = tuple(map(show_condition, condition.parts))
    return AllView(parts=parts) if isinstance(condition, All) else AnyView(parts=parts)


def _show_value(value: Any) -> Any:
    if isinstance(value, str | int):
        return value
    if isinstance(value, Window):
        return {"window": _show_window(value)}
    if isinstance(value, datetime):
        return {"time": value.isoformat()}
    kind = "network" if isinstance(value, IPv4Network | IPv6Network) else "address"
    return {kind: str(value)}


def _show_window(window: Window) -> dict[str, Any]:
    return {
        "days": sorted(window.days),
        "start": window.start.isoformat(),
        "end": window.end.isoformat(),
        "zone": window.zone,
        "after": window.after and window.after.isoformat(),
        "before": window.before and window.before.isoformat(),
    }


# And back


def read_rule(view: RuleView) -> Rule:
    """The rule again; `Internal` if it is of a form that this version doesn't know."""
    try:
        return _read_rule(view)
    except UNREADABLE as error:
        raise Internal(
            f"The rule {view.id[:200]!r} was not understood: is the server a newer version?"
        ) from error


def _read_rule(view: RuleView) -> Rule:
    return Rule(
        id=view.id,
        effect=Effect(view.effect),
        subjects=Subjects(
            tuple(view.roles), tuple(view.identities), tuple(view.types), view.anyone
        ),
        actions=tuple(view.actions),
        resources=tuple(view.resources),
        condition=ALWAYS if view.when is None else read_condition(view.when),
        cedar=view.cedar,
        reads=tuple(_read_fact(name, kind) for name, kind in view.reads),
        expires=view.expires,
        exceptions=tuple(map(_read_rule, view.exceptions)),
    )


def read_condition(view: ConditionView) -> Condition:
    """The condition again; raises one of `UNREADABLE`."""
    if isinstance(view, TestView):
        return Test(
            fact=_read_fact(view.fact, view.kind),
            operator=Operator(view.operator),
            values=tuple(map(_read_value, view.values)),
            other=_read_fact(view.other, view.other_kind) if view.other else None,
            words=view.words,
        )
    if isinstance(view, NotView):
        return Not(read_condition(view.part))
    parts = tuple(map(read_condition, view.parts))
    return All(parts) if isinstance(view, AllView) else Any_(parts)


def _read_fact(name: str, kind: str) -> Fact:
    known = BY_NAME.get(name)
    if known is not None and known.kind.value == kind:
        return known
    group, dot, key = name.partition(".")
    if not dot or not key:
        raise ValueError(name)
    if group in LABELLED and key.startswith(LABELS):
        return label_fact(group, key.removeprefix(LABELS))
    return attribute_fact(group, key, FactKind(kind))


def _read_value(value: Any) -> Any:
    if isinstance(value, str | int):
        return value
    ((kind, inner),) = value.items()
    return _READERS[kind](inner)


def _read_window(value: Mapping[str, Any]) -> Window:
    find_zone(value["zone"])
    after, before = value["after"], value["before"]
    return Window(
        frozenset(value["days"]),
        time.fromisoformat(value["start"]),
        time.fromisoformat(value["end"]),
        value["zone"],
        after and datetime.fromisoformat(after),
        before and datetime.fromisoformat(before),
    )


_READERS: Mapping[str, Any] = {
    "network": ip_network,
    "address": ip_address,
    "time": datetime.fromisoformat,
    "window": _read_window,
}


# Resources


def show_resource(resource: Resource) -> dict[str, Any]:
    """A resource as plain values."""
    plain: dict[str, Any] = msgspec.to_builtins(resource)
    return plain


def read_resource(plain: Mapping[str, Any]) -> Resource:
    """The resource again; `Internal` if it isn't understood."""
    try:
        return msgspec.convert(plain, Resource, strict=False)
    except (msgspec.MsgspecError, TrothError, *UNREADABLE) as error:
        raise Internal("A resource was not understood: is the server a newer version?") from error
