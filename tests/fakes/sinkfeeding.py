"""A server as far as it feeds a sink from its journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tests.fakes.sinks import PORTRAYER, FakeReceiver, make_outlet
from tests.fakes.stores import make_event, seal_all
from troth.core.clock import VirtualClock
from troth.operations.journalsource import JournalSource
from troth.operations.sinking import FeedSink
from troth.store.dead_letters import DeadLetter
from troth.store.engine import Store
from troth.store.sealer import Sealer


@dataclass
class Epoch:
    """The part of the live snapshot that sources look at."""

    epoch: int = 0


@dataclass
class FakeMeter:
    sent: list[tuple[int, int, bool]] = field(default_factory=list)
    shown: tuple[int, float] = (0, 0.0)

    def count_sent(self, sink: str, delivered: int, refused: int, *, failed: bool) -> None:
        self.sent.append((delivered, refused, failed))

    def show_sink(self, sink: str, source: str, behind: int, lag: float) -> None:
        assert (sink, source) == ("siem", "journal")
        self.shown = (behind, lag)


class Server:
    """One server on the database: what it seals, and its feed of one sink."""

    def __init__(self, store: Store, clock: VirtualClock, receiver: FakeReceiver, seed: int = 1):
        self.store, self.clock, self.receiver = store, clock, receiver
        self.snapshot = Epoch()
        self.meter = FakeMeter()
        self.sealer = Sealer(store, clock=clock, holder=store.holder)
        self.seed = seed
        self.feed = self.make_feed()

    def make_feed(self, *types: str, from_now: bool = False, largest: int = 1 << 20) -> FeedSink:
        """A new one, as after a restart."""
        source = JournalSource(self.store, self.snapshot, PORTRAYER, types, largest)  # type: ignore[arg-type]
        outlet = make_outlet(self.receiver, self.clock, seed=self.seed, patience=0.05)
        return FeedSink(self.store, self.clock, outlet, source, self.meter, from_now)

    async def record(self, count: int, **changes: Any) -> None:
        events = [make_event(number, **changes) for number in range(count)]
        await self.store.transact(lambda tx: tx.journal.append_all(events))
        await self.look()

    async def look(self) -> None:
        await seal_all(self.sealer)
        self.snapshot.epoch = await self.store.read(lambda tx: tx.journal.head())

    async def letters(self) -> list[DeadLetter]:
        return await self.store.read(lambda tx: tx.dead_letters.page("siem", 1000))

    async def cursor(self) -> int:
        return await self.store.read(lambda tx: tx.cursors.get("sink/siem/journal"))

    async def trouble(self) -> str | None:
        return await self.store.read(lambda tx: tx.settings.get("sink/siem/journal"))

    def wait(self, seconds: float = 120.0) -> None:
        self.clock.advance(timedelta(seconds=seconds))


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())
