"""Traces: where a call spends its time, from the request to the transaction and the signature.

The house knows this protocol and nothing of who collects spans. `NO_TRACER` is what everybody has
by default: it does nothing and costs next to nothing. Names and attributes of spans are names,
counts, durations and codes; never a secret, a token, an address or what a request said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Protocol

Value = str | int | float | bool
TRACEPARENT = "traceparent"

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.A)
_SAMPLED = 1
_LONGEST = 512


class Kind(Enum):
    """Which side of a call a span is on."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace: what a span of another process, or another task, hangs on."""

    trace_id: int
    span_id: int
    sampled: bool


def parse_traceparent(text: str) -> TraceContext | None:
    """The place that a ``traceparent`` header names, or None if it names none.

    W3C Trace Context, section 3.2: an unknown version may have more after the flags, version ff
    and zeros are invalid. Whatever is wrong with it, the request goes on without.
    """
    match = _TRACEPARENT.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5] is not None):
        return None
    trace_id, span_id = int(match[2], 16), int(match[3], 16)
    if not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, bool(int(match[4], 16) & _SAMPLED))


def render_traceparent(context: TraceContext) -> str:
    """The ``traceparent`` header for `context` (version 00)."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.sampled):02x}"


class Span(Protocol):
    """One part of a trace, from entering it to leaving it."""

    def rename(self, name: str) -> None:
        """Call it `name`, now that more is known."""
        ...

    def note(self, **attributes: Value) -> None:
        """Add attributes; ``_`` in a name stands for ``.``, as in ``troth_outcome``."""
        ...


class Tracer(Protocol):
    """Makes spans; the one that was entered last, in this task, is the parent of the next.

    An exception that leaves a span is noted on it by its code or type, never by its words.
    """

    @property
    def enabled(self) -> bool:
        """Whether anything is recorded at all."""
        ...

    def span(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        *,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
    ) -> AbstractContextManager[Span]:
        """A span below `parent`, by default below the present one, else the first of a trace.

        `links` are other places that it serves too, as a batch does.
        """
        ...

    def within(self, name: str, kind: Kind = Kind.INTERNAL) -> AbstractContextManager[Span]:
        """A span below the present one; nothing at all where there is none."""
        ...

    def record(self, name: str, began: float, ended: float) -> None:
        """A span below the present one that is over: from `began` to `ended`, both monotonic
        seconds of the tracer's clock. Nothing where there is no present one."""
        ...

    def current(self) -> TraceContext | None:
        """Where we are, for other tasks and processes; None outside any span."""
        ...

    def detach(self) -> None:
        """Let what this task does from now on belong to no span: the rest of a stream."""
        ...

    def close(self) -> None:
        """Hand over what is still kept, within seconds; blocks. Again is no error."""
        ...


class _NoSpan:
    """A span that isn't recorded, and its own context manager."""

    __slots__ = ()

    def rename(self, name: str) -> None:
        """Nothing."""

    def note(self, **attributes: Value) -> None:
        """Nothing."""

    def __enter__(self) -> Span:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


NO_SPAN = _NoSpan()


class NullTracer:
    """Records nothing."""

    enabled = False

    def span(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        *,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
    ) -> AbstractContextManager[Span]:
        """Nothing."""
        return NO_SPAN

    def within(self, name: str, kind: Kind = Kind.INTERNAL) -> AbstractContextManager[Span]:
        """Nothing."""
        return NO_SPAN

    def record(self, name: str, began: float, ended: float) -> None:
        """Nothing."""

    def current(self) -> TraceContext | None:
        """Nowhere."""
        return None

    def detach(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


NO_TRACER: Tracer = NullTracer()
