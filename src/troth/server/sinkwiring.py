"""How sinks are built and fed: once, as everything in `troth.server.wiring`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol
from urllib.parse import urlsplit

from troth import __version__
from troth.archive.log import DecisionLog
from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.drivers.references import read_reference
from troth.live.snapshot import Snapshot
from troth.operations.decisionsource import DecisionSource
from troth.operations.journalsource import JournalSource
from troth.operations.outlet import Outlet
from troth.operations.portrayal import Portrayer
from troth.operations.sinking import Channel, FeedSink, SinkMeter, Source
from troth.operations.table import Parts
from troth.server.background import Task
from troth.server.config import Config
from troth.server.sinkconfig import SinkConfig
from troth.store.engine import Store
from troth.wire.ocsf.render import Producer

PERIOD = 1.0
"""How often is looked whether something came, or a receiver came back; mostly that looks at no
more than a number."""
COSTLY = ("syslog",)
"""Drivers whose every batch costs a connection: they take what a second brings at once."""
ANYTHING = ("",)
"""The beginning of every type of event."""
COUNT_SECONDS = 30.0


class Meter(SinkMeter, Protocol):
    """Counts what sinks do, and shows what they couldn't."""

    def show(self, gauge: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        ...


def open_channels(
    config: Config,
    store: Store,
    snapshot: Snapshot,
    decisions: DecisionLog,
    clock: Clock,
    entropy: Entropy,
) -> tuple[Channel, ...]:
    """One for each sink, in the order of the configuration. Nothing is connected yet."""
    producer, host = Producer(str(config.trust_domain), __version__), _find_host(config)
    found = []
    for sink in config.sinks:
        portrayer = Portrayer(sink.target.format, producer, host)
        sources: list[Source] = [
            JournalSource(store, snapshot, portrayer, sink.types, sink.largest)
        ]
        if sink.decisions:
            denied = sink.decisions == "denied"
            sources.append(
                DecisionSource(store, decisions, portrayer, denied=denied, largest=sink.largest)
            )
        outlet = _make_outlet(sink, host, clock, entropy)
        found.append(Channel(outlet, portrayer, tuple(sources), sink.largest, sink.from_now))
    return tuple(found)


async def close_channels(channels: Iterable[Channel]) -> None:
    """Close all connections."""
    closing = (channel.outlet.close() for channel in channels)
    await asyncio.gather(*closing, return_exceptions=True)


def list_sink_tasks(parts: Parts, meter: Meter) -> list[Task]:
    """Background work that feeds them: each by itself, so that none waits for another."""
    found = []
    for number, channel in enumerate(parts.channels, 1):
        outlet = channel.outlet
        wakes = () if outlet.driver in COSTLY else ANYTHING
        for source in channel.sources:
            feed = FeedSink(parts.store, parts.clock, outlet, source, meter, channel.from_now)
            # Names of tasks are for anybody to read; those of sinks are for those who know them.
            name = f"sinks.feed/{number}/{source.name.partition('/')[0]}"
            found.append(Task(name, PERIOD, feed, wakes=wakes, quiet=True))
    if parts.channels:
        names = tuple(channel.name for channel in parts.channels)
        count = CountDeadLetters(parts.store, meter, names)
        found.append(Task("sinks.count", COUNT_SECONDS, count, quiet=True))
    return found


@dataclass(frozen=True, slots=True)
class CountDeadLetters:
    """Background: show how many dead letters each sink has."""

    store: Store
    meter: Meter
    names: Sequence[str]

    async def __call__(self) -> None:
        """Count them."""
        counts = await self.store.read(lambda tx: tx.dead_letters.count())
        for name in self.names:
            self.meter.show("troth_sink_dead_letters", counts.get(name, 0), name)


def _make_outlet(sink: SinkConfig, host: str, clock: Clock, entropy: Entropy) -> Outlet:
    target = replace(sink.target, host=host, version=__version__)
    secret = partial(_read_secret, sink) if sink.secret else str
    return Outlet(target, sink.driver, clock, entropy, secret)


def _read_secret(sink: SinkConfig) -> str:
    what = f"secret of the sink {sink.name}"
    environment = {"PATH": os.defpath, **sink.environment}
    return read_reference(sink.secret, what, environment=environment).strip()


def _find_host(config: Config) -> str:
    """The name under which others know this server."""
    return urlsplit(config.origin).hostname or config.public.host
