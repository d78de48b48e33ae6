"""Legal holds: what happened in a span of time is kept, however old it is.

Days are kept whole: one that a hold touches isn't removed from the archive, and no segment with a
record of it is deleted. What a hold keeps isn't redacted either.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from troth.core.clock import Clock
from troth.core.errors import Invalid
from troth.operations.call import Call
from troth.operations.moments import check_zones
from troth.operations.recording import record_event
from troth.store.engine import Store
from troth.store.holds import Hold
from troth.store.transaction import Transaction
from troth.wire.api import holds as wire


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """``hold.place``: keep a span of time."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.PlaceHold]) -> wire.HoldView:
        """`Invalid` for a span that is empty, `Conflict` for a name that is taken."""
        body = call.body
        check_zones(since=body.since, until=body.until)
        if body.until is not None and body.since >= body.until:
            raise Invalid(
                "The hold would keep nothing: its `since` isn't before its `until`. Exchange them, "
                "or leave `until` out for a hold without an end."
            )
        return await self.store.transact(partial(self._place, call))

    def _place(self, call: Call[wire.PlaceHold], tx: Transaction) -> wire.HoldView:
        body, now = call.body, self.clock.now()
        hold = Hold(body.name, body.since, body.until, body.reason, call.caller.principal, now)
        tx.holds.add(hold)
        record_event(
            tx,
            call,
            "hold.placed",
            hold.name,
            now,
            since=hold.since.isoformat(),
            until=None if hold.until is None else hold.until.isoformat(),
            reason=hold.reason,
        )
        return view_hold(hold)


@dataclass(frozen=True, slots=True)
class ListHolds:
    """``hold.ls``: what is kept."""

    store: Store

    async def __call__(self, call: Call[wire.ListHolds]) -> wire.HoldList:
        """All of them."""
        found = await self.store.read(lambda tx: tx.holds.list())
        return wire.HoldList(items=[view_hold(hold) for hold in found])


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    """``hold.release``: keep it no longer than all else."""

    store: Store
    clock: Clock

    async def __call__(self, call: Call[wire.ReleaseHold]) -> wire.HoldView:
        """`NotFound` if there is no such hold."""
        return await self.store.transact(partial(self._release, call))

    def _release(self, call: Call[wire.ReleaseHold], tx: Transaction) -> wire.HoldView:
        hold = tx.holds.get(call.body.name)
        tx.holds.remove(hold.name)
        record_event(
            tx, call, "hold.released", hold.name, self.clock.now(), reason=call.body.reason
        )
        return view_hold(hold)


def view_hold(hold: Hold) -> wire.HoldView:
    """A hold as the API shows it."""
    return wire.HoldView(
        name=hold.name,
        since=hold.since,
        until=hold.until,
        reason=hold.reason,
        placed_by=hold.placed_by,
        placed_at=hold.placed_at,
    )
