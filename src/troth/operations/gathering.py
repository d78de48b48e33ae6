"""Gathering: certificates that are asked for one by one are issued together.

Each batch costs two turns of the writer and two fsyncs, whatever its size. So who asks while a
batch is under way goes into the next one: a single device waits for nobody, and a fleet that comes
all at once shares the cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from troth.core.errors import TrothError
from troth.operations.call import Call
from troth.operations.leaf import Leaf, LeafIssuer, Wish
from troth.operations.node import collect_roots
from troth.operations.queue import BatchQueue, settle_failure
from troth.operations.recording import BACKGROUND
from troth.store.engine import Store
from troth.store.transaction import Transaction

MOST_TOGETHER = 64
"""Certificates of one batch: more would only make the others wait."""

Condition = Callable[[Transaction, bool], None]
"""Raises the refusal of one wish, in both transactions; true in the one that records the intent.

It must not run into a constraint of the database: that would end the others' transaction too.
"""

Issued = tuple[Leaf, list[bytes]]
"""A certificate, and the roots (DER) to trust at the time when it was issued."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    wish: Wish
    condition: Condition
    answer: asyncio.Future[Issued]
    context: Context = field(default_factory=copy_context)


class LeafGatherer:
    """Issues single wishes in common batches. Belongs to one event loop."""

    def __init__(self, store: Store, leaves: LeafIssuer) -> None:
        self._store = store
        self._leaves = leaves
        self._queue = BatchQueue(self._issue, MOST_TOGETHER, "leaves gathered")

    async def issue(self, call: Call[Any], wish: Wish, condition: Condition) -> Issued:
        """The certificate that `call` wishes for, or the refusal raised."""
        answer: asyncio.Future[Issued] = asyncio.get_running_loop().create_future()
        mine = wish.on_behalf(call)
        self._queue.put(_Wanted(mine, condition, answer))
        return await answer

    async def _issue(self, batch: Sequence[_Wanted]) -> None:
        def ask(
            tx: Transaction, numbers: Sequence[int], *, first: bool
        ) -> Mapping[int, TrothError]:
            refusals: dict[int, TrothError] = {}
            for number in numbers:
                try:
                    batch[number].condition(tx, first)
                except TrothError as refusal:
                    refusals[number] = refusal
            return refusals

        try:
            outcomes = await self._leaves.issue(BACKGROUND, [one.wish for one in batch], ask)
            roots = await self._store.read(collect_roots)
        except BaseException as error:
            for one in batch:
                settle_failure(one.answer, error)
            if not isinstance(error, Exception):
                raise
            return
        for one, outcome in zip(batch, outcomes, strict=True):
            if one.answer.done():  # whoever asked has gone
                continue
            if isinstance(outcome, TrothError):
                one.answer.set_exception(outcome)
            else:
                one.answer.set_result((outcome, roots))
