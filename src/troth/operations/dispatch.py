"""The gate: every call from outside passes here, is permitted or refused, counted and logged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import Denied, NotFound, TrothError, Unauthenticated
from troth.core.ids import RequestId, new_id
from troth.operations.call import ANONYMOUS, Call, Caller, Operation, Subscription
from troth.operations.pacing import Pacing
from troth.policy.permissions import decide_operation

log = structlog.get_logger(__name__)


class Meter(Protocol):
    """Counts finished calls: `outcome` is ``ok`` or an error's code; `seconds` the duration."""

    def observe(self, operation: str, outcome: str, seconds: float) -> None:
        """Record one finished call."""
        ...


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Calls operations and opens subscriptions by name, on behalf of a caller."""

    operations: Mapping[str, Operation]
    subscriptions: Mapping[str, Subscription]
    clock: Clock
    entropy: Entropy
    meter: Meter
    pacing: Pacing | None = None

    def new_request_id(self) -> RequestId:
        """A fresh id that ties an answer, its log lines and its journal rows together."""
        return RequestId(new_id("req", self.entropy))

    async def call(self, name: str, caller: Caller, request_id: RequestId, body: Any) -> Any:
        """Carry out operation `name`; raises `Denied`, `Unauthenticated` or what it raises."""
        started = self.clock.monotonic()
        outcome = "internal"
        try:
            self.permit(name, caller)
            self._pace(name, caller, body)
            result = await self.operations[name](Call(caller, request_id, body))
            outcome = "ok"
            return result
        except TrothError as error:
            outcome = error.code
            raise
        finally:
            self.meter.observe(name, outcome, self.clock.monotonic() - started)

    def open(
        self, name: str, caller: Caller, request_id: RequestId, body: Any
    ) -> AsyncIterator[Any]:
        """Open subscription `name`; the permission is checked before the first value.

        Whoever passes the values on asks `permit` again for each: a stream outlives permissions.
        """
        self.permit(name, caller)
        self._pace(name, caller, body)
        return self.subscriptions[name](Call(caller, request_id, body))

    def _pace(self, name: str, caller: Caller, body: Any) -> None:
        if self.pacing is not None:
            self.pacing.admit(name, caller, body)

    def permit(self, name: str, caller: Caller) -> None:
        """Raise `NotFound`, `Unauthenticated` or `Denied` unless `caller` may use `name` now."""
        if name not in self.operations and name not in self.subscriptions:
            raise NotFound(f"There is no operation {name}.")
        decision = decide_operation(caller.roles, name)
        if decision.allowed:
            return
        anonymous = caller.principal == ANONYMOUS.principal
        # Strangers may not fill the log; who is known and tries too much is worth a look.
        tell = log.debug if anonymous else log.warning
        tell("call.refused", operation=name, caller=caller.principal, source=caller.source)
        if anonymous:
            raise Unauthenticated(
                f"{name} needs an authenticated caller: use the admin socket, or a certificate of "
                "this trust domain on the mutual-TLS listener."
            )
        raise Denied(decision.reason)
