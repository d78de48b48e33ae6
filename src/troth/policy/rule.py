"""Rules: what roles, policies and resources come to, one form for all, which Cedar decides by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from troth.policy.condition import (
    ALWAYS,
    Condition,
    find_end,
    judge,
    list_facts,
    list_windows,
)
from troth.policy.fact import Fact, Facts
from troth.policy.window import Window

ANYONE = "*"
SYSTEM = "troth."
"""Names that begin so are of the resources that troth itself is: its operations are their actions.
Nothing that speaks of any resource speaks of them."""


class Effect(StrEnum):
    """What a rule does where it applies; a forbid beats every permit."""

    PERMIT = "permit"
    FORBID = "forbid"


@dataclass(frozen=True, slots=True)
class Subjects:
    """Whom a rule is about: holders of one of `roles`, the `identities` of these names, subjects of
    `types` that aren't identities, or, if `anyone`, all there are."""

    roles: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    anyone: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """One word for each way to be meant; `mark_principal` has those of a principal."""
        if self.anyone:
            return (ANYONE,)
        return (
            *(f"role:{name}" for name in self.roles),
            *(f"identity:{name}" for name in self.identities),
            *(f"type:{name}" for name in self.types),
        )


EVERYBODY = Subjects(anyone=True)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: `type` is ``identity`` or a declared type, `id` an identity's name or an instance's
    id, and `roles` are all that are held, those that others include and those granted among them.
    """

    type: str
    id: str
    roles: tuple[str, ...] = ()


IDENTITY = "identity"


def mark_principal(principal: Principal) -> frozenset[str]:
    """All the ways in which rules can mean it."""
    named = f"identity:{principal.id}" if principal.type == IDENTITY else f"type:{principal.type}"
    return frozenset((ANYONE, named, *(f"role:{role}" for role in principal.roles)))


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `id` is unique, `name` what people call it, such as ``policy/tills``.

    No `actions` or no `resources` (by name) stand for any. A raw rule has its text in `cedar`, and
    what that reads of the context in `reads`. It isn't there from `expires` on. Where one of the
    `exceptions` (which permit) certainly applies, a forbid doesn't.
    """

    id: str
    effect: Effect
    subjects: Subjects
    actions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    condition: Condition = ALWAYS
    cedar: str = ""
    reads: tuple[Fact, ...] = ()
    expires: datetime | None = None
    exceptions: tuple[Rule, ...] = field(default=())

    def means(self, marks: frozenset[str], resource: str, action: str) -> bool:
        """Whether its scope fits: everything but its condition and the time."""
        return self.is_about(resource, action) and not marks.isdisjoint(self.subjects.marks)

    def is_about(self, resource: str, action: str) -> bool:
        """Whether its scope fits, whoever asks."""
        return (
            resource in self.resources if self.resources else not resource.startswith(SYSTEM)
        ) and (not self.actions or action in self.actions)


def is_over(rule: Rule, now: datetime) -> bool:
    """Whether it has expired."""
    return rule.expires is not None and now >= rule.expires


def applies(
    rule: Rule, marks: frozenset[str], resource: str, action: str, facts: Facts
) -> bool | None:
    """Whether a rule without text of its own applies to a question; None if that can't be known.

    Whoever decides takes None for no where the rule permits, and for yes where it forbids.
    """
    if not rule.means(marks, resource, action):
        return False
    if any(applies(one, marks, resource, action, facts) for one in rule.exceptions):
        return False
    return judge(rule.condition, facts)


def list_reads(rule: Rule) -> Iterator[Fact]:
    """Every fact of the context that it may read."""
    yield from rule.reads
    yield from list_facts(rule.condition)
    for one in rule.exceptions:
        yield from list_reads(one)


def list_rule_windows(rule: Rule) -> Iterator[Window]:
    """Every window of time that it asks about."""
    yield from list_windows(rule.condition)
    for one in rule.exceptions:
        yield from list_rule_windows(one)


def find_rules_end(rules: Iterable[Rule], now: datetime) -> datetime | None:
    """Until when time alone changes nothing about these rules; None if it never does."""
    ends = [end for rule in rules for end in _list_ends(rule, now)]
    return min(ends, default=None)


def _list_ends(rule: Rule, now: datetime) -> Iterator[datetime]:
    if rule.expires is not None and rule.expires > now:
        yield rule.expires
    end = find_end(rule.condition, now)
    if end is not None:
        yield end
    for one in rule.exceptions:
        yield from _list_ends(one, now)
