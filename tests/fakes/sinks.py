"""A sink whose receiver does what a test wants, and what feeds it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from troth.core.clock import Clock, VirtualClock
from troth.core.entropy import SeededEntropy
from troth.drivers.sinks import Away, Format, Message, Rejected, Target
from troth.operations.outlet import Outlet
from troth.operations.portrayal import Portrayer
from troth.wire.ocsf.render import Producer

PORTRAYER = Portrayer(Format.OCSF, Producer("example.org", "1.2.3"), "troth.example.org")
TARGET = Target("siem", "https://siem.example.org/", host="troth.example.org")


@dataclass
class FakeReceiver:
    """Takes messages. `refused` are ids that it never takes, told by place (`names`) or not;
    `cut_after` so many of a batch are taken before the connection breaks; one of more than
    `slow_above` is taken, and never answered."""

    taken: list[Message] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    names: bool = False
    away: str = ""
    retry_after: float | None = None
    refuses_all: bool = False
    hangs: bool = False
    cut_after: int | None = None
    slow_above: int | None = None
    broken: BaseException | None = None
    attempts: int = 0
    opened: int = 0
    closed: int = 0
    secrets: list[str] = field(default_factory=list)
    before: Callable[[], Any] | None = None

    @property
    def ids(self) -> list[str]:
        """What was taken, in order, with repeats."""
        return [message.id for message in self.taken]

    @property
    def positions(self) -> list[int]:
        """The positions of the events that were taken, in order, with repeats."""
        return [
            json.loads(one.content)["metadata"]["sequence"]
            for one in self.taken
            if one.source == "journal"
        ]

    def open(self, target: Target, secret: str, clock: Clock) -> FakeSink:
        self.opened += 1
        self.secrets.append(secret)
        return FakeSink(self)


@dataclass
class FakeSink:
    receiver: FakeReceiver

    async def deliver(self, batch: Sequence[Message]) -> None:
        receiver = self.receiver
        receiver.attempts += 1
        assert batch
        if receiver.before is not None:
            receiver.before()
        if receiver.broken is not None:
            raise receiver.broken
        if receiver.hangs:
            await asyncio.Event().wait()
        if receiver.away:
            raise Away(receiver.away, receiver.retry_after)
        if receiver.cut_after is not None:
            receiver.taken += batch[: receiver.cut_after]
            raise Away("the connection was cut")
        self._refuse(batch)
        receiver.taken += batch
        if receiver.slow_above is not None and len(batch) > receiver.slow_above:
            await asyncio.Event().wait()

    def _refuse(self, batch: Sequence[Message]) -> None:
        receiver = self.receiver
        wrong = {
            place: f"no {one.id}"
            for place, one in enumerate(batch)
            if receiver.refuses_all or one.id in receiver.refused
        }
        if not wrong:
            return
        if not receiver.names:
            raise Rejected("something is wrong with it")
        receiver.taken += [one for place, one in enumerate(batch) if place not in wrong]
        raise Rejected("something is wrong with them", wrong)

    async def close(self) -> None:
        self.receiver.closed += 1


def make_outlet(
    receiver: FakeReceiver, clock: VirtualClock, *, patience: float = 5.0, **options: Any
) -> Outlet:
    """An outlet to that receiver."""
    return Outlet(
        options.pop("target", TARGET),
        "fake",
        clock,
        SeededEntropy(options.pop("seed", 1)),
        options.pop("secret", str),
        open_sink=receiver.open,
        patience=patience,
    )
