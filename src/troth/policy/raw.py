"""Policies in Cedar itself: what they are about, and what they read, from Cedar's own reading."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import cedarpy
import msgspec

from troth.core.errors import Invalid
from troth.policy.fact import (
    ATTRIBUTED,
    BY_NAME,
    LABELLED,
    Fact,
    FactKind,
    attribute_fact,
    label_fact,
)
from troth.policy.rule import EVERYBODY, Effect, Rule, Subjects

FindKind = Callable[[str, str], FactKind | None]

_LABELS = "labels"


def read_raw(id_: str, text: str, expires: datetime | None, find_kind: FindKind) -> Rule:
    """The rule of one Cedar policy; `Invalid` with a reason if it can't be one.

    It must be one static policy, and what it reads must be attributes of the context that are
    named in it, so that all it needs can be given to it.
    """
    policy = _parse(text)
    reads = tuple(dict.fromkeys(_list_reads(policy["conditions"], find_kind)))
    resources, actions = _read_actions(policy["action"])
    named = _read_resources(policy["resource"])
    if named and resources and set(named) != set(resources):
        raise Invalid("its actions belong to other resources than the one that it names.")
    return Rule(
        id=id_,
        effect=Effect(policy["effect"]),
        subjects=_read_subjects(policy["principal"]),
        actions=actions,
        resources=tuple(named or resources),
        cedar=text,
        reads=reads,
        expires=expires,
    )


def _parse(text: str) -> Mapping[str, Any]:
    try:
        document = msgspec.json.decode(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise Invalid(f"Cedar doesn't understand it: {str(error)[:300]}") from None
    policies = document.get("staticPolicies", {})
    if len(policies) != 1 or document.get("templates"):
        raise Invalid("must be exactly one Cedar policy, without slots.")
    (policy,) = policies.values()
    if policy.get("annotations"):
        raise Invalid("must have no annotations: its name is the manifest's.")
    found: Mapping[str, Any] = policy
    return found


def _read_subjects(scope: Mapping[str, Any]) -> Subjects:
    entity = scope.get("entity") or {}
    if scope["op"] == "in" and entity.get("type") == "Role":
        return Subjects(roles=(entity["id"],))
    if scope["op"] == "==" and entity.get("type") == "Identity":
        return Subjects(identities=(entity["id"],))
    if scope["op"] == "in" and entity.get("type") == "Type":
        return Subjects(types=(entity["id"],))
    return EVERYBODY


def _read_actions(scope: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Resources and actions of ``Action::"resource/action"``."""
    if scope["op"] == "All":
        return (), ()
    entities = scope["entities"] if "entities" in scope else [scope["entity"]]
    resources: list[str] = []
    actions: list[str] = []
    for entity in entities:
        resource, slash, action = str(entity.get("id", "")).partition("/")
        if entity.get("type") != "Action" or not slash:
            raise Invalid('an action is named with its resource, such as Action::"ledger/read".')
        resources.append(resource)
        actions.append(action)
    if len(set(resources)) > 1:
        raise Invalid("its actions belong to several resources; write one policy for each.")
    return tuple(resources[:1]), tuple(dict.fromkeys(actions))


def _read_resources(scope: Mapping[str, Any]) -> tuple[str, ...]:
    if scope["op"] == "All" or (scope["op"] == "is" and scope.get("entity_type") == "Resource"):
        return ()
    entity = scope.get("entity") or {}
    if scope["op"] in ("==", "in") and entity.get("type") in ("Resource", "System"):
        return (str(entity["id"]),)
    raise Invalid('a resource is named as Resource::"ledger".')


def _list_reads(node: Any, find_kind: FindKind) -> Iterator[Fact]:
    """Every fact of the context in Cedar's JSON of an expression."""
    if isinstance(node, list):
        for item in node:
            yield from _list_reads(item, find_kind)
        return
    if not isinstance(node, dict):
        return
    path = _read_path(node)
    if path is not None:
        if len(path) == 1 and path[0] in _GROUPS:
            return  # ``context has group``: groups that are read are there
        if path[-1] == _LABELS and len(path) == 2:
            return  # likewise labels
        yield _find_fact(path, find_kind)
        return
    if node.get("Var") == "context":
        raise Invalid("reads the context as a whole; name what it reads.")
    if node.get("Var") in ("principal", "resource") or "." in node:
        _check_variable(node)
    for value in node.values():
        yield from _list_reads(value, find_kind)


_GROUPS = frozenset(fact.group for fact in BY_NAME.values())


def _check_variable(node: Mapping[str, Any]) -> None:
    left = node.get(".", {}).get("left", {})
    if left.get("Var") in ("principal", "resource", "action"):
        raise Invalid(
            f"reads {left['Var']}.{node['.']['attr']}: facts of {left['Var']} stand in the "
            "context, such as context.identity.environment or context.resource.id."
        )


def _read_path(node: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names below ``context`` that a chain of ``.`` or ``has`` ends at."""
    for verb in (".", "has"):
        if verb in node:
            inner = node[verb]
            left = inner["left"]
            if left.get("Var") == "context":
                return (str(inner["attr"]),)
            above = _read_path(left) if "." in left else None
            return None if above is None else (*above, str(inner["attr"]))
    return None


def _find_fact(path: tuple[str, ...], find_kind: FindKind) -> Fact:
    shown = ".".join(path)
    if len(path) == 3 and path[0] in LABELLED and path[1] == _LABELS:
        return label_fact(path[0], path[2])
    if len(path) == 2:
        known = BY_NAME.get(shown)
        if known is not None:
            return known
        kind = find_kind(*path) if path[0] in ATTRIBUTED else None
        if kind is not None:
            return attribute_fact(path[0], path[1], kind)
    raise Invalid(f"reads context.{shown[:100]}, which nothing declares.")
