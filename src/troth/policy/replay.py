"""Replay: what a recorded decision would be under other rules.

What is declared counts as the other rules declare it; what a request brought, and how much was
relied on somebody then, as it was recorded. A record holds only what the rules read that decided
it. Where others ask for more, and it matters, the answer is that nobody can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from troth.core.address import read_address
from troth.policy.comparison import Key, Level, Side, weigh
from troth.policy.decision import Question, decide
from troth.policy.explanation import explain, with_time
from troth.policy.fact import (
    BY_NAME,
    GRANTED,
    LABELLED,
    LABELS,
    NOW,
    Fact,
    FactKind,
    Facts,
    Value,
    find_value,
)
from troth.policy.inquiry import Inquiry, Party, make_outside_party, make_question
from troth.policy.residue import is_open
from troth.policy.resource import Resource
from troth.policy.rule import IDENTITY, list_reads, mark_principal
from troth.policy.rulebook import RuleBook

MOST_REMEMBERED = 20_000
_LET_IN = ("No resource is declared", "Resource ")
"""How the reasons begin for which no rule was asked, but others rules might be."""


class Outcome(StrEnum):
    """What becomes of a recorded decision."""

    SAME = "same"
    DENIED = "denied"
    PERMITTED = "permitted"
    UNKNOWN = "unknown"
    """It depends on what wasn't recorded."""
    SKIPPED = "skipped"
    """Who asked isn't there any more."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One decision as it was recorded. Unless `refusal` is "", no rule was asked for that reason.
    `reads_all` says that the rules of the present decided it: a fact that they read and that isn't
    among `facts` was not there."""

    id: str
    at: datetime
    subject_type: str
    subject: str
    action: str
    resource_type: str
    resource_id: str
    allowed: bool
    refusal: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    reads_all: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of it and why, in a sentence; and the resource that it is about now."""

    outcome: Outcome
    words: str = ""
    resource: str = ""


SAME = Verdict(Outcome.SAME)


class Replayer:
    """Replays decisions under `proposed`: a rule book, and the identities as they are under it;
    `present` is how both are now. Belongs to one thread."""

    def __init__(self, proposed: Side, present: Side) -> None:
        self._book, self._parties = proposed.book, proposed.parties
        self._present = present
        self._known: dict[Any, Verdict] = {}

    def replay(self, recorded: Recorded) -> Verdict:
        """What one decision would be."""
        if recorded.refusal and not recorded.refusal.startswith(_LET_IN):
            return SAME  # who asked was cut off, whatever rules say
        party = self._find_party(recorded, self._book, self._parties)
        if party is None:
            return Verdict(Outcome.SKIPPED, f"There is no identity {recorded.subject} any more.")
        resource = self._book.match(recorded.resource_type, recorded.resource_id)
        if party.refusal or resource is None or recorded.action not in resource.actions:
            why = party.refusal or "No such resource or action would be declared."
            name = "" if resource is None else resource.name
            return Verdict(Outcome.DENIED, why, name) if recorded.allowed else SAME
        return self._decide(recorded, party, resource)

    def _find_party(
        self, recorded: Recorded, book: RuleBook, parties: Mapping[Key, Party]
    ) -> Party | None:
        if recorded.subject_type == IDENTITY:
            return parties.get((IDENTITY, recorded.subject))
        told = {
            name.partition(".")[2]: value
            for name, value in recorded.facts.items()
            if name.startswith("subject.")
        }
        return make_outside_party(book, recorded.subject_type, recorded.subject, told)

    def _decide(self, recorded: Recorded, party: Party, resource: Resource) -> Verdict:
        question = self._make_question(recorded, party, resource)
        index = self._book.index
        marks = index.enlist(question.principal).marks
        cut = index.cut(marks, resource.name, recorded.action, recorded.at)
        windows = tuple(one.contains(recorded.at) for one in cut.windows)
        unknown = self._find_unknown(recorded, question, cut.reads)
        key = (
            question.principal,
            recorded.action,
            resource.name,
            recorded.allowed,
            windows,
            unknown,
            tuple(sorted((name, repr(v)) for name, v in cut.pick_facts(question.facts).items())),
        )
        verdict = self._known.get(key)
        if verdict is None or cut.volatile:
            verdict = self._judge(recorded, question, unknown)
            if len(self._known) < MOST_REMEMBERED:
                self._known[key] = verdict
        return verdict

    def _judge(self, recorded: Recorded, question: Question, unknown: frozenset[str]) -> Verdict:
        book, at = self._book, recorded.at
        if unknown:
            facts = with_time(question.facts, at)
            access = weigh(
                book,
                question.principal,
                question.resource,
                question.action,
                facts,
                at,
                lambda fact: fact.name in unknown,
            )
            if access.level is Level.CONDITIONAL:
                words = f"It would need {access.condition}, and that wasn't recorded."
                return Verdict(Outcome.UNKNOWN, words, question.resource)
        decision = decide(book.index, question, at)
        if decision.allowed is recorded.allowed:
            return Verdict(Outcome.SAME, resource=question.resource)
        explained = explain(book, decision, at)
        words = explained.reason
        if explained.missing:
            words += f" It would need {' and '.join(one.words for one in explained.missing)}."
        outcome = Outcome.PERMITTED if decision.allowed else Outcome.DENIED
        return Verdict(outcome, words, question.resource)

    def _make_question(self, recorded: Recorded, party: Party, resource: Resource) -> Question:
        facts = read_facts(recorded.facts, resource)
        inquiry = Inquiry(
            recorded.action,
            recorded.resource_type,
            recorded.resource_id,
            {
                group: facts[group]
                for group in ("resource", "action", "request", "task", "delegation")
                if group in facts
            },
        )
        return make_question(self._book, resource, inquiry, _recall(self._book, party, facts))

    def _find_unknown(
        self, recorded: Recorded, question: Question, reads: tuple[Fact, ...]
    ) -> frozenset[str]:
        """The facts that rules ask for and of which nobody knows whether they were there."""
        missing = {
            fact.name
            for fact in reads
            if fact != NOW and is_open(fact) and find_value(question.facts, fact) is None
        }
        if not missing:
            return frozenset()
        if recorded.reads_all and not recorded.refusal:
            missing -= self._list_read(recorded)
        return frozenset(missing)

    def _list_read(self, recorded: Recorded) -> set[str]:
        """What the rules of the present read of such a question."""
        book, parties = self._present.book, self._present.parties
        resource = book.match(recorded.resource_type, recorded.resource_id)
        party = self._find_party(recorded, book, parties)
        if resource is None or party is None:
            return set()
        rules = book.index.find_rules(
            mark_principal(party.principal), resource.name, recorded.action
        )
        return {fact.name for rule in rules for fact in list_reads(rule)}


def _recall(book: RuleBook, party: Party, facts: Facts) -> Party:
    """The party, relied on as it was then, with the grants that it had."""
    known = {group: values for group, values in party.facts.items() if group not in _THEN}
    known |= {group: facts[group] for group in _THEN if group in facts}
    declared = {**party.facts.get("identity", {})}
    declared.pop("assurance", None)
    if "assurance" in facts.get("identity", {}):
        declared["assurance"] = facts["identity"]["assurance"]
    if declared:
        known["identity"] = declared
    granted = find_value(facts, GRANTED)
    principal = party.principal
    if isinstance(granted, tuple) and granted:
        principal = replace(principal, roles=book.expand((*principal.roles, *granted)))
    return Party(principal, known)


_THEN = ("trust", "grant")


def read_facts(told: Mapping[str, Any], resource: Resource) -> dict[str, dict[str, Value]]:
    """Recorded facts by group and key, of the kinds that they have now; what doesn't fit is left
    out."""
    found: dict[str, dict[str, Value]] = {}
    for name, value in told.items():
        group, _, key = name.partition(".")
        kind = _find_kind(group, key, resource)
        read = None if kind is None else _read_value(value, kind)
        if read is not None:
            found.setdefault(group, {})[key] = read
    return found


def _find_kind(group: str, key: str, resource: Resource) -> FactKind | None:
    known = BY_NAME.get(f"{group}.{key}")
    if known is not None:
        return known.kind
    if group in LABELLED and key.startswith(LABELS):
        return FactKind.TEXT
    kinds = resource.action_attributes if group == "action" else resource.attributes
    return kinds.get(key) if group in ("action", "resource", "subject") else None


def _read_value(value: Any, kind: FactKind) -> Value | None:
    if kind is FactKind.NUMBER:
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if kind is FactKind.BOOLEAN:
        return value if isinstance(value, bool) else None
    if kind is FactKind.TEXTS:
        listed = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
        return tuple(value) if listed else None
    if not isinstance(value, str):
        return None
    try:
        if kind is FactKind.ADDRESS:
            return read_address(value)
        return datetime.fromisoformat(value) if kind is FactKind.TIME else value
    except ValueError:
        return None
