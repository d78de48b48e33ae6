"""The installation at a glance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from troth import __version__
from troth.core.clock import Clock
from troth.core.ids import TrustDomain
from troth.identity.selectors import find_weakness
from troth.issuance.authorities import Authority, AuthorityState, Use
from troth.live.snapshot import Snapshot
from troth.operations.attendance import find_unattended
from troth.operations.call import Call
from troth.operations.publication import Publication
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import status as wire

SOON = timedelta(days=30)
LOOKED_AT = 1000
MOST_WAITING = 1000
KEPT_FOR = 20
"""How many times as long as it took to find out something it is good for."""
LONGEST = 1e6
"""Seconds; JSON has no infinity."""
SILENT_AFTER = timedelta(minutes=5)


class Usage(Protocol):
    """Knows how often each operation was called."""

    @property
    def bounds(self) -> list[float]:
        """Upper bounds of the buckets, in seconds."""
        ...

    def list_operations(self) -> list[wire.OperationUse]:
        """All that were called, by name."""
        ...


@dataclass(frozen=True, slots=True)
class About:
    """What a server knows about itself; `usage` is None where nobody counts."""

    trust_domain: TrustDomain
    started_at: datetime
    lease: timedelta
    usage: Usage | None = None


@dataclass(slots=True)
class _Kept:
    """What is costly to find out, kept for a while in proportion to its cost."""

    identities: dict[str, int] = field(default_factory=dict)
    flaws: list[str] = field(default_factory=list)
    cost: float = 0.0
    found_at: float = -math.inf


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """``status.show``: counts, authorities, findings and how often each operation was called.

    Whoever looks each second costs no more than a twentieth of a reader: with a million identities
    counting them takes a tenth of a second, and is then good for two.
    """

    store: Store
    snapshot: Snapshot
    publication: Publication
    clock: Clock
    about: About
    _kept: _Kept = field(default_factory=_Kept)

    async def __call__(self, call: Call[wire.GetStatus]) -> wire.StatusView:
        """The view; every finding says what to mend."""
        obstacles = await self.publication.find_obstacles()
        about, usage = self.about, self.about.usage

        def collect(tx: Transaction) -> wire.StatusView:
            authorities = tx.authorities.list()
            x509 = tx.authorities.find_active(Use.X509)
            crl = tx.crls.latest_times(x509.id) if x509 else None
            self._count(tx)
            return wire.StatusView(
                version=__version__,
                trust_domain=str(about.trust_domain),
                origin=self.publication.origin,
                ready=not obstacles,
                started_at=about.started_at,
                journal_head=tx.journal.head(),
                epoch=self.snapshot.epoch,
                identities=self._kept.identities,
                nodes=tx.nodes.count(),
                authorities=[
                    wire.AuthorityView(
                        id=a.id,
                        use=a.use.value,
                        state=a.state.value,
                        not_before=a.not_before,
                        not_after=a.not_after,
                    )
                    for a in authorities
                ],
                crl_next_update=crl.next_update if crl else None,
                findings=[*obstacles, *self._find_endings(authorities), *self._kept.flaws],
                waiting=len(tx.journal.list_waiting(MOST_WAITING)),
                silence=min(self.snapshot.age, LONGEST),
                lease=about.lease.total_seconds(),
                nodes_silent=tx.nodes.count_silent(self.clock.now() - SILENT_AFTER),
                operations=usage.list_operations() if usage else [],
                bounds=usage.bounds if usage else [],
            )

        return await self.store.read(collect)

    def _count(self, tx: Transaction) -> None:
        """Count identities and look for weak ones, unless that was done lately."""
        kept, began = self._kept, self.clock.monotonic()
        if began - kept.found_at < KEPT_FOR * kept.cost:
            return
        counts = {state.value: number for state, number in tx.identities.count_by_state().items()}
        flaws = []
        some = tx.identities.page(limit=LOOKED_AT)
        for identity in some:
            weakness = find_weakness(identity.selectors) if identity.selectors else None
            if weakness:
                flaws.append(f"Identity '{identity.name}' {weakness}")
        flaws += find_unattended(tx, some, self.clock.now())
        ended = self.clock.monotonic()
        kept.identities, kept.flaws = counts, flaws
        kept.cost, kept.found_at = ended - began, ended

    def _find_endings(self, authorities: list[Authority]) -> list[str]:
        soon = self.clock.now() + SOON
        flaws = [
            f"The {a.use.value} authority {a.id} ends on {a.not_after:%Y-%m-%d}."
            for a in authorities
            if a.state is AuthorityState.ACTIVE and a.not_after < soon
        ]
        flaws += [
            f"The {a.use.value} authority {a.id} is tainted and still trusted; once nobody holds "
            f"anything of it: troth authority revoke {a.id}"
            for a in authorities
            if a.state is AuthorityState.TAINTED
        ]
        return flaws
