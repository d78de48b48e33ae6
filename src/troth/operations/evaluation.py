"""Evaluations: ``decision.evaluate``, by which a point that enforces asks whether somebody may.

Source: AuthZEN 1.0, "Access Evaluation API" and "Access Evaluations API".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from troth.core.errors import Denied
from troth.live.bundle import Bundle
from troth.operations.call import Call, Gate, Target
from troth.operations.decision import Answer, Asked, DecisionMaker, Source, Subject
from troth.operations.gate import INQUIRE
from troth.operations.places import Places
from troth.operations.target import target_of_declared
from troth.policy.explanation import Explanation
from troth.policy.inquiry import Inquiry
from troth.policy.rulebook import RuleBook
from troth.wire.api.decisions import EvaluateDecisions as Request
from troth.wire.authzen.answer import (
    Advice,
    MissingFact,
    Mistake,
    Verdict,
    VerdictContext,
    Verdicts,
)
from troth.wire.authzen.question import Entity, Evaluations, Fault, Question, Semantic
from troth.wire.authzen.told import Describe, LazyTold, keep_values

OTHERS = (
    "This caller serves no resource of that type and id, and so may not ask about it. Name it "
    "under `servers` in the Resource's manifest, or give it the role auditor."
)
"""The same whether there is such a resource or not."""
_STEP = 16
"""Explanations after which others have their turn."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a caller may ask about: what the identity called `name` serves ("" for none), and what
    it may inquire about by the rules, as `gate` says."""

    name: str
    gate: Gate

    def covers(self, book: RuleBook, type_: str, id_: str) -> bool:
        """Whether it may ask about the thing of that type and id."""
        resource = book.match(type_, id_)
        if resource is None:
            return self.gate.allows(Target(), INQUIRE)
        if self.name and self.name in resource.servers:
            return True
        return self.gate.allows(target_of_declared(resource), INQUIRE)


async def find_scope(decider: DecisionMaker, call: Call[Any]) -> Scope:
    """What the caller may ask about."""
    identity = await decider.find_identity(call.caller.principal)
    return Scope("" if identity is None else identity.name, call.gate)


@dataclass(frozen=True, slots=True)
class EvaluateDecisions:
    """``decision.evaluate``: answers, each recorded before it is given. `point` says how they were
    asked for."""

    decider: DecisionMaker
    places: Places

    async def __call__(self, call: Call[Request | Evaluations]) -> Verdicts:
        """One verdict for each question that is answered.

        `Denied` for one question that the caller may not ask; of several, that one's own verdict
        says so. `Unavailable` while answers can't be recorded, or nobody knows what is true.
        """
        body, point = call.body, "authzen"
        if isinstance(body, Request):
            body, point = body.as_evaluations(), "api"
        scope = await find_scope(self.decider, call)
        bundle = await self.decider.read_bundle()
        found: list[Answer | Verdict] = []
        asked: list[Asked] = []
        for item in body.items:
            one = await self._answer(item, bundle, scope, asked)
            if body.single and isinstance(one, Verdict):
                raise Denied(OTHERS)
            found.append(one)
            if _is_last(body.semantic, one):
                break
        answers = [one for one in found if isinstance(one, Answer)]
        await self.decider.record(
            asked, answers, Source(call.caller.principal, point, call.request_id)
        )
        return Verdicts(await self._render(found))

    async def _answer(
        self, item: Question | Fault, bundle: Bundle, scope: Scope, asked: list[Asked]
    ) -> Answer | Verdict:
        if isinstance(item, Fault):
            return _refuse(400, item.words)
        if not scope.covers(bundle.rules, item.resource.type, item.resource.id):
            return _refuse(403, OTHERS)
        one = make_asked(item, self.places.find_describer(bundle.rules.index.reads))
        asked.append(one)
        return await self.decider.judge(one)

    async def _render(self, found: Sequence[Answer | Verdict]) -> list[Verdict]:
        verdicts = []
        denied = 0
        for one in found:
            if isinstance(one, Verdict):
                verdicts.append(one)
            elif one.allowed:
                policies = one.judgement.decision.determining
                verdicts.append(Verdict(True, VerdictContext(one.id, policies=policies)))
            else:
                denied += 1
                if denied % _STEP == 0:
                    await asyncio.sleep(0)
                verdicts.append(Verdict(False, describe_denial(one.id, self.decider.explain(one))))
        return verdicts


def make_asked(item: Question, describe: Describe | None = None) -> Asked:
    """What a question on the wire comes to; `describe` knows addresses, where a rule asks."""
    resource = item.resource
    return Asked(
        make_subject(item.subject),
        Inquiry(item.action.name, resource.type, resource.id, LazyTold(item, describe)),
    )


def make_subject(entity: Entity) -> Subject:
    """Who a question is about."""
    properties = entity.properties
    return Subject(entity.type, entity.id, keep_values(properties) if properties else {})


def describe_denial(id_: str, explanation: Explanation) -> VerdictContext:
    """Why not, and what would help. Advice is given where it helps by itself: where all that is
    missing can be obtained by whoever asks."""
    missing = tuple([MissingFact(one.fact.name, one.words) for one in explanation.missing])
    obtainable = all(one.obtainable for one in explanation.missing)
    return VerdictContext(
        id_,
        explanation.reason,
        missing=missing,
        advice=Advice(missing) if missing and obtainable else None,
    )


def _refuse(status: int, words: str) -> Verdict:
    return Verdict(False, VerdictContext(error=Mistake(status, words)))


def _is_last(semantic: Semantic, one: Answer | Verdict) -> bool:
    if semantic is Semantic.ALL:
        return False
    allowed = one.allowed if isinstance(one, Answer) else one.decision
    return allowed is (semantic is Semantic.PERMIT)
