"""Prometheus metrics, in registries of their own: nothing here is global.

What anybody may read and what only known callers may stands in two registries. No label is ever
an identity, a caller or an address, so the number of series is bounded by what troth is, not by
what it serves.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from troth import __version__
from troth.wire.api.status import OperationUse

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds in seconds."""
FAULTS = ("internal", "unavailable")
"""Outcomes that are the server's own."""
QUICK = (0.0001, 0.00025, 0.0005, *BUCKETS)
"""The same for what takes less than a millisecond."""

_GAUGES = {
    "troth_connections": ("Open connections.", ("listener",)),
    "troth_requests_under_way": ("Requests that are being answered, streams too.", ("listener",)),
    "troth_identities": ("Identities by state, retired ones too.", ("state",)),
    "troth_nodes": ("Active nodes.", ()),
    "troth_nodes_silent": ("Active nodes that were not heard of for five minutes.", ()),
    "troth_node_expires_seconds": (
        "Until the active node that renewed longest ago can't come back by itself.",
        (),
    ),
    "troth_authority_expires_seconds": ("Until the active authority ends.", ("use",)),
    "troth_server_certificate_expires_seconds": ("Until the server's certificate ends.", ()),
    "troth_crl_age_seconds": ("Age of the oldest newest list of a published authority.", ()),
    "troth_crl_expires_seconds": ("Until the first of these lists is refused by verifiers.", ()),
    "troth_sink_behind": (
        "Sealed events, or segments of decisions, that a sink's receiver doesn't have.",
        ("sink", "source"),
    ),
    "troth_sink_lag_seconds": (
        "Age of the oldest event or decision that a sink's receiver doesn't have.",
        ("sink", "source"),
    ),
    "troth_sink_dead_letters": ("Dead letters of a sink.", ("sink",)),
}
"""For known callers: name → what it is, and its labels."""

_OPEN_GAUGES = {
    "troth_journal_head": "Last sealed position of the journal.",
    "troth_journal_waiting": "Committed events that are not sealed yet.",
    "troth_snapshot_epoch": "Journal position as of which the live snapshot holds.",
    "troth_snapshot_age_seconds": "Seconds since the live snapshot last heard from the journal.",
    "troth_snapshot_lease_seconds": "Seconds until the live snapshot denies everything.",
    "troth_decision_log_waiting": "Appends to the decision log that are not durable yet.",
    "troth_decision_log_bytes": "Size of all segments of the decision log.",
    "troth_log_size": "Entries of the log in this server's tiles.",
    "troth_log_behind": "Sealed events that aren't in this server's tiles yet.",
    "troth_log_cosigned": "Witnesses that cosigned the newest checkpoint.",
    "troth_log_disputes": "Witnesses that say that the log was another before.",
}


class Metrics:
    """What the server counts: the meter of dispatcher, store, keystore, feed and background."""

    def __init__(self) -> None:
        self._open = CollectorRegistry(auto_describe=False)
        self._closed = CollectorRegistry(auto_describe=False)
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)
        self._make_histograms()
        self._make_counters()
        self._gauges = {
            name: Gauge(name, help, registry=self._open) for name, help in _OPEN_GAUGES.items()
        }
        self._gauges["troth_store_under_way"] = Gauge(
            "troth_store_under_way",
            "Reads and transactions that wait or run.",
            ("kind",),
            registry=self._open,
        )
        for name, (help, labels) in _GAUGES.items():
            self._gauges[name] = Gauge(name, help, labels, registry=self._closed)
        build = Gauge(
            "troth_build_info", "1, with the version.", ("version",), registry=self._closed
        )
        build.labels(__version__).set(1)

    def _make_histograms(self) -> None:
        self._timers: dict[tuple[str, str], Histogram] = {}  # finding one takes as long as counting
        self._operations = self._histogram(
            "troth_operation_seconds",
            "Duration of finished calls by operation and outcome.",
            ("operation", "outcome"),
        )
        self._store = self._histogram(
            "troth_store_seconds",
            "Duration of reads and transactions, from asking to answer.",
            ("kind", "outcome"),
            QUICK,
        )
        self._waits = self._histogram(
            "troth_store_wait_seconds", "Time before one began.", ("kind",), QUICK
        )
        self._signatures = self._histogram(
            "troth_signature_seconds",
            "Duration of one use of a signing key, which may make many signatures.",
            ("outcome",),
            QUICK,
        )
        self._lag = self._histogram(
            "troth_feed_lag_seconds", "From an event to the snapshot that knows it.", (), QUICK
        )
        self._appends = self._histogram(
            "troth_decision_log_seconds",
            "From asking until a group of decisions is durable, for the one that waited longest.",
            ("outcome",),
            QUICK,
        )
        for outcome in ("ok", "unavailable"):  # there from the start: alerts ask for both
            self._appends.labels(outcome)
        self._tasks = self._histogram(
            "troth_background_seconds", "Duration of background runs.", ("task", "outcome")
        )

    def _make_counters(self) -> None:
        self._failures = Counter(
            "troth_background_failures_total",
            "Failed runs of background work.",
            ("task",),
            registry=self._open,
        )
        self._success = Gauge(
            "troth_background_last_success_timestamp_seconds",
            "When a run of background work last succeeded, in Unix time.",
            ("task",),
            registry=self._open,
        )
        self._retries = Counter(
            "troth_store_retries_total",
            "Transactions begun again because the database asked.",
            ("kind",),
            registry=self._open,
        )
        self._decisions = Counter(
            "troth_decision_log_records_total",
            "Decisions that became durable.",
            (),
            registry=self._open,
        )
        self._forks = Counter(
            "troth_log_forks_total",
            "How often the log was found to have two histories.",
            (),
            registry=self._open,
        )
        self._sent = Counter(
            "troth_sink_messages_total",
            "Events and decisions that a sink's receiver took, or refused for good.",
            ("sink", "outcome"),
            registry=self._closed,
        )
        self._sink_failures = Counter(
            "troth_sink_failures_total",
            "Deliveries that a sink's receiver was away for, or took a part of.",
            ("sink",),
            registry=self._closed,
        )
        self._signed = Counter(
            "troth_signatures_total", "Signatures made.", (), registry=self._open
        )

    def _histogram(
        self, name: str, help: str, labels: tuple[str, ...], buckets: tuple[float, ...] = BUCKETS
    ) -> Histogram:
        return Histogram(name, help, labels, buckets=buckets, registry=self._open)

    def observe(self, operation: str, outcome: str, seconds: float) -> None:
        """Record one finished call."""
        timer = self._timers.get((operation, outcome))
        if timer is None:
            timer = self._operations.labels(operation, outcome)
            self._timers[operation, outcome] = timer
        timer.observe(seconds)

    @property
    def bounds(self) -> list[float]:
        """Upper bounds in seconds of what `list_operations` counts."""
        return list(BUCKETS)

    def list_operations(self) -> list[OperationUse]:
        """How often each operation was called, and how long that took, since the start."""
        calls: dict[str, dict[str, int]] = {}
        buckets: dict[str, list[int]] = {}
        for family in self._operations.collect():
            for sample in family.samples:
                name, outcome = sample.labels["operation"], sample.labels["outcome"]
                if sample.name.endswith("_count"):
                    calls.setdefault(name, {})[outcome] = int(sample.value)
                elif sample.name.endswith("_bucket") and sample.labels["le"] != "+Inf":
                    counts = buckets.setdefault(name, [0] * len(BUCKETS))
                    counts[BUCKETS.index(float(sample.labels["le"]))] += int(sample.value)
        return [
            OperationUse(
                name=name,
                calls=sum(found.values()),
                failed=sum(found.get(outcome, 0) for outcome in FAULTS),
                refused=sum(n for outcome, n in found.items() if outcome not in ("ok", *FAULTS)),
                buckets=buckets[name],
            )
            for name, found in sorted(calls.items())
        ]

    def observe_store(
        self, kind: str, outcome: str, seconds: float, waited: float, retries: int
    ) -> None:
        """Record one read or transaction."""
        self._store.labels(kind, outcome).observe(seconds)
        self._waits.labels(kind).observe(waited)
        if retries:
            self._retries.labels(kind).inc(retries)

    def observe_signatures(self, outcome: str, count: int, seconds: float) -> None:
        """Record one use of a signing key."""
        self._signatures.labels(outcome).observe(seconds)
        if outcome == "ok":
            self._signed.inc(count)

    def observe_feed(self, waiting: int | None, lag: float | None) -> None:
        """Record one look at the journal: what waits to be sealed, and the oldest event's age."""
        if waiting is not None:
            self.show("troth_journal_waiting", waiting)
        if lag is not None:
            self._lag.observe(max(0.0, lag))

    def observe_decisions(self, outcome: str, count: int, seconds: float) -> None:
        """Record one group of decisions that became durable, or didn't."""
        self._appends.labels(outcome).observe(seconds)
        if outcome == "ok":
            self._decisions.inc(count)

    def observe_log(self, size: int, behind: int) -> None:
        """Record how far this server's tiles are."""
        self.show("troth_log_size", size)
        self.show("troth_log_behind", behind)

    def observe_witnesses(self, cosigned: int, disputing: int) -> None:
        """Record how the witnesses stand."""
        self.show("troth_log_cosigned", cosigned)
        self.show("troth_log_disputes", disputing)

    def count_fork(self) -> None:
        """Record that the log has two histories."""
        self._forks.inc()

    def count_sent(self, sink: str, delivered: int, refused: int, *, failed: bool) -> None:
        """Record one batch that a sink tried to deliver."""
        self._sent.labels(sink, "delivered").inc(delivered)
        self._sent.labels(sink, "refused").inc(refused)
        self._sink_failures.labels(sink).inc(failed)

    def show_sink(self, sink: str, source: str, behind: int, lag: float) -> None:
        """Show how far a sink is behind, in number and in seconds."""
        self.show("troth_sink_behind", behind, sink, source)
        self.show("troth_sink_lag_seconds", lag, sink, source)

    def observe_task(self, task: str, outcome: str, seconds: float, ended: float) -> None:
        """Record one run of background work that ended at `ended`, in Unix time."""
        self._tasks.labels(task, outcome).observe(seconds)
        if outcome == "ok":
            self._success.labels(task).set(ended)

    def count_failure(self, task: str) -> None:
        """Record one failed run of a background task."""
        self._failures.labels(task).inc()

    def show(self, gauge: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._find(gauge, labels).set(value)

    def follow(self, gauge: str, measure: Callable[[], float], *labels: str) -> None:
        """Have a gauge measured at each scrape, in the thread that serves it."""
        self._find(gauge, labels).set_function(measure)

    def _find(self, gauge: str, labels: tuple[str, ...]) -> Gauge:
        found = self._gauges[gauge]
        return found.labels(*labels) if labels else found

    def render(self, *, full: bool) -> bytes:
        """The text format; with `full` also what tells of the installation and the process."""
        text = generate_latest(self._open)
        if not full:
            return text
        return text + generate_latest(self._closed) + generate_latest(self._process)
