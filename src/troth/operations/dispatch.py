"""The gate: every call from outside passes here, is permitted or refused, counted and logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, Protocol

import structlog

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Denied, NotFound, TrothError, Unauthenticated
from troth.core.ids import RequestId, new_id
from troth.core.tracing import NO_TRACER, Tracer
from troth.operations.call import ANONYMOUS, OPEN, Call, Caller, Gate, Operation, Subscription
from troth.operations.pacing import Pacing
from troth.policy.permissions import decide_operation

log = structlog.get_logger(__name__)


class _Level:
    """Whether the log takes lines for debugging: looked up once, when the first call ends, since
    that costs more than many a call."""

    @cached_property
    def debugs(self) -> bool:
        return bool(log.is_enabled_for(logging.DEBUG))


class Meter(Protocol):
    """Counts finished calls: `outcome` is ``ok`` or an error's code; `seconds` the duration, of a
    subscription until its first value."""

    def observe(self, operation: str, outcome: str, seconds: float) -> None:
        """Record one finished call."""
        ...


class Admission(Protocol):
    """Decides who may call what."""

    async def admit(self, caller: Caller, operation: str, /) -> Gate:
        """What the caller may do in a call of `operation`; `Denied` if it may not begin."""
        ...

    def confirm(self, caller: Caller, operation: str, /) -> bool:
        """Whether the caller certainly may still call it, from memory alone; False if somebody must
        look closer."""
        ...


class RoleAdmission:
    """Admits by the roles that come with troth alone: what holds where nothing is declared."""

    async def admit(self, caller: Caller, operation: str, /) -> Gate:
        """An open gate; `Denied` without a role that may."""
        decision = decide_operation(caller.roles, operation)
        if not decision.allowed:
            raise Denied(decision.reason)
        return OPEN

    def confirm(self, caller: Caller, operation: str, /) -> bool:
        """Whether a role may."""
        return decide_operation(caller.roles, operation).allowed


def name_outcome(error: BaseException) -> str:
    """What a call that ended with `error` is counted under."""
    if isinstance(error, TrothError):
        return error.code
    ended = isinstance(error, (asyncio.CancelledError, GeneratorExit))
    return "cancelled" if ended else "internal"


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Calls operations and opens subscriptions by name, on behalf of a caller."""

    operations: Mapping[str, Operation]
    subscriptions: Mapping[str, Subscription]
    clock: Clock
    entropy: Entropy
    meter: Meter
    pacing: Pacing | None = None
    tracer: Tracer = NO_TRACER
    gates: Admission = field(default_factory=RoleAdmission)
    _told: _Level = field(default_factory=lambda: _Level(), compare=False)

    def new_request_id(self) -> RequestId:
        """A fresh id that ties an answer, its log lines and its journal rows together."""
        return RequestId(new_id("req", self.entropy))

    async def call(self, name: str, caller: Caller, request_id: RequestId, body: Any) -> Any:
        """Carry out operation `name`; raises `Denied`, `Unauthenticated` or what it raises."""
        started = self.clock.monotonic()
        outcome = "internal"
        with self.tracer.span(name) as span:
            try:
                gate = await self.admit(name, caller)
                self._pace(name, caller, body)
                result = await self.operations[name](Call(caller, request_id, body, gate))
                outcome = "ok"
                return result
            except BaseException as error:
                outcome = name_outcome(error)
                raise
            finally:
                span.note(troth_outcome=outcome)
                seconds = self.clock.monotonic() - started
                self.meter.observe(name, outcome, seconds)
                self._tell(name, caller, request_id, outcome, seconds)

    def _tell(
        self, name: str, caller: Caller, request_id: RequestId, outcome: str, seconds: float
    ) -> None:
        """A line for each call: failures of ours as warnings, refusals of who is known as news."""
        if outcome == "ok" and not self._told.debugs:
            return
        if outcome in ("internal", "unavailable"):
            tell = log.warning
        elif outcome in ("ok", "cancelled") or caller.principal == ANONYMOUS.principal:
            tell = log.debug  # strangers may not fill the log, nor may the ordinary
        else:
            tell = log.info
        tell(
            "call.finished",
            operation=name,
            outcome=outcome,
            seconds=round(seconds, 6),
            caller=caller.principal,
            source=caller.source,
            request_id=request_id,
        )

    @contextmanager
    def count_refusal(
        self, name: str, explain: Callable[[BaseException], str] = name_outcome
    ) -> Iterator[None]:
        """Count a call of `name` that an error ends in the block, before it is asked for here: who
        calls isn't known, or what is wanted isn't understood. `explain` has the error's code."""
        started = self.clock.monotonic()
        try:
            yield
        except BaseException as error:
            self._count(name, explain(error), started)
            raise

    def _count(self, name: str, outcome: str, started: float) -> None:
        self.meter.observe(name, outcome, self.clock.monotonic() - started)

    def open(
        self, name: str, caller: Caller, request_id: RequestId, body: Any
    ) -> AsyncIterator[Any]:
        """Open subscription `name`; the permission is checked before the first value.

        Whoever passes the values on asks `confirm` again for each: a stream outlives permissions.
        """
        return self._follow(name, caller, request_id, body, self.clock.monotonic())

    async def _follow(
        self, name: str, caller: Caller, request_id: RequestId, body: Any, started: float
    ) -> AsyncIterator[Any]:
        """The values; the first one, or what comes instead of it, is counted."""
        with self.count_refusal(name):
            gate = await self.admit(name, caller)
            self._pace(name, caller, body)
            values = self.subscriptions[name](Call(caller, request_id, body, gate))
        open_yet = False
        try:
            async for value in values:
                if not open_yet:
                    open_yet = True
                    self._count(name, "ok", started)
                yield value
        except BaseException as error:
            if not open_yet:
                self._count(name, name_outcome(error), started)
            raise
        finally:
            if isinstance(values, AsyncGenerator):
                await values.aclose()

    def _pace(self, name: str, caller: Caller, body: Any) -> None:
        if self.pacing is not None:
            self.pacing.admit(name, caller, body)

    async def confirm(self, name: str, caller: Caller) -> None:
        """As `admit`, from memory where that will do."""
        if not self.gates.confirm(caller, name):
            await self.admit(name, caller)

    async def begin(self, name: str, caller: Caller, request_id: RequestId) -> None:
        """Refuse what may not be before any of its body is read, counted and logged as a call.

        What is permitted here is asked again by `call` and `open`: a body may take its time.
        """
        started = self.clock.monotonic()
        try:
            await self.admit(name, caller)
        except BaseException as error:
            outcome = name_outcome(error)
            with self.tracer.span(name) as span:
                span.note(troth_outcome=outcome)
                self._count(name, outcome, started)
                self._tell(name, caller, request_id, outcome, self.clock.monotonic() - started)
                raise

    async def admit(self, name: str, caller: Caller) -> Gate:
        """What `caller` may do by `name` now; raises `NotFound`, `Unauthenticated` or `Denied` if
        it may not begin."""
        if name not in self.operations and name not in self.subscriptions:
            raise NotFound(f"There is no operation {name}.")
        try:
            return await self.gates.admit(caller, name)
        except Denied as error:
            self._refuse(name, caller, error)

    def _refuse(self, name: str, caller: Caller, error: Denied) -> NoReturn:
        anonymous = caller.principal == ANONYMOUS.principal
        # Strangers may not fill the log; who is known and tries too much is worth a look.
        tell = log.debug if anonymous else log.warning
        tell("call.refused", operation=name, caller=caller.principal, source=caller.source)
        if anonymous:
            raise Unauthenticated(
                f"{name} needs an authenticated caller: use the admin socket, or a certificate of "
                "this trust domain on the mutual-TLS listener."
            )
        raise error
