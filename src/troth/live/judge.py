"""The judge: answers inquiries by a rule book, and remembers answers for as long as they hold.

An answer is remembered with everything that it depends on: the rule book, who asked as they were
known then, each fact of the request that a rule could read, which thing was meant where one could
read that, and the time until which none of it changes by itself. What isn't all the same is decided
anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from troth.policy.decision import Decision, decide
from troth.policy.fact import BY_NAME, LABELS, NOW, Fact
from troth.policy.inquiry import Inquiry, Party, make_question
from troth.policy.resource import Resource
from troth.policy.rule import list_reads
from troth.policy.rulebook import RuleBook

CAPACITY = 50_000
MOST_CHARACTERS = 4096
"""Of what was told, in an answer that is remembered."""
MOST_VARIANTS = 64
"""Answers of one sort that are remembered, which differ in facts of the request alone."""

_TOLD = frozenset(("request", "task", "delegation"))
_ATTRIBUTED = frozenset(("resource", "action"))


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


Reads = tuple[tuple[str, str], ...]
Answers = dict[tuple[Any, ...], tuple[datetime, datetime | None, Judgement]]


@dataclass(slots=True)
class _Entry:
    """What is remembered of one party, action and resource.

    A permission depends on what its slice `reads` of what a point tells. How a denial is explained
    depends on what any rule about that action reads, whoever it means: `asks`. Answers stand by the
    values of these facts, with the moments from which and until which they hold.
    """

    book: RuleBook
    reads: Reads
    asks: Reads
    permits: Answers = field(default_factory=dict)
    denials: Answers = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.permits) + len(self.denials)


_Key = tuple[Party, str, str]


class Judge:
    """Belongs to one thread. `capacity` is how many answers it remembers; 0: none."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._count = 0
        self._asked: tuple[RuleBook | None, dict[tuple[str, str], Reads]] = (None, {})

    def judge(self, book: RuleBook, party: Party, inquiry: Inquiry, now: datetime) -> Judgement:
        """The answer as of `now`; from memory if that holds."""
        resource = book.match(inquiry.resource_type, inquiry.resource_id)
        if resource is None or not self._capacity:
            return self.decide(book, party, inquiry, now)
        key = (party, inquiry.action, resource.name)
        entry = self._entries.get(key)
        if entry is not None and entry.book is book:
            found = _find(entry.permits, entry.reads, inquiry, now)
            if found is None and entry.denials:
                found = _find(entry.denials, entry.asks, inquiry, now)
            if found is not None:
                return found
        made = self.decide(book, party, inquiry, now)
        self._remember(key, book, inquiry, made, now)
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
        self, key: _Key, book: RuleBook, inquiry: Inquiry, made: Judgement, now: datetime
    ) -> None:
        end, cut, resource = made.decision.valid_until, made.decision.slice, made.resource
        if cut is None or resource is None or (end is not None and end <= now):
            return
        reads = _choose_reads(cut.reads, resource)
        entry = self._entries.get(key)
        if entry is None or entry.book is not book or entry.reads != reads:
            self._count -= 0 if entry is None else len(entry)
            asks = self._list_asked(book, resource, inquiry.action)
            entry = self._entries[key] = _Entry(book, reads, asks)
        self._keep(entry, inquiry, made, now)
        self._entries.move_to_end(key)
        while self._count > self._capacity or len(self._entries) > self._capacity:
            self._count -= len(self._entries.popitem(last=False)[1])

    def _keep(self, entry: _Entry, inquiry: Inquiry, made: Judgement, now: datetime) -> None:
        answers, reads = entry.permits, entry.reads
        if not made.allowed:
            answers, reads = entry.denials, entry.asks
        values = _pick_all(reads, inquiry)
        texts = (inquiry.action, *(one for one in values if isinstance(one, str)))
        if sum(map(len, texts)) > MOST_CHARACTERS:
            return
        if len(answers) >= MOST_VARIANTS:
            self._count -= len(answers)
            answers.clear()
        try:
            self._count += values not in answers
        except TypeError:
            return  # told in a form that is no fact: it is decided anew each time
        answers[values] = (now, made.decision.valid_until, replace(made, cached=True))

    def _list_asked(self, book: RuleBook, resource: Resource, action: str) -> Reads:
        """What any rule about that action at that resource may read of what a point tells."""
        if self._asked[0] is not book:
            self._asked = (book, {})
        known = self._asked[1].get((resource.name, action))
        if known is None:
            rules = book.index.find_scoped(resource.name, action)
            facts = {fact.name: fact for rule in rules for fact in list_reads(rule)}
            known = _choose_reads(facts.values(), resource)
            self._asked[1][resource.name, action] = known
        return known


_ID = ("resource", "id")


def _choose_reads(facts: Iterable[Fact], resource: Resource) -> Reads:
    """Those of the facts that are told with a question about `resource`. Which thing of it is meant
    is one of them where a rule reads that, or what is declared of the things that are known."""
    reads = [(fact.group, fact.key) for fact in facts if _is_told(fact)]
    if resource.instances and any(
        group == "resource" and key in resource.attributes for group, key in reads
    ):
        reads.append(_ID)
    return tuple(dict.fromkeys(reads))


def _is_told(fact: Fact) -> bool:
    """Whether a point can tell it: what is known here of a resource or action stays what it is,
    and the time is ours."""
    if fact.group in _TOLD:
        return fact != NOW
    own = fact.name in BY_NAME or fact.key.startswith(LABELS)
    return fact.group in _ATTRIBUTED and (not own or (fact.group, fact.key) == _ID)


def _find(answers: Answers, reads: Reads, inquiry: Inquiry, now: datetime) -> Judgement | None:
    """The answer that is remembered for these facts, if it holds."""
    try:
        found = answers.get(_pick_all(reads, inquiry) if reads else ())
    except TypeError:
        return None  # told in a form that is no fact
    if found is None:
        return None
    since, end, judgement = found
    # Clocks may be set back, to before a window began or a rule expired.
    return judgement if since <= now and (end is None or now < end) else None


def _pick_all(reads: Reads, inquiry: Inquiry) -> tuple[Any, ...]:
    told = inquiry.told
    return tuple(
        [
            inquiry.resource_id if place == _ID else _pick(told, place[0], place[1])
            for place in reads
        ]
    )


def _pick(told: Any, group: str, name: str) -> Any:
    there = told.get(group)
    if there is None:
        return None
    value = there.get(name)
    if type(value) is str or value is None:
        return value
    if type(value) is list or type(value) is tuple:
        return (tuple, *value)  # of texts alone, or no fact whatever is in it
    if type(value) is IPv4Address or type(value) is IPv6Address:
        return (type(value), int(value))  # hashed much faster; a zone means nothing to rules
    # 1, 1.0 and True are one key of a dict, and three facts.
    return (type(value), value)


def _refuse(resource: Resource | None, reason: str) -> Judgement:
    return Judgement(Decision(False, (), None), resource, reason)
