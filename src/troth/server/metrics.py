"""Prometheus metrics, in registries of their own: nothing here is global."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds in seconds."""


class Metrics:
    """What the server counts; the `Meter` of the dispatcher.

    The series of `troth_*` name operations and outcomes, never an identity, a caller or an
    address, so they may be read without authentication.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)
        self._operations = Histogram(
            "troth_operation_seconds",
            "Duration of finished calls by operation and outcome.",
            ("operation", "outcome"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._journal_head = Gauge(
            "troth_journal_head", "Last sealed position of the journal.", registry=self._registry
        )
        self._epoch = Gauge(
            "troth_snapshot_epoch",
            "Journal position as of which the live snapshot holds.",
            registry=self._registry,
        )
        self._epoch_age = Gauge(
            "troth_snapshot_age_seconds",
            "Seconds since the live snapshot last heard from the journal.",
            registry=self._registry,
        )
        self._failures = Counter(
            "troth_background_failures_total",
            "Failed runs of background work.",
            ("task",),
            registry=self._registry,
        )

    def observe(self, operation: str, outcome: str, seconds: float) -> None:
        """Record one finished call."""
        self._operations.labels(operation, outcome).observe(seconds)

    def show_journal(self, head: int, epoch: int, age: float) -> None:
        """Set the gauges: sealed head, the snapshot's epoch, and its age in seconds."""
        self._journal_head.set(head)
        self._epoch.set(epoch)
        self._epoch_age.set(age)

    def count_failure(self, task: str) -> None:
        """Record one failed run of a background task."""
        self._failures.labels(task).inc()

    def render(self, *, full: bool) -> bytes:
        """The text format; with `full` also memory, processor time and files of the process."""
        text = generate_latest(self._registry)
        return text + generate_latest(self._process) if full else text
