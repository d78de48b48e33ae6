"""The index: all rules, found by action, resource and principal, so that a question is decided on
the few that could matter. What is left out could not apply: see `Rule.means`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property

import cedarpy
import msgspec

from troth.policy.cedar import (
    WINDOWS,
    kind_of_principal,
    render_text,
    split_key,
)
from troth.policy.fact import NOW, Fact, FactKind, Facts, Value, find_value
from troth.policy.rule import (
    ANYONE,
    IDENTITY,
    SYSTEM,
    Principal,
    Rule,
    Subjects,
    find_rules_end,
    is_over,
    list_reads,
    list_rule_windows,
    mark_principal,
)
from troth.policy.window import Window

MOST_SLICES = 20_000
MOST_SLICED = 400_000
"""Rules in all slices that are kept, one that stands in several counted in each."""
MOST_PRINCIPALS = 20_000
MOST_PLACES = 256
"""Places in the index that one rule may take up; one that would take more is found by less, and
then looked at: thousands of names in one manifest are not to fill the memory."""
_ANY = ""


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """The rules that could apply to questions of one sort, ready to be decided by.

    `reads` are the facts that they may read, `windows` the windows of time; `timed` says whether
    time alone may change an answer, `volatile` that it may at any moment, since somebody's Cedar
    reads the time itself. The slice holds from `since` on (None: always did) and before `over`.
    """

    rules: tuple[Rule, ...]
    policies: cedarpy.PolicySet
    reads: tuple[Fact, ...]
    windows: tuple[Window, ...]
    timed: bool
    volatile: bool
    over: datetime | None
    since: datetime | None = None
    places: tuple[tuple[str, str, tuple[str, ...]], ...] = field(default=(), repr=False)

    def holds(self, now: datetime) -> bool:
        """Whether it has the rules of that moment."""
        return (self.over is None or now < self.over) and (self.since is None or self.since <= now)

    def find_end(self, now: datetime) -> datetime | None:
        """Until when time alone changes nothing about the answers; None if it never does."""
        if self.volatile:
            return now
        return find_rules_end(self.rules, now) if self.timed else None

    def render_context(self, facts: Facts, now: datetime) -> str:
        """The context that Cedar is given: what the rules may read, of what is known."""
        context: dict[str, dict[str, object]] = {}
        for group, key, path in self.places:
            record = context.get(group)
            if record is None:
                record = context[group] = {}
            if len(path) == 2:
                record = record.setdefault(path[0], {})  # type: ignore[assignment]  # labels
            if key == NOW.key and group == NOW.group:
                value: Value | None = now  # whatever anybody says
            else:
                there = facts.get(group)
                value = None if there is None else there.get(key)
            if value is not None:
                record[path[-1]] = value if type(value) in _PLAIN else _encode(value)
        if self.windows:
            record = context.setdefault("request", {})
            record[WINDOWS] = [one.name for one in self.windows if one.contains(now)]
        return msgspec.json.encode(context).decode()

    def pick_facts(self, facts: Facts) -> dict[str, Value]:
        """The facts that the rules may read, of what is known, by name."""
        found = ((fact.name, find_value(facts, fact)) for fact in self.reads)
        return {name: value for name, value in found if value is not None}


_PLAIN = frozenset((str, int, bool))


def _encode(value: object) -> object:
    """A value as Cedar's JSON has it: an address is an extension value."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, datetime):
        moment = value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"__extn": {"fn": "datetime", "arg": moment}}
    return {"__extn": {"fn": "ip", "arg": str(value)}}


@dataclass(frozen=True, slots=True)
class Enlisted:
    """A principal as the index knows it: the marks that rules ask for, and its Cedar entities."""

    marks: frozenset[str]
    uid: Mapping[str, str]
    entities: cedarpy.Entities


class PolicyIndex:
    """All rules of one epoch. Immutable but for what it remembers; ask from one thread at a time.

    Rules stand under each resource and action that they name, and there under each mark; a rule
    for any stands under "".
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._buckets: dict[tuple[str, str], dict[str, list[tuple[int, Rule]]]] = {}
        self._mentioned: set[str] = set()
        self._slices: OrderedDict[tuple[frozenset[str], str, str], Slice] = OrderedDict()
        self._sliced = 0
        self._excepted: set[int] = set()
        self._enlisted: OrderedDict[Principal, Enlisted] = OrderedDict()
        self.rules: tuple[Rule, ...] = tuple(rules)
        for number, rule in enumerate(self.rules):
            self._add(number, rule)

    def _add(self, number: int, rule: Rule) -> None:
        marks = rule.subjects.marks
        self._mentioned.update(marks)
        if id(rule.exceptions) not in self._excepted:  # many rules share theirs
            self._excepted.add(id(rule.exceptions))
            for one in rule.exceptions:
                self._mentioned.update(one.subjects.marks)
        resources, actions = rule.resources or (_ANY,), rule.actions or (_ANY,)
        if len(resources) * len(actions) * len(marks) > MOST_PLACES:
            actions = (_ANY,)
        if len(resources) * len(marks) > MOST_PLACES:
            marks = (ANYONE,)
        for resource in resources:
            for action in actions:
                bucket = self._buckets.setdefault((resource, action), {})
                for mark in marks:
                    bucket.setdefault(mark, []).append((number, rule))

    @cached_property
    def reads(self) -> frozenset[str]:
        """Names of the facts that any rule may read; what no rule reads, nobody need find out."""
        return frozenset(fact.name for rule in self.rules for fact in list_reads(rule))

    def enlist(self, principal: Principal) -> Enlisted:
        """What rules can mean it by."""
        found = self._enlisted.get(principal)
        if found is not None:
            self._enlisted.move_to_end(principal)
            return found
        found = self._enlisted[principal] = self._enlist(principal)
        if len(self._enlisted) > MOST_PRINCIPALS:
            self._enlisted.popitem(last=False)
        return found

    def _enlist(self, principal: Principal) -> Enlisted:
        marks = frozenset(mark_principal(principal) & self._mentioned)
        own = principal.type == IDENTITY
        uid = {
            "type": kind_of_principal(principal.type),
            "id": principal.id if own else f"{principal.type}:{principal.id}",
        }
        parents = [{"type": "Role", "id": role} for role in principal.roles]
        if not own:
            parents.append({"type": "Type", "id": principal.type})
        document = [{"uid": uid, "attrs": {}, "parents": parents}]
        entities = cedarpy.Entities.from_json_str(msgspec.json.encode(document).decode())
        return Enlisted(marks, uid, entities)

    def cut(self, marks: frozenset[str], resource: str, action: str, now: datetime) -> Slice:
        """The rules that could apply to a question with these marks (as `enlist` gives them), in
        the order in which they are declared, without those that are over."""
        key = (marks, resource, action)
        found = self._slices.get(key)
        if found is not None and found.holds(now):
            self._slices.move_to_end(key)
            return found
        made = make_slice(self.find_rules(marks, resource, action), marks, resource, action, now)
        if found is not None:
            self._sliced -= len(found.rules)
        self._slices[key] = made
        self._slices.move_to_end(key)
        self._sliced += len(made.rules)
        while len(self._slices) > MOST_SLICES or (
            self._sliced > MOST_SLICED and len(self._slices) > 1
        ):
            self._sliced -= len(self._slices.popitem(last=False)[1].rules)
        return made

    def find_rules(self, marks: Iterable[str], resource: str, action: str) -> list[Rule]:
        """The rules whose scope fits one of `marks`, in order, each once; expired ones too."""
        held = frozenset(marks)
        found: dict[int, Rule] = {}
        for bucket in self._list_buckets(resource, action):
            for mark in {*held, ANYONE}:
                found.update(bucket.get(mark, ()))
        ordered = (found[number] for number in sorted(found))
        return [rule for rule in ordered if rule.means(held, resource, action)]

    def find_scoped(self, resource: str, action: str) -> list[Rule]:
        """Every rule that is about that action at that resource, whoever asks."""
        found: dict[int, Rule] = {}
        for bucket in self._list_buckets(resource, action):
            for rules in bucket.values():
                found.update(rules)
        ordered = (found[number] for number in sorted(found))
        return [rule for rule in ordered if rule.is_about(resource, action)]

    def find_about(self, resources: Mapping[str, Iterable[str]]) -> list[Rule]:
        """Every rule that is about one of these resources (with their actions), in order."""
        found: dict[int, Rule] = {}
        for resource, actions in resources.items():
            for action in (*actions, _ANY):
                for bucket in self._list_buckets(resource, action):
                    for rules in bucket.values():
                        found.update(rules)
        return [found[number] for number in sorted(found)]

    def _list_buckets(
        self, resource: str, action: str
    ) -> Iterable[dict[str, list[tuple[int, Rule]]]]:
        system = resource.startswith(SYSTEM)
        for there in (resource,) if system else (resource, _ANY):
            for done in (action, _ANY):
                bucket = self._buckets.get((there, done))
                if bucket is not None:
                    yield bucket


def make_slice(
    rules: Iterable[Rule], marks: frozenset[str], resource: str, action: str, now: datetime
) -> Slice:
    """The slice of these rules for one sort of question."""
    found = tuple(rules)
    kept = tuple(
        _narrow(rule, marks, resource, action, now) for rule in found if not is_over(rule, now)
    )
    reads: dict[str, Fact] = {}
    windows: dict[str, Window] = {}
    for rule in kept:
        reads.update((fact.name, fact) for fact in list_reads(rule))
        windows.update((window.name, window) for window in list_rule_windows(rule))
    expiries = set(_list_expiries(found))
    asked = tuple(reads.values())
    raw = any(rule.cedar for rule in kept)
    return Slice(
        rules=kept,
        # Without their names, which Cedar would tell with each answer: we count them.
        policies=cedarpy.PolicySet.from_str("\n".join(map(render_text, kept))),
        reads=asked,
        windows=tuple(windows.values()),
        timed=bool(windows or expiries),
        volatile=raw and NOW.name in {fact.name for rule in kept for fact in rule.reads},
        over=min((one for one in expiries if one > now), default=None),
        since=max((one for one in expiries if one <= now), default=None),
        places=tuple(
            (fact.group, fact.key, split_key(fact))
            for fact in asked
            if fact.kind is not FactKind.TIME or raw  # else Cedar is told the windows
        ),
    )


def _narrow(rule: Rule, marks: frozenset[str], resource: str, action: str, now: datetime) -> Rule:
    """The rule as far as it is about such questions: what it says of others costs time alone."""
    if rule.cedar:
        return rule
    exceptions = tuple(
        _narrow(one, marks, resource, action, now)
        for one in rule.exceptions
        if one.means(marks, resource, action) and not is_over(one, now)
    )
    about = rule.actions or rule.resources
    return replace(
        rule,
        subjects=_narrow_subjects(rule.subjects, marks),
        actions=(action,) if rule.actions else (),
        resources=(resource,) if about else (),
        exceptions=exceptions,
    )


def _narrow_subjects(subjects: Subjects, marks: frozenset[str]) -> Subjects:
    return replace(
        subjects,
        roles=tuple(one for one in subjects.roles if f"role:{one}" in marks),
        identities=tuple(one for one in subjects.identities if f"identity:{one}" in marks),
        types=tuple(one for one in subjects.types if f"type:{one}" in marks),
    )


def _list_expiries(rules: Iterable[Rule]) -> Iterator[datetime]:
    for rule in rules:
        if rule.expires is not None:
            yield rule.expires
        yield from _list_expiries(rule.exceptions)
