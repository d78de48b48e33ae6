"""Policies in Cedar itself: what they are about, and what they read, from Cedar's own reading."""

from __future__ import annotations

import re
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


def close_raw(id_: str, text: str, expires: datetime | None) -> Rule | None:
    """What is left of a Cedar policy that can't be a rule: a forbid without a condition, about all
    that it was about as far as that can be read. None of a permit."""
    subjects = EVERYBODY
    actions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    try:
        policy = _parse(text)
        if Effect(policy["effect"]) is Effect.PERMIT:
            return None
        subjects = _read_subjects(policy["principal"])
        resources, actions = _read_actions(policy["action"])
        resources = _read_resources(policy["resource"]) or resources
    except Invalid:
        actions, resources = (), ()
    return Rule(id_, Effect.FORBID, subjects, actions, resources, expires=expires)


MAX_DEPTH = 32
MAX_OPERATORS = 256
"""Cedar's parser and evaluator recurse, and a stack that overflows ends the process."""

_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"|//[^\n]*|[(\[{]|[)\]}]|&&|\|\||[.+*-]|\b(?:if|has|like|in|is)\b'
)


def _check_shape(text: str) -> None:
    """Refuse what is too deep for Cedar before it sees it."""
    depth = deepest = operators = 0
    for found in _TOKEN.findall(text):
        if found in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif found in ")]}":
            depth -= 1
        elif found[0] not in '"/':
            operators += 1
    if deepest > MAX_DEPTH or operators > MAX_OPERATORS:
        raise Invalid(
            f"is nested more than {MAX_DEPTH} deep, or has more than {MAX_OPERATORS} operators; "
            "write several policies."
        )
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise Invalid("has half of a surrogate pair, which is no character.")


def _parse(text: str) -> Mapping[str, Any]:
    _check_shape(text)
    try:
        document = msgspec.json.decode(cedarpy.policies_to_json_str(text))
    except (ValueError, RecursionError) as error:
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
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += reversed(node)
            continue
        if not isinstance(node, dict):
            continue
        if "Record" in node:  # its keys are anybody's words
            waiting += node["Record"].values()
            continue
        path = _read_path(node)
        if path is None:
            _check_variable(node)
            waiting += reversed(node.values())
        elif path not in _RECORDS:
            yield _find_fact(path, find_kind)


_RECORDS = frozenset(
    {(fact.group,) for fact in BY_NAME.values()} | {(group, _LABELS) for group in LABELLED}
)
"""What ``has`` may ask for besides facts: groups that are read are there, and so are labels."""


def _check_variable(node: Mapping[str, Any]) -> None:
    if node.get("Var") == "context":
        raise Invalid("reads the context as a whole; name what it reads.")
    for verb in (".", "has", "getTag", "hasTag"):
        inner = node.get(verb)
        if not isinstance(inner, dict):
            continue
        left = inner.get("left")
        if isinstance(left, dict) and left.get("Var") in ("principal", "resource", "action"):
            raise Invalid(
                f"reads {left['Var']}.{inner.get('attr', '…')}: facts of {left['Var']} stand in "
                "the context, such as context.identity.environment or context.resource.id."
            )


def _read_path(node: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names below ``context`` that a chain of ``.`` or ``has`` ends at."""
    names: list[str] = []
    current = node
    inner = node.get(".") or node.get("has")
    while inner is not None:
        names.append(str(inner["attr"]))
        current = inner["left"]
        inner = current.get(".")
    return tuple(reversed(names)) if names and current.get("Var") == "context" else None


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
