"""How sinks are built and fed: once, as everything in `troth.server.wiring`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

from troth import __version__
from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.drivers.references import read_reference
from troth.operations.decisionsource import DecisionSource
from troth.operations.journalsource import JournalSource
from troth.operations.outlet import Outlet
from troth.operations.portrayal import Portrayer
from troth.operations.sinking import FeedSink, SinkMeter
from troth.operations.table import Parts
from troth.server.background import Task
from troth.server.config import Config
from troth.server.sinkconfig import SinkConfig
from troth.wire.ocsf.render import Producer

PERIOD = 1.0
"""How often is looked whether something came, or a receiver came back; mostly that looks at no
more than a number."""
COSTLY = ("syslog",)
"""Drivers whose every batch costs a connection: they take what a second brings at once."""
ANYTHING = ("",)
"""The beginning of every type of event."""


def open_outlets(config: Config, clock: Clock, entropy: Entropy) -> tuple[Outlet, ...]:
    """One for each sink, in the order of the configuration. Nothing is connected yet."""
    host = _find_host(config)
    return tuple(_make_outlet(sink, host, clock, entropy) for sink in config.sinks)


async def close_outlets(outlets: Iterable[Outlet]) -> None:
    """Close all connections."""
    await asyncio.gather(*(outlet.close() for outlet in outlets), return_exceptions=True)


def list_sink_tasks(parts: Parts, config: Config, meter: SinkMeter) -> list[Task]:
    """Background work that feeds them: each by itself, so that none waits for another."""
    producer = Producer(str(config.trust_domain), __version__)
    found = []
    for number, (sink, outlet) in enumerate(zip(config.sinks, parts.outlets, strict=True), 1):
        portrayer = Portrayer(sink.target.format, producer, _find_host(config))
        journal = JournalSource(parts.store, parts.snapshot, portrayer, sink.types, sink.largest)
        feed = FeedSink(parts.store, parts.clock, outlet, journal, meter, sink.from_now)
        # Names of tasks are for anybody to read; those of sinks are for those who know them.
        wakes = () if sink.driver in COSTLY else ANYTHING
        found.append(Task(f"sinks.feed/{number}", PERIOD, feed, wakes=wakes, quiet=True))
        if sink.decisions:
            tell = FeedSink(
                parts.store,
                parts.clock,
                outlet,
                _make_decision_source(sink, parts, portrayer),
                meter,
                sink.from_now,
            )
            found.append(Task(f"sinks.decisions/{number}", PERIOD, tell, quiet=True))
    return found


def _make_decision_source(sink: SinkConfig, parts: Parts, portrayer: Portrayer) -> DecisionSource:
    denied = sink.decisions == "denied"
    return DecisionSource(
        parts.store, parts.decisions, portrayer, denied=denied, largest=sink.largest
    )


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
