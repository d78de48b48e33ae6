"""Comparison: which access appears, disappears or changes its condition from one set to another.

Access has three values here: always, on a condition, never. What stands in declarations is known;
what a request brings, and how much is relied on somebody by then, is a condition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import islice

from troth.policy.condition import ALWAYS, Condition, Not, Operator, Test, every, one_of
from troth.policy.fact import Fact, FactKind, Facts, Value
from troth.policy.inquiry import Party, describe_resource, make_outside_party
from troth.policy.residue import NEVER, Opens, is_open, settle
from troth.policy.rule import (
    ANYONE,
    SYSTEM,
    Effect,
    Principal,
    Rule,
    is_over,
    mark_principal,
)
from troth.policy.rulebook import RuleBook
from troth.policy.words import describe_condition

MOST_MEASURED = 20_000
"""Questions that one comparison asks; about 20 µs each."""
MOST_SHOWN = 200
MOST_INSTANCES = 10_000

UNTOLD = ("troth/audience/",)
"""Rules about what tokens are for: they hold for everybody, and say nothing of who may what."""

Key = tuple[str, str]
"""Type and id of who asks."""


class Level(StrEnum):
    """How much of an access there is."""

    ALWAYS = "always"
    CONDITIONAL = "conditional"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Access:
    """Whether something is permitted, and on which condition, in words."""

    level: Level
    condition: str = ""


NO_ACCESS = Access(Level.NEVER)
FULL_ACCESS = Access(Level.ALWAYS)


class Turn(StrEnum):
    """What happens to an access."""

    GAINS = "gains"
    LOSES = "loses"
    CHANGES = "changes"


@dataclass(frozen=True, slots=True)
class AccessChange:
    """The access of one subject to some actions at one resource, before and after."""

    subject_type: str
    subject: str
    resource: str
    actions: tuple[str, ...]
    before: Access
    after: Access

    @property
    def turn(self) -> Turn:
        """Whether it appears, disappears or changes its condition."""
        if self.before.level is Level.NEVER:
            return Turn.GAINS
        return Turn.LOSES if self.after.level is Level.NEVER else Turn.CHANGES

    @property
    def words(self) -> str:
        """As a sentence without an end, such as ``orders gains read on ledger``."""
        named = (
            self.subject
            if self.subject_type == "identity"
            else ":".join((self.subject_type, self.subject))
        )
        what = f"{', '.join(self.actions)} on {self.resource}"
        if self.turn is Turn.GAINS:
            tail = f" (on condition: {self.after.condition})" if self.after.condition else ""
            return f"{named} gains {what}{tail}"
        if self.turn is Turn.LOSES:
            tail = f" (which it had on condition: {self.before.condition})"
            return f"{named} loses {what}{tail if self.before.condition else ''}"
        now = f"only with {self.after.condition}" if self.after.condition else "always"
        then = f"with {self.before.condition}" if self.before.condition else "always"
        return f"{named} keeps {what}, now {now} (before: {then})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changes; `more` are changes that aren't listed, and unless `complete` there may be
    others, since there was too much to look at."""

    changes: tuple[AccessChange, ...] = ()
    more: int = 0
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Side:
    """One set, and who lives under it."""

    book: RuleBook
    parties: Mapping[Key, Party] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Touched:
    """What differs between two rule books: rules (either version), resources and roles by name."""

    rules: tuple[Rule, ...]
    resources: frozenset[str]
    roles: frozenset[str]

    @property
    def marks(self) -> frozenset[str]:
        """By what those are meant whose access may differ for it; `ANYONE`: everybody."""
        named = {mark for rule in self.rules for mark in rule.subjects.marks}
        named |= {f"role:{name}" for name in self.roles}
        return frozenset(named | ({ANYONE} if self.resources else set()))

    @property
    def is_empty(self) -> bool:
        """Whether nobody's access can differ for it."""
        return not (self.rules or self.resources or self.roles)


def find_touched(before: RuleBook, after: RuleBook) -> Touched:
    """What differs."""
    old = {rule.id: rule for rule in before.index.rules}
    new = {rule.id: rule for rule in after.index.rules}
    rules = [
        rule
        for id_ in old.keys() | new.keys()
        if (found := (old.get(id_), new.get(id_)))[0] != found[1]
        for rule in found
        if rule is not None
    ]
    rules.sort(key=lambda rule: rule.id)
    return Touched(
        tuple(rules),
        frozenset(_differ(_describe_all(before), _describe_all(after))),
        frozenset(
            name
            for name in before.roles.keys() | after.roles.keys()
            if before.expand((name,)) != after.expand((name,))
        ),
    )


def _describe_all(book: RuleBook) -> dict[str, object]:
    """Of each resource what access to it depends on."""
    return {
        one.name: (tuple(one.actions), describe_resource(one)) for one in book.resources.values()
    }


def _differ(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    yield from (
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )


def measure_access(
    book: RuleBook, party: Party, resource: str, action: str, now: datetime
) -> Access:
    """What one party may do, whatever the request will be like."""
    declared = book.resources.get(resource)
    if declared is None or action not in declared.actions or party.refusal:
        return NO_ACCESS
    facts: dict[str, Mapping[str, Value]] = {
        **{
            group: {key: value for key, value in known.items() if key != "assurance"}
            for group, known in party.facts.items()
            if group not in ("trust", "grant")
        },
        "resource": describe_resource(declared),
        "action": {"name": action},
    }
    if not resource.startswith(SYSTEM):
        return weigh(book, party.principal, resource, action, facts, now)
    # Of troth itself a call says what it is done to.
    facts["resource"] = {"name": resource}
    opens: Opens = lambda fact: fact.group == "resource" or is_open(fact)  # noqa: E731
    return weigh(book, party.principal, resource, action, facts, now, opens)


def weigh(
    book: RuleBook,
    principal: Principal,
    resource: str,
    action: str,
    facts: Facts,
    now: datetime,
    opens: Opens = is_open,
) -> Access:
    """What the rules come to where `facts` are known, and others are open."""
    marks = mark_principal(principal)
    permits: dict[Condition, None] = {}
    forbids: dict[Condition, None] = {}
    for rule in book.index.find_rules(marks, resource, action):
        if is_over(rule, now) or rule.id.startswith(UNTOLD):
            continue
        if rule.effect is Effect.PERMIT:
            permits[_settle_rule(rule, facts, opens, certain=True)] = None
            continue
        found = _settle_rule(rule, facts, opens, certain=False)
        for one in rule.exceptions:
            if found != NEVER and one.means(marks, resource, action) and not is_over(one, now):
                excepted = _settle_rule(one, facts, opens, certain=True)
                if excepted == ALWAYS:
                    found = NEVER
                elif excepted != NEVER:
                    found = every((found, Not(excepted)))
        forbids[found] = None
    return _sum_up(permits, forbids)


def _sum_up(permits: Iterable[Condition], forbids: Iterable[Condition]) -> Access:
    ways = [one for one in permits if one != NEVER]
    against = [one for one in forbids if one != NEVER]
    if not ways or ALWAYS in against:
        return NO_ACCESS
    parts = [] if ALWAYS in ways else [one_of(ways)]
    parts += [Not(one) for one in against]
    if not parts:
        return FULL_ACCESS
    return Access(Level.CONDITIONAL, describe_condition(every(parts)))


def _settle_rule(rule: Rule, facts: Facts, opens: Opens, *, certain: bool) -> Condition:
    if rule.cedar:  # what it says is only known to Cedar, once there is a question
        words = f"what {rule.id} says in Cedar"
        return Test(Fact("cedar", rule.id, FactKind.TEXT), Operator.KNOWN, words=words)
    return settle(rule.condition, facts, certain=certain, opens=opens)


def list_instance_parties(book: RuleBook) -> dict[Key, Party]:
    """The subjects that aren't identities: declared instances, the first `MOST_INSTANCES`."""
    keys = {
        (one.entity_type, instance.id): None
        for one in book.resources.values()
        for instance in one.instances
    }
    return {key: make_outside_party(book, *key, {}) for key in islice(keys, MOST_INSTANCES)}


def compare_access(
    before: Side,
    after: Side,
    now: datetime,
    most: int = MOST_MEASURED,
    only: frozenset[str] | None = None,
) -> Comparison:
    """Whose access to what differs. Only who and what is touched by a difference is looked at, of
    resources those named `only`, and no more than `most` questions are asked."""
    pairs = (pair for pair in _list_pairs(before, after) if only is None or pair[1] in only)
    found: dict[tuple[str, str, str, Access, Access], list[str]] = {}
    measured = 0
    complete = True
    for key, resource in pairs:
        for action in _list_actions(before.book, after.book, resource):
            measured += 1
            if measured > most:
                complete = False
                break
            was = _measure(before, key, resource, action, now)
            will = _measure(after, key, resource, action, now)
            if was != will:
                found.setdefault((*key, resource, was, will), []).append(action)
        if not complete:
            break
    changes = [
        AccessChange(type_, id_, resource, tuple(actions), was, will)
        for (type_, id_, resource, was, will), actions in found.items()
    ]
    order = list(Turn)
    changes.sort(key=lambda one: (order.index(one.turn), one.subject, one.resource, one.actions))
    return Comparison(tuple(changes[:MOST_SHOWN]), max(len(changes) - MOST_SHOWN, 0), complete)


def _measure(side: Side, key: Key, resource: str, action: str, now: datetime) -> Access:
    party = side.parties.get(key)
    if party is None:
        return NO_ACCESS
    return measure_access(side.book, party, resource, action, now)


def _list_actions(before: RuleBook, after: RuleBook, resource: str) -> list[str]:
    found = (book.resources.get(resource) for book in (before, after))
    return list(dict.fromkeys(action for one in found if one is not None for action in one.actions))


def _list_pairs(before: Side, after: Side) -> Iterator[tuple[Key, str]]:
    """Who and what may be touched, each pair once, in an order that doesn't depend on luck."""
    touched = find_touched(before.book, after.book)
    names = before.book.resources.keys() | after.book.resources.keys()
    everything = sorted(name for name in names if not name.startswith(SYSTEM))
    holders = _find_holders(before, after)
    seen: set[tuple[Key, str]] = set()
    for rule in touched.rules:
        keys = {key for mark in rule.subjects.marks for key in holders.get(mark, ())}
        yield from _pick(seen, sorted(keys), rule.resources or everything)
    for resource in sorted(touched.resources):
        marks = {
            mark
            for book in (before.book, after.book)
            for action in _list_actions(before.book, after.book, resource)
            for rule in book.index.find_scoped(resource, action)
            if rule.effect is Effect.PERMIT
            for mark in rule.subjects.marks
        }
        keys = {key for mark in marks for key in holders.get(mark, ())}
        yield from _pick(seen, sorted(keys), (resource,))
    moved = [
        key
        for key in sorted(before.parties.keys() | after.parties.keys())
        if not _are_alike(before.parties.get(key), after.parties.get(key))
    ]
    if moved:
        reached = [_find_reached(side.book) for side in (before, after)]
        for key in moved:
            found = {
                resource
                for side, places in zip((before, after), reached, strict=True)
                if (party := side.parties.get(key)) is not None
                for mark in mark_principal(party.principal)
                for resource in places.get(mark, ())
            }
            yield from _pick(seen, [key], everything if "" in found else sorted(found))


def _pick(
    seen: set[tuple[Key, str]], keys: Iterable[Key], resources: Iterable[str]
) -> Iterator[tuple[Key, str]]:
    places = list(resources)
    for key in keys:
        for resource in places:
            if (key, resource) not in seen:
                seen.add((key, resource))
                yield key, resource


def _find_holders(before: Side, after: Side) -> dict[str, set[Key]]:
    """Who is meant by each mark, in one of the sets."""
    holders: dict[str, set[Key]] = {}
    for side in (before, after):
        for key, party in side.parties.items():
            for mark in mark_principal(party.principal):
                holders.setdefault(mark, set()).add(key)
    return holders


def _find_reached(book: RuleBook) -> dict[str, set[str]]:
    """The resources that rules permit something at, by mark; "" is any."""
    reached: dict[str, set[str]] = {}
    for rule in book.index.rules:
        if rule.effect is Effect.PERMIT:
            for mark in rule.subjects.marks:
                reached.setdefault(mark, set()).update(rule.resources or ("",))
    return reached


def _are_alike(before: Party | None, after: Party | None) -> bool:
    if before is None or after is None:
        return before is after
    return (before.principal, before.facts, before.refusal) == (
        after.principal,
        after.facts,
        after.refusal,
    )
