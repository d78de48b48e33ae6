"""Answers: the decision, and in its context what explains it.

A client that reads `decision` alone is safe: whatever the context advises, it is a denial until it
is asked again.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

MEDIA_TYPE = "application/json"


class MissingFact(Struct, frozen=True):
    """A fact that would have to be otherwise for a permission, and how, in words."""

    fact: str
    words: str


class Advice(Struct, frozen=True):
    """What whoever asks can do about a denial: obtain these facts, then ask again."""

    obtain: tuple[MissingFact, ...]
    kind: str = "step_up"


class Mistake(Struct, frozen=True):
    """Why one question of several wasn't decided; `status` is what it alone would have got."""

    status: int
    message: str


class VerdictContext(Struct, frozen=True, omit_defaults=True):
    """`id` is that of the recorded decision. Of a permission `policies` are those that gave it; of
    a denial there are the `reason`, what is `missing`, and `advice` where whoever asks can obtain
    all of that."""

    id: str = ""
    reason: str = ""
    policies: tuple[str, ...] = ()
    missing: tuple[MissingFact, ...] = ()
    advice: Advice | None = None
    error: Mistake | None = None


class Verdict(Struct, frozen=True):
    """The answer to one question."""

    decision: bool
    context: VerdictContext


class Verdicts(Struct, frozen=True):
    """The answers to several, in their order."""

    evaluations: list[Verdict]


_encoder = msgspec.json.Encoder()


def render_answer(value: Any) -> bytes:
    """The body of an answer."""
    return _encoder.encode(value)
