"""Tokens that were shown and didn't count: the reason goes into the journal and nowhere else.

Whoever may ask could fill the journal by asking, so each asker's rejections are recorded a few
times, then now and then. How many weren't is told with the next that is.
"""

from __future__ import annotations

from typing import Any

from troth.core.clock import Clock
from troth.core.errors import Limited
from troth.operations.bearer import Rejected
from troth.operations.call import Call, Caller
from troth.operations.client import Proven
from troth.operations.recording import make_event
from troth.operations.throttle import Throttle
from troth.store.engine import Store

MOST_REASON = 300


class RejectionJournal:
    """Records rejections. Belongs to one event loop."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._throttle = Throttle(clock)
        self._left_out = 0

    async def record(self, call: Call[Any], asker: Proven, rejected: Rejected) -> None:
        """Note why `asker` was told nothing about a token; nothing of a token that isn't ours."""
        try:
            self._throttle.check(asker.client_id)
        except Limited:
            self._left_out += 1
            return
        self._throttle.count(asker.client_id)
        left_out, self._left_out = self._left_out, 0
        token = rejected.token
        body = {} if token is None else {"jti": token.jti}
        event = make_event(
            name_caller(call, asker),
            "token.rejected",
            asker.client_id if token is None else token.subject,
            self._clock.now(),
            asker=asker.client_id,
            reason=rejected.reason[:MOST_REASON],
            left_out=left_out,
            **body,
        )
        await self._store.transact(lambda tx: tx.journal.append(event))


def name_caller(call: Call[Any], client: Proven) -> Call[Any]:
    """The call as the journal shows it: by the client that proved itself in it."""
    caller = Caller(client.client_id, frozenset(), source=call.caller.source)
    return Call(caller, call.request_id, None)
