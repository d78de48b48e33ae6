"""Calls on the socket as they are seen from outside: counted, logged, and the start of a trace.

A stream counts as answered with its first message: what comes later is caused by somebody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import structlog

from troth.agent.call import Call, Handler, Service
from troth.core.clock import Clock
from troth.core.errors import TrothError
from troth.core.tracing import Kind, Tracer

log = structlog.get_logger(__name__)


class CallMeter(Protocol):
    """Counts calls on the socket."""

    def observe_call(self, method: str, outcome: str, seconds: float) -> None:
        """One call: `outcome` is ``ok`` or an error's code; `seconds` to the first answer."""
        ...


@dataclass(frozen=True, slots=True)
class ObservedService:
    """`service`, watched."""

    service: Service
    clock: Clock
    tracer: Tracer
    meter: CallMeter

    def methods(self) -> Mapping[str, Handler]:
        """The same handlers, watched."""
        return {
            path: self._watch(path, handler) for path, handler in self.service.methods().items()
        }

    def _watch(self, path: str, handler: Handler) -> Handler:
        method = path.rpartition("/")[2]

        async def watched(call: Call) -> None:
            with ExitStack() as stack:
                span = stack.enter_context(self.tracer.span(f"workload.{method}", Kind.SERVER))
                span.note(rpc_system="grpc", rpc_method=method)
                place = self.tracer.current()
                if place is not None and place.sampled:
                    words = structlog.contextvars.bound_contextvars(
                        trace_id=f"{place.trace_id:032x}"
                    )
                    stack.enter_context(words)
                answer = _Answer(self, method, call.uid, self.clock.monotonic(), stack)
                call.on_answer = answer.note_first
                try:
                    await handler(call)
                except TrothError as error:
                    answer.note_end(error.code)
                    raise
                except asyncio.CancelledError:
                    answer.note_end("cancelled")
                    raise
                except Exception:
                    answer.note_end("internal")
                    raise
                answer.note_end("ok")

        return watched


@dataclass(slots=True)
class _Answer:
    service: ObservedService
    method: str
    uid: int
    began: float
    stack: ExitStack
    told: bool = False

    def note_first(self) -> None:
        """The first message went out: that was the call, as far as its caller waited for it."""
        self.note_end("ok")
        self.stack.close()

    def note_end(self, outcome: str) -> None:
        """The call is over, if it wasn't before."""
        if self.told:
            return
        self.told = True
        seconds = self.service.clock.monotonic() - self.began
        self.service.meter.observe_call(self.method, outcome, seconds)
        log.debug(
            "call.finished",
            operation=self.method,
            outcome=outcome,
            seconds=round(seconds, 6),
            caller=f"uid:{self.uid}",
        )
