"""``audit.touched``: who did what with a resource in a period, and how often.

Decisions alone say so. Those that aren't packed yet and those in the archive are counted together,
whole days and months from what stands beside their files.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from troth.archive.search import Archive
from troth.core.clock import Clock
from troth.operations.auditsearch import find_period
from troth.operations.call import Call
from troth.wire.api import auditsearch as wire


@dataclass(frozen=True, slots=True)
class AskTouched:
    """``audit.touched``: each subject with what it asked for and what it was answered."""

    archive: Archive
    clock: Clock

    async def __call__(self, call: Call[wire.AskTouched]) -> wire.Touched:
        """Those that did so last come first; `Invalid` for a period that is empty, `TooLarge` for
        one with too many subjects."""
        body = call.body
        since, until = find_period(body.since, body.until, self.clock.now())
        found = await asyncio.to_thread(
            self.archive.who_touched, body.resource, since, until, body.limit
        )
        return wire.Touched(
            resource=body.resource,
            since=since,
            until=until,
            items=[wire.Touch(**one._asdict()) for one in found.found],
            complete=found.complete,
            notes=list(found.damage),
        )
