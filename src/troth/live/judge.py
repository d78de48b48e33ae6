"""The judge: answers inquiries by a rule book, and remembers answers for as long as they hold.

An answer is remembered with everything that it depends on: the rule book, who asked as they were
known then, each fact of the request that a rule could read, and the time until which none of it
changes by itself. What isn't all the same is decided anew.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from troth.policy.decision import Decision, decide
from troth.policy.inquiry import Inquiry, Party, make_question
from troth.policy.resource import Resource
from troth.policy.rulebook import RuleBook

CAPACITY = 50_000
MOST_CHARACTERS = 4096
"""Of what was told, in an answer that is remembered."""
MOST_VARIANTS = 64
"""Answers of one sort that are remembered, which differ in facts of the request alone."""

_TOLD = frozenset(("request", "task", "delegation", "resource", "action"))


@dataclass(frozen=True, slots=True)
class Judgement:
    """An answer, and the resource that it is about; None if nothing that is declared fits.

    `refusal` says in a sentence why no rule was asked, where none was.
    """

    decision: Decision
    resource: Resource | None
    refusal: str = ""
    cached: bool = False

    @property
    def allowed(self) -> bool:
        """Whether it is permitted."""
        return self.decision.allowed


@dataclass(slots=True)
class _Entry:
    """What is remembered for one sort of inquiry; `reads` are the facts of a request that count,
    and `answers`, by their values, have the moment from which they hold."""

    book: RuleBook
    party: Party
    reads: tuple[tuple[str, str], ...]
    answers: dict[tuple[Any, ...], tuple[datetime, Judgement]] = field(default_factory=dict)


class Judge:
    """Belongs to one thread. `capacity` is how many answers it remembers; 0: none."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[tuple[Party, str, str, str], _Entry] = OrderedDict()
        self._count = 0

    def judge(self, book: RuleBook, party: Party, inquiry: Inquiry, now: datetime) -> Judgement:
        """The answer as of `now`; from memory if that holds."""
        key = (party, inquiry.action, inquiry.resource_type, inquiry.resource_id)
        entry = self._entries.get(key)
        if entry is not None and entry.book is book:
            told = inquiry.told
            values = tuple([_pick(told, group, name) for group, name in entry.reads])
            try:
                found = entry.answers.get(values)
            except TypeError:
                found = None  # told in a form that is no fact
            if found is not None:
                since, judgement = found
                end = judgement.decision.valid_until
                # Clocks may be set back, to before a window began or a rule expired.
                if since <= now and (end is None or now < end):
                    return judgement
        made = self.decide(book, party, inquiry, now)
        if self._capacity:
            self._remember(key, book, party, inquiry, made, now)
        return made

    def decide(self, book: RuleBook, party: Party, inquiry: Inquiry, now: datetime) -> Judgement:
        """The answer as of `now`, without a look at what is remembered."""
        if party.refusal:
            return _refuse(None, party.refusal)
        resource = book.match(inquiry.resource_type, inquiry.resource_id)
        if resource is None:
            return _refuse(
                None,
                f"No resource is declared for {inquiry.resource_type[:64]!r} "
                f"{inquiry.resource_id[:64]!r}.",
            )
        if inquiry.action not in resource.actions:
            return _refuse(
                resource, f"Resource {resource.name} has no action {inquiry.action[:64]!r}."
            )
        if party.valid_until is not None and now >= party.valid_until:
            return _refuse(resource, "What is known of the subject holds no longer; ask again.")
        question = make_question(book, resource, inquiry, party)
        decision = decide(book.index, question, now)
        ends = [end for end in (decision.valid_until, party.valid_until) if end is not None]
        return Judgement(replace(decision, valid_until=min(ends, default=None)), resource)

    def _remember(
        self,
        key: tuple[Party, str, str, str],
        book: RuleBook,
        party: Party,
        inquiry: Inquiry,
        made: Judgement,
        now: datetime,
    ) -> None:
        end = made.decision.valid_until
        if end is not None and end <= now:
            return
        cut, told = made.decision.slice, inquiry.told
        reads = (
            () if cut is None else tuple((f.group, f.key) for f in cut.reads if f.group in _TOLD)
        )
        values = tuple([_pick(told, group, name) for group, name in reads])
        texts = (*key[1:], *(one for one in values if isinstance(one, str)))
        if sum(map(len, texts)) > MOST_CHARACTERS:
            return
        entry = self._entries.get(key)
        if entry is None or entry.book is not book or entry.reads != reads:
            self._count -= 0 if entry is None else len(entry.answers)
            entry = self._entries[key] = _Entry(book, party, reads)
        if len(entry.answers) >= MOST_VARIANTS:
            self._count -= len(entry.answers)
            entry.answers.clear()
        try:
            self._count += values not in entry.answers
        except TypeError:
            return  # told in a form that is no fact: it is decided anew each time
        entry.answers[values] = (now, replace(made, cached=True))
        self._entries.move_to_end(key)
        while self._count > self._capacity or len(self._entries) > self._capacity:
            self._count -= len(self._entries.popitem(last=False)[1].answers)


def _pick(told: Any, group: str, name: str) -> Any:
    there = told.get(group)
    if there is None:
        return None
    value = there.get(name)
    if type(value) is str or value is None:
        return value
    if type(value) is list or type(value) is tuple:
        return (tuple, *value)  # of texts alone, or no fact whatever is in it
    # 1, 1.0 and True are one key of a dict, and three facts.
    return (type(value), value)


def _refuse(resource: Resource | None, reason: str) -> Judgement:
    return Judgement(Decision(False, (), None), resource, reason)
