"""The agent's metrics, as a file for the node exporter's textfile collector.

The agent listens on no port and shows nothing to the node's other users; whoever may read the file
may read the metrics. No label is an identity, a process or a uid.
"""

from __future__ import annotations

import asyncio
import math
import os
from dataclasses import dataclass
from pathlib import Path

import structlog

from troth import __version__
from troth.agent.cache import Cache
from troth.agent.refusals import Refusals
from troth.agent.sync import Sync
from troth.agent.timing import Sleep
from troth.core.clock import Clock

PERIOD = 15.0
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
MODE = 0o644
DISPUTED = "troth_agent_log_disputed"

log = structlog.get_logger(__name__)


class NoMetrics:
    """Counts nothing: nobody asked for a file."""

    def show(self, gauge: str, value: float) -> None:
        """Nothing."""

    def observe_call(self, method: str, outcome: str, seconds: float) -> None:
        """Nothing."""


class AgentMetrics:
    """What the agent counts."""

    def __init__(self) -> None:
        # Loaded only where a file is asked for: an agent should be small.
        from prometheus_client import CollectorRegistry, Gauge, Histogram

        self.registry = CollectorRegistry(auto_describe=False)
        self._calls = Histogram(
            "troth_agent_call_seconds",
            "Time to the first answer of calls on the socket.",
            ("method", "outcome"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        gauges = {
            "troth_agent_processes": "Processes that the agent knows.",
            "troth_agent_streams": "Open streams of workloads.",
            "troth_agent_svids": "X.509-SVIDs that are held and valid.",
            "troth_agent_svid_expires_seconds": "Until the first of them ends.",
            "troth_agent_identities": "Identities that may be served on this node.",
            "troth_agent_snapshot_epoch": "Journal position of what the server said last.",
            "troth_agent_silence_seconds": "Since the server was last heard.",
            DISPUTED: "1 once the server's log isn't the one that was seen before.",
            "troth_agent_refused_waiting": "Refused processes that are still to be reported.",
        }
        self._gauges = {
            name: Gauge(name, help, registry=self.registry) for name, help in gauges.items()
        }
        build = ("troth_agent_build_info", "1, with the version.", ("version",))
        Gauge(*build, registry=self.registry).labels(__version__).set(1)

    def observe_call(self, method: str, outcome: str, seconds: float) -> None:
        """Record one call."""
        self._calls.labels(method, outcome).observe(seconds)

    def show(self, gauge: str, value: float) -> None:
        """Set a gauge."""
        self._gauges[gauge].set(value)

    def render(self) -> bytes:
        """The text format."""
        from prometheus_client.exposition import generate_latest

        return generate_latest(self.registry)


@dataclass(frozen=True, slots=True)
class MetricsFile:
    """Writes the metrics every 15 seconds, whole or not at all."""

    path: Path
    metrics: AgentMetrics
    sync: Sync
    cache: Cache
    refusals: Refusals
    clock: Clock

    async def run(self, sleep: Sleep) -> None:
        """Write for ever. What can't be written is written next time."""
        broken = False
        while True:
            self.look()
            try:
                await asyncio.to_thread(self._write, self.metrics.render())
                broken = False
            except OSError as error:
                if not broken:
                    log.warning("metrics.not_written", path=str(self.path), reason=error.strerror)
                broken = True
            await sleep(PERIOD)

    def look(self) -> None:
        """Set the gauges."""
        snapshot, show = self.sync.snapshot, self.metrics.show
        now = self.clock.now()
        held = [h.svid for w in self.cache for h in w.holdings.values() if h.svid is not None]
        left = [(svid.not_after - now).total_seconds() for svid in held if svid.not_after > now]
        show("troth_agent_processes", len(self.cache))
        show("troth_agent_streams", sum(workload.watchers for workload in self.cache))
        show("troth_agent_svids", len(left))
        show("troth_agent_svid_expires_seconds", min(left, default=math.inf))
        if snapshot is not None:
            show("troth_agent_identities", len(snapshot.registrations))
            show("troth_agent_snapshot_epoch", snapshot.epoch)
            show("troth_agent_silence_seconds", self.sync.measure_silence())
        show("troth_agent_refused_waiting", len(self.refusals))

    def _write(self, text: bytes) -> None:
        fresh = self.path.with_name(f".{self.path.name}.new")  # the collector reads *.prom alone
        fresh.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(fresh, flags, MODE), "wb") as file:
            file.write(text)
        fresh.replace(self.path)
