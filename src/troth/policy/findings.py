"""Findings: rules that are legal, mean something, and are probably not meant.

Rules are compared with those that have a scope in common alone, and with a few of them: a hundred
thousand take seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from typing import Any

from troth.policy.condition import ALWAYS, Condition
from troth.policy.condition_manifest import SEGMENT
from troth.policy.fact import GRANTED
from troth.policy.policy import Policy, Segment
from troth.policy.resource import Resource
from troth.policy.role import Role, expand_roles
from troth.policy.rule import ANYONE, SYSTEM, Effect, Rule
from troth.policy.rulebook import RuleBook
from troth.policy.truth import settle

MOST_COMPARED = 8
MOST_PLACES = 64
CRITICAL = "critical"
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at. `rule` names what was looked for, such as ``policy/unreachable``;
    `kind` and `name` are the manifest's, `path` the place in it."""

    rule: str
    kind: str
    name: str
    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}': {self.message}"


def list_findings(book: RuleBook, now: datetime) -> Iterator[Finding]:
    """What is to be seen in the rules themselves, whoever holds which role."""
    rules = [rule for rule in book.index.rules if not rule.id.startswith(SYSTEM_RULES)]
    conditions = _Conditions(now)
    known = _Covers(rules, conditions)
    critical = {one.name for one in book.resources.values() if one.sensitivity == CRITICAL}
    for number, rule in enumerate(rules):
        where = _locate(rule, book)
        if where is None:
            continue
        yield from _judge_condition(rule, conditions, where)
        if not rule.cedar:
            yield from _compare(number, rule, known, book, where)
            yield from _judge_width(rule, critical, where)
    yield from _list_resource_findings(book.resources.values())


SYSTEM_RULES = (SYSTEM.replace(".", "/"), f"role/{SYSTEM}")
"""Rules that nobody wrote down."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The manifest that a rule is from, and where in it."""

    kind: str
    name: str
    path: Path

    def find(self, rule: str, message: str, *path: str | int) -> Finding:
        return Finding(f"policy/{rule}", self.kind, self.name, (*self.path, *path), message)


def _locate(rule: Rule, book: RuleBook) -> _Place | None:
    kind, _, name = rule.id.partition("/")
    if kind == "policy":
        return _Place("Policy", name, ("spec",))
    name, _, number = name.rpartition("/")
    if kind == "role" and name in book.roles:
        return _Place("Role", name, ("spec", "permissions", int(number) - 1))
    return None


class _Conditions:
    """What is settled about conditions; many rules have the same."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self._known: dict[Condition, bool | None] = {}

    def settle(self, condition: Condition) -> bool | None:
        """As `truth.settle`."""
        if condition == ALWAYS:
            return True
        if condition not in self._known:
            self._known[condition] = settle(condition, self.now)
        return self._known[condition]


def _judge_condition(rule: Rule, known: _Conditions, where: _Place) -> Iterator[Finding]:
    if rule.cedar or rule.condition == ALWAYS:
        return
    found = known.settle(rule.condition)
    if found is False:
        yield where.find("never", "never holds: what it asks for can't be so at once.", "when")
    elif found is True:
        yield where.find(
            "always", "always holds where its facts are known: it says nothing.", "when"
        )


# One rule beside others


@dataclass(slots=True)
class _Covers:
    """Rules by effect, condition, and each resource, action and mark that they are about; of those
    alike in that, the first few."""

    rules: list[Rule]
    conditions: _Conditions
    _places: dict[tuple[Any, ...], list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, rule in enumerate(self.rules):
            if rule.cedar or rule.expires is not None or rule.exceptions:
                continue  # only what lasts makes something else needless
            condition = self._weaken(rule)
            if condition is None:
                continue
            places = list(_list_places(rule))
            for place in places[:MOST_PLACES]:
                found = self._places.setdefault((rule.effect, condition, *place), [])
                if len(found) < MOST_COMPARED:
                    found.append(number)

    def _weaken(self, rule: Rule) -> Condition | None:
        settled = self.conditions.settle(rule.condition)
        if settled is False:
            return None
        # A permit whose condition always holds still needs its facts to be known.
        return ALWAYS if settled and rule.effect is Effect.FORBID else rule.condition

    def find(self, effect: Effect, condition: Condition, rule: Rule) -> Iterator[int]:
        """Rules of that effect and condition that are about all that `rule` is about."""
        resources = {_ANY, *rule.resources[:1]}
        actions = {_ANY, *rule.actions[:1]}
        marks = {ANYONE, *rule.subjects.marks[:1]}
        for place in product(resources, actions, marks):
            for number in self._places.get((effect, condition, *place), ()):
                if _is_wider(self.rules[number], rule):
                    yield number


_ANY = ""


def _list_places(rule: Rule) -> Iterable[tuple[str, str, str]]:
    return product(rule.resources or (_ANY,), rule.actions or (_ANY,), rule.subjects.marks)


def _is_wider(rule: Rule, other: Rule) -> bool:
    """Whether a rule is about all that another is about."""
    return (
        (not rule.resources or (bool(other.resources) and {*other.resources} <= {*rule.resources}))
        and (not rule.actions or (bool(other.actions) and {*other.actions} <= {*rule.actions}))
        and (rule.subjects.anyone or {*other.subjects.marks} <= {*rule.subjects.marks})
        and not (not rule.resources and any(one.startswith(SYSTEM) for one in other.resources))
    )


def _compare(
    number: int, rule: Rule, known: _Covers, book: RuleBook, where: _Place
) -> Iterator[Finding]:
    if rule.effect is Effect.PERMIT:
        for other in known.find(Effect.FORBID, ALWAYS, rule):
            yield where.find(
                "unreachable",
                f"never permits anything: {known.rules[other].id} forbids all that it is about.",
            )
            return
    policy = book.policies.get(where.name) if where.kind == "Policy" else None
    if policy is not None and policy.relaxes:
        return
    for condition in dict.fromkeys((rule.condition, ALWAYS)):
        for other in known.find(rule.effect, condition, rule):
            one = known.rules[other]
            same = _is_wider(rule, one) and one.condition == rule.condition and not rule.expires
            if other == number or (same and other > number):
                continue
            word = "duplicate" if same else "implied"
            verb = "permits" if rule.effect is Effect.PERMIT else "forbids"
            yield where.find(word, f"adds nothing: {one.id} {verb} all of it already.")
            return


def _judge_width(rule: Rule, critical: Set[str], where: _Place) -> Iterator[Finding]:
    if rule.effect is not Effect.PERMIT:
        return
    free = rule.condition == ALWAYS
    if not rule.actions and not rule.resources:
        yield where.find(
            "wildcard", "permits every action at every resource, those of later too; name them."
        )
    elif rule.subjects.anyone and free:
        yield where.find(
            "anyone", "permits it to anybody on no condition; name roles, or give a condition."
        )
    reached = sorted(critical & {*rule.resources}) if rule.resources else sorted(critical)
    if reached and free:
        yield where.find(
            "critical", f"permits it at {reached[0]}, which is critical, on no condition."
        )
    if reached and not rule.actions and rule.resources:
        yield where.find("wildcard", f"permits every action at {reached[0]}, which is critical.")


# Resources, roles and segments


def _list_resource_findings(resources: Iterable[Resource]) -> Iterator[Finding]:
    claims: dict[tuple[str, str], str] = {}
    for one in resources:
        if one.name.startswith(SYSTEM):
            continue
        where = _Place("Resource", one.name, ("spec",))
        first = claims.setdefault((one.entity_type, one.pattern), one.name)
        if first != one.name:
            yield where.find(
                "ambiguous",
                f"has the type and pattern of '{first}', which is asked about instead of it.",
                "pattern",
            )
        for number, instance in enumerate(one.instances):
            if not instance.id.isascii():
                yield where.find(
                    "look-alike",
                    f"the id {ascii(instance.id)[:80]} isn't plain ASCII: ids are compared letter "
                    "for letter, and others may look the same.",
                    "instances",
                    number,
                )


def list_unused(
    roles: Mapping[str, Role],
    policies: Iterable[Policy],
    segments: Iterable[Segment],
    held: Iterable[str],
) -> Iterator[Finding]:
    """Roles that nobody holds, policies about such alone, and segments that no condition names;
    `held` are all roles that somebody holds."""
    policies = list(policies)
    conditions = [one.when for one in policies]
    conditions += [one.when for role in roles.values() for one in role.permissions]
    # What a condition wants a grant of is held for a time, and by nobody before.
    held = {*held, *_list_texts(conditions, GRANTED.name)}
    living = {role.name for role in expand_roles(held, roles)} | held
    for role in roles.values():
        if role.name not in living and not role.name.startswith(SYSTEM):
            text = "nobody holds it, so nobody has its permissions; give it to whom it is for."
            yield _Place("Role", role.name, ("metadata",)).find("unheld", text, "name")
    for policy in policies:
        named = policy.subjects
        alone = named.roles and not (named.identities or named.types)
        if alone and living.isdisjoint(named.roles):
            text = "nobody holds a role that it is about."
            yield _Place("Policy", policy.name, ("spec",)).find("unheld", text, "subjects")
    named_segments = set(_list_texts(conditions, SEGMENT))
    texts = [one.cedar for one in policies if one.cedar]
    for segment in segments:
        if segment.name not in named_segments and not any(segment.name in one for one in texts):
            where = _Place("Segment", segment.name, ("metadata",))
            yield where.find("unused-segment", "no condition names it.", "name")


def _list_texts(value: Any, fact: str) -> Iterator[str]:
    """The texts that conditions compare a fact with, as they are written."""
    waiting, inside = [(value, False)], False
    while waiting:
        value, inside = waiting.pop()
        if isinstance(value, str) and inside:
            yield value
        elif isinstance(value, list | tuple):
            waiting += ((one, inside) for one in value)
        elif isinstance(value, Mapping):
            waiting += ((one, inside or key == fact) for key, one in value.items())
