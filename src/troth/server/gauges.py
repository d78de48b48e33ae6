"""What metrics show between calls: looked at on a period, or measured when somebody scrapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from troth.archive.log import DecisionLog
from troth.core.clock import Clock
from troth.issuance.authorities import AuthorityState, Use
from troth.live.snapshot import Snapshot
from troth.server.metrics import Metrics
from troth.store.engine import Store
from troth.store.transaction import Transaction

SILENT_AFTER = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class ShowState:
    """Background: how far the journal is, and when authorities, lists and nodes end."""

    store: Store
    clock: Clock
    metrics: Metrics
    find_certificate_end: Callable[[], datetime]

    async def __call__(self) -> None:
        """Look, and set the gauges. Cheap: it reads no table as a whole."""
        values = await self.store.read(self._read)
        until = self.find_certificate_end() - self.clock.now()
        self.metrics.show("troth_server_certificate_expires_seconds", until.total_seconds())
        for (gauge, *labels), value in values.items():
            self.metrics.show(gauge, value, *labels)

    def _read(self, tx: Transaction) -> dict[tuple[str, ...], float]:
        now = self.clock.now()
        values: dict[tuple[str, ...], float] = {
            ("troth_journal_head",): tx.journal.head(),
            ("troth_nodes",): tx.nodes.count(),
            ("troth_nodes_silent",): tx.nodes.count_silent(now - SILENT_AFTER),
        }
        authorities = tx.authorities.list()
        for authority in authorities:
            if authority.state is AuthorityState.ACTIVE:
                left = (authority.not_after - now).total_seconds()
                values["troth_authority_expires_seconds", authority.use.value] = left
        published = [a for a in authorities if a.use is Use.X509 and a.published]
        lists = [crl for a in published if (crl := tx.crls.latest_times(a.id)) is not None]
        if lists:
            oldest = min(crl.this_update for crl in lists)
            first = min(crl.next_update for crl in lists)
            values["troth_crl_age_seconds",] = (now - oldest).total_seconds()
            values["troth_crl_expires_seconds",] = (first - now).total_seconds()
        if (end := tx.nodes.find_first_end()) is not None:
            values["troth_node_expires_seconds",] = (end - now).total_seconds()
        return values


@dataclass(frozen=True, slots=True)
class CountIdentities:
    """Background: how many identities there are in each state. It reads a whole index: seldom."""

    store: Store
    metrics: Metrics

    async def __call__(self) -> None:
        """Count them."""
        counts = await self.store.read(lambda tx: tx.identities.count_by_state())
        for state, number in counts.items():
            self.metrics.show("troth_identities", number, state.value)


def follow_live(metrics: Metrics, store: Store, snapshot: Snapshot, lease: timedelta) -> None:
    """Have what changes from moment to moment measured at each scrape."""
    metrics.follow("troth_snapshot_epoch", lambda: snapshot.epoch)
    metrics.follow("troth_snapshot_age_seconds", lambda: snapshot.age)
    metrics.follow("troth_snapshot_lease_seconds", lambda: lease.total_seconds() - snapshot.age)
    under_way = store.stopwatch.under_way
    for kind in under_way:
        metrics.follow("troth_store_under_way", partial(under_way.__getitem__, kind), kind)


def follow_decisions(metrics: Metrics, decisions: DecisionLog) -> None:
    """Have the decision log measured at each scrape."""
    metrics.follow("troth_decision_log_waiting", lambda: decisions.waiting)
    metrics.follow("troth_decision_log_bytes", lambda: decisions.size)
