"""Refused requests for tokens, told to the journal: why, and whom they claimed to come from.

The answer tells an outsider little; the journal tells the operator. Strangers must not fill it, so
each source and all together may add a few, and the next that is told says how many weren't.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from troth.core.bucket import Bucket
from troth.core.clock import Clock
from troth.core.errors import Internal, Limited, Passing, TrothError
from troth.core.ids import SpiffeId
from troth.core.jose.jws import parse_token
from troth.operations.call import Call, Operation
from troth.operations.recording import record_event
from troth.operations.throttle import Throttle
from troth.store.engine import Store
from troth.wire.oauth.basic import is_basic, parse_basic
from troth.wire.oauth.errors import name_error
from troth.wire.oauth.request import OAuthRequest

EACH_BURST, EACH_PER_SECOND = 20, 0.1
ALL_BURST, ALL_PER_SECOND = 200, 2.0
MAX_CLAIM = 256


class RefusalJournal:
    """Tells what was refused, bounded. Belongs to one event loop."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._sources = Throttle(clock, EACH_BURST, EACH_PER_SECOND)
        self._all = Bucket(ALL_BURST, ALL_PER_SECOND, clock.monotonic())
        self._untold = 0

    async def tell(self, call: Call[OAuthRequest], error: TrothError) -> None:
        """Append ``token.refused``, unless there were too many of late."""
        if isinstance(error, Passing | Internal):
            return  # nobody's fault who asked
        source = call.caller.source
        try:
            self._sources.check(source)
        except Limited:
            self._untold += 1
            return
        if not self._all.take(1, self._clock.monotonic()):
            self._untold += 1
            return
        self._sources.count(source)
        untold, self._untold = self._untold, 0
        now, form = self._clock.now(), call.body.form
        body: dict[str, Any] = {
            "error": name_error(error),
            "reason": error.detail,
            "grant": (form.find("grant_type") or "")[:MAX_CLAIM],
            "claimed": find_claimed(call.body)[:MAX_CLAIM],
            "untold": untold,
        }
        await self._store.transact(
            lambda tx: record_event(tx, call, "token.refused", call.caller.principal, now, **body)
        )


@dataclass(frozen=True, slots=True)
class Journaled:
    """An operation of the OAuth endpoints, whose refusals are told to the journal."""

    operation: Operation
    refusals: RefusalJournal

    async def __call__(self, call: Call[OAuthRequest]) -> Any:
        """What the operation answers; a refusal is told, and raised on."""
        try:
            if call.body.fault is not None:
                raise call.body.fault
            return await self.operation(call)
        except TrothError as error:
            await self.refusals.tell(call, error)
            raise


def find_claimed(request: OAuthRequest) -> str:
    """Whom a request says it comes from, proved or not; "" if it says nothing that can be read."""
    named = request.form.find("client_id")
    if named is None and is_basic(request.authorization):
        return _find_basic(request.authorization or "")
    assertion = request.form.find("client_assertion")
    if named is None and assertion is not None:
        try:
            subject = parse_token(assertion).claims.get("sub")
        except TrothError:
            return ""
        named = subject if isinstance(subject, str) else ""
    return named or ""


def _find_basic(authorization: str) -> str:
    """The client in a Basic header, if that is a SPIFFE ID: else it could be a misplaced secret."""
    try:
        return str(SpiffeId.parse(parse_basic(authorization).client_id))
    except TrothError:
        return ""
