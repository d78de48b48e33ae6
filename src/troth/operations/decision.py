"""Decisions: who asks is found out, the rules are asked, the answer is written down, then given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from troth.archive.log import DecisionLog
from troth.archive.record import DecisionRecord
from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Invalid
from troth.core.ids import SpiffeId, TrustDomain, new_id
from troth.identity.identity import Identity, tell_refusal
from troth.live.bundle import Bundle
from troth.live.judge import Judge, Judgement
from troth.live.snapshot import Snapshot
from troth.operations.declaration import read_bundle
from troth.operations.standing import find_standing, read_standing
from troth.policy.decision import Decision
from troth.policy.explanation import Explanation, explain
from troth.policy.fact import render_value
from troth.policy.inquiry import (
    Inquiry,
    Party,
    Trust,
    make_identity_party,
    make_outside_party,
)
from troth.policy.resource import Resource
from troth.policy.rule import IDENTITY, Principal
from troth.store.engine import Store
from troth.trust.score import TrustScore

CAPACITY = 20_000
EXPLAINED = 4_096
"""Denials of which it is remembered what would be missing."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Who wants something: an identity, by SPIFFE ID or name, or one of a declared type."""

    type: str
    id: str
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of a point that enforces."""

    subject: Subject
    inquiry: Inquiry


@dataclass(frozen=True, slots=True)
class Source:
    """Who asks, how (``authzen``, ``envoy`` …), and because of which request."""

    caller: str
    point: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and the id under which it is written down."""

    id: str
    judgement: Judgement
    party: Party
    bundle: Bundle
    """What was declared when it was answered."""

    @property
    def allowed(self) -> bool:
        """Whether it is permitted."""
        return self.judgement.allowed


@dataclass(frozen=True, slots=True)
class _Known:
    """A party, and what it was made of."""

    book: object
    identity: Identity
    score: TrustScore
    party: Party


class _Outsiders:
    """Parties that are no identities, by what they are, as long as one rule book holds: answers are
    remembered for a party, and who asks again with the same properties is the same one."""

    def __init__(self) -> None:
        self._book: object = None
        self._known: dict[tuple[Any, ...], Party] = {}

    def find_same(self, book: object, made: Party) -> Party:
        """The party that was met first with these facts; `made` if there was none."""
        if self._book is not book or len(self._known) >= CAPACITY:
            self._book, self._known = book, {}
        # 1 and True are one key of a dict, and two facts.
        key = tuple([(name, type(one), one) for name, one in made.facts["subject"].items()])
        return self._known.setdefault(key, made)


class DecisionMaker:
    """Answers questions and writes the answers down. Belongs to one event loop."""

    def __init__(
        self,
        store: Store,
        snapshot: Snapshot,
        clock: Clock,
        entropy: Entropy,
        decisions: DecisionLog,
        trust_domain: TrustDomain,
    ) -> None:
        self._store = store
        self._snapshot = snapshot
        self._clock = clock
        self._entropy = entropy
        self._decisions = decisions
        self._trust_domain = trust_domain
        self._judge = Judge()
        self._parties: dict[str, _Known] = {}
        self._outsiders = _Outsiders()
        self._explained: dict[int, tuple[Judgement, Explanation]] = {}

    async def read_bundle(self) -> Bundle:
        """What is declared now."""
        return await read_bundle(self._store, self._snapshot)

    async def answer(self, asked: Sequence[Asked], source: Source) -> list[Answer]:
        """An answer to each, all of them written down first.

        `Unavailable` while nobody knows what is true now.
        """
        answers = [await self.judge(one) for one in asked]
        await self.record(asked, answers, source)
        return answers

    async def judge(self, asked: Asked) -> Answer:
        """The answer to one question, which isn't written down: for whoever does that itself."""
        self._snapshot.check_fresh()
        bundle = await self.read_bundle()
        party = await self.find_party(bundle, asked.subject)
        judgement = self._judge.judge(bundle.rules, party, asked.inquiry, self._clock.now())
        return Answer(new_id("dec", self._entropy), judgement, party, bundle)

    def weigh(self, bundle: Bundle, party: Party, inquiry: Inquiry) -> Judgement:
        """What the answer would be, which nobody is given and nothing remembers: for searches."""
        return self._judge.decide(bundle.rules, party, inquiry, self._clock.now())

    def refuse(
        self, bundle: Bundle, party: Party, resource: Resource | None, reason: str
    ) -> Answer:
        """An answer for which no rule was asked, which isn't written down; `reason` says why."""
        judgement = Judgement(Decision(False, (), None), resource, reason)
        return Answer(new_id("dec", self._entropy), judgement, party, bundle)

    async def record(
        self, asked: Sequence[Asked], answers: Sequence[Answer], source: Source
    ) -> None:
        """Write answers down; they are durable when this returns."""
        now = self._clock.now()
        records = [
            make_record(one, answer, source, answer.bundle.epoch, now)
            for one, answer in zip(asked, answers, strict=True)
        ]
        await self._decisions.append(records)

    def explain(self, answer: Answer) -> Explanation:
        """Why, and what is missing of a permission. It holds as long as the judgement does, and is
        remembered with that: finding it out takes much longer than deciding."""
        judgement = answer.judgement
        if judgement.refusal:
            return Explanation(judgement.refusal)
        known = self._explained.get(id(judgement))
        if known is not None and known[0] is judgement:
            return known[1]
        found = explain(answer.bundle.rules, judgement.decision, self._clock.now())
        if len(self._explained) >= EXPLAINED:
            self._explained.clear()
        self._explained[id(judgement)] = (judgement, found)
        return found

    # Who asks

    async def find_party(self, bundle: Bundle, subject: Subject) -> Party:
        """Who asks, as they are known now."""
        if subject.type != IDENTITY:
            made = make_outside_party(bundle.rules, subject.type, subject.id, subject.properties)
            return self._outsiders.find_same(bundle.rules, made)
        identity = await self.find_identity(subject.id)
        if identity is None:
            return _make_stranger(subject.id)
        return await self.find_identity_party(bundle, identity)

    async def find_identity_party(self, bundle: Bundle, identity: Identity) -> Party:
        """The party that an identity is."""
        snapshot, clock = self._snapshot, self._clock
        score = find_standing(snapshot, clock, identity)
        if score is None:
            score = await read_standing(self._store, snapshot, clock, identity)
        known = self._parties.get(identity.id)
        refusal = self._find_refusal(identity)
        if (
            known is not None
            and known.book is bundle.rules
            and known.identity is identity
            and known.score is score
            and known.party.refusal == refusal
        ):
            return known.party
        trust = Trust(score.value, score.tier.value, score.assurance, score.valid_until)
        party = make_identity_party(bundle.rules, identity, trust, (), refusal)
        if len(self._parties) >= CAPACITY:
            self._parties.clear()
        self._parties[identity.id] = _Known(bundle.rules, identity, score, party)
        return party

    def _find_refusal(self, identity: Identity) -> str:
        """Why nothing is permitted to an identity; "" if the rules decide."""
        state = self._snapshot.find_cut_off(str(identity.spiffe_id)) or identity.state
        return tell_refusal(identity, state, self._clock.now())

    async def find_identity(self, name: str) -> Identity | None:
        """A living identity by SPIFFE ID or name, live where it is known."""
        facts, epoch = self._snapshot.facts, self._snapshot.epoch
        by_id = name.startswith("spiffe://")
        found = facts.find_named(name) if by_id else facts.find_called(name)
        if found is not None:
            return found
        listed = await self._list_living(name) if by_id else await self._list_named(name)
        for found in listed[:1]:
            facts.remember(found, epoch)
        return found

    async def _list_named(self, name: str) -> list[Identity]:
        return await self._store.read(lambda tx: tx.identities.list_named([name]))

    async def _list_living(self, name: str) -> list[Identity]:
        if not name.startswith(f"{self._trust_domain.id}/"):
            return []
        try:
            spiffe_id = SpiffeId.parse(name)
        except Invalid:
            return []
        return await self._store.read(lambda tx: tx.identities.list_living_at([spiffe_id]))


def _make_stranger(name: str) -> Party:
    return Party(
        Principal(IDENTITY, name[:256]), {}, refusal="The subject is no living identity here."
    )


def make_record(
    asked: Asked, answer: Answer, source: Source, epoch: int, now: datetime
) -> DecisionRecord:
    """What is written down of one answer."""
    judgement, inquiry = answer.judgement, asked.inquiry
    return DecisionRecord(
        id=answer.id,
        at=now,
        request_id=source.request_id,
        caller=source.caller,
        point=source.point,
        subject_type=answer.party.principal.type,
        subject=answer.party.principal.id,
        action=inquiry.action,
        resource="" if judgement.resource is None else judgement.resource.name,
        resource_type=inquiry.resource_type,
        resource_id=inquiry.resource_id,
        allowed=judgement.allowed,
        policies=judgement.decision.determining,
        reason=judgement.refusal,
        epoch=epoch,
        facts={name: render_value(value) for name, value in judgement.decision.read.items()},
    )
