"""What an access decision is about, and what it says: for whoever asks an `Enforcer`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from troth.core.errors import Denied
from troth.live.judge import Judgement
from troth.policy.explanation import Explanation
from troth.policy.fact import render_value

Told = Mapping[str, Mapping[str, Any]]
"""Facts by group (``request``, ``resource``, ``action``, ``task``, ``delegation``) and key."""

NOTHING_TOLD: Told = {}


@dataclass(frozen=True, slots=True)
class Subject:
    """Who asks, where that is no identity of the trust domain: one of a type that a Resource
    declares, with properties that are known of it."""

    type: str
    id: str
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who makes the request that is being answered, and the facts of that request."""

    subject: str | Subject
    told: Told = field(default_factory=dict)


ASKER: ContextVar[Asker | None] = ContextVar("troth_asker", default=None)
"""Set by the middleware while a request is answered; decorated functions ask on its behalf."""


@dataclass(frozen=True, slots=True)
class AccessDecision:
    """The answer to "may this be done". Ask `.allowed`; `id` is the one under which it is reported.

    With `unavailable`, it is denied because nobody has said what is true for too long.
    """

    allowed: bool
    id: str
    judgement: Judgement = field(repr=False)
    unavailable: bool = False
    _explain: Callable[[Judgement], Explanation] | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        raise TypeError("an AccessDecision is not a truth value: ask .allowed")

    @property
    def policies(self) -> tuple[str, ...]:
        """The names of the rules that decided; none if nothing permits."""
        return self.judgement.decision.determining

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        if self.judgement.refusal:
            return self.judgement.refusal
        names = " and ".join(self.policies[:3])
        if self.allowed:
            return f"{names} permits it."
        return f"{names} forbids it." if names else "No rule permits it."

    def explain(self) -> Explanation:
        """Why, and which facts are missing of a permission; takes some milliseconds."""
        if self._explain is None or self.judgement.refusal:
            return Explanation(self.reason)
        return self._explain(self.judgement)


class AccessDenied(Denied):
    """A decorated function was not called: see `decision`."""

    def __init__(self, decision: AccessDecision) -> None:
        super().__init__(decision.reason)
        self.decision = decision


def describe_denial(decision: AccessDecision) -> dict[str, Any]:
    """What is told to who is denied: what is missing, and of that what they can do about it."""
    found = decision.explain()
    return {
        "reason": found.reason,
        "missing": [
            {"fact": one.fact.name, "value": render_value(one.value), "words": one.words}
            for one in found.missing
        ],
        "advice": [one.words for one in found.missing if one.obtainable],
    }
