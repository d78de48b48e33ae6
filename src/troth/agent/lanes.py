"""Turns for what is dear, a few at a time for each uid, so that nobody waits behind a flood."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from troth.core.errors import Limited


@dataclass(slots=True)
class _Lane:
    busy: int = 0
    queue: deque[asyncio.Future[None]] = field(default_factory=deque)


class Lanes:
    """For each uid at most `width` have their turn and `depth` wait, first come first served.

    Who is cancelled while waiting leaves the queue.
    """

    def __init__(self, width: int, depth: int) -> None:
        self._width = width
        self._depth = depth
        self._lanes: dict[int, _Lane] = {}

    async def enter(self, uid: int) -> None:
        """Wait for a turn; `leave` gives it back. Raises `Limited` if too many wait already."""
        lane = self._lanes.setdefault(uid, _Lane())
        if lane.busy < self._width:
            lane.busy += 1
            return
        if len(lane.queue) >= self._depth:
            raise Limited(
                f"{self._depth} requests of this uid wait already; slow down, then try again."
            )
        turn = asyncio.get_running_loop().create_future()
        lane.queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(uid)  # the turn had just been given
            elif turn in lane.queue:
                lane.queue.remove(turn)
            raise

    def leave(self, uid: int) -> None:
        """Pass the turn on to the one who waits the longest."""
        lane = self._lanes[uid]
        while lane.queue:
            turn = lane.queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        lane.busy -= 1
        if not lane.busy:
            del self._lanes[uid]
