"""The installation at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from troth import __version__
from troth.core.clock import Clock
from troth.core.ids import TrustDomain
from troth.identity.selectors import find_weakness
from troth.issuance.authorities import AuthorityState, Use
from troth.live.snapshot import Snapshot
from troth.operations.attendance import find_unattended
from troth.operations.call import Call
from troth.operations.publication import Publication
from troth.store.engine import Store
from troth.store.transaction import Transaction
from troth.wire.api import status as wire

SOON = timedelta(days=30)
LOOKED_AT = 1000


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """``status.show``: counts, authorities and findings."""

    store: Store
    snapshot: Snapshot
    publication: Publication
    clock: Clock
    trust_domain: TrustDomain
    started_at: datetime

    async def __call__(self, call: Call[wire.GetStatus]) -> wire.StatusView:
        """The view; every finding says what to mend."""
        obstacles = await self.publication.find_obstacles()

        def collect(tx: Transaction) -> wire.StatusView:
            authorities = tx.authorities.list()
            x509 = tx.authorities.find_active(Use.X509)
            crl = tx.crls.latest(x509.id) if x509 else None
            return wire.StatusView(
                version=__version__,
                trust_domain=str(self.trust_domain),
                origin=self.publication.origin,
                ready=not obstacles,
                started_at=self.started_at,
                journal_head=tx.journal.head(),
                epoch=self.snapshot.epoch,
                identities={state.value: n for state, n in tx.identities.count_by_state().items()},
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
                findings=[*obstacles, *self._find_flaws(tx)],
            )

        return await self.store.read(collect)

    def _find_flaws(self, tx: Transaction) -> list[str]:
        soon = self.clock.now() + SOON
        flaws = [
            f"The {a.use.value} authority {a.id} ends on {a.not_after:%Y-%m-%d}."
            for a in tx.authorities.list()
            if a.state is AuthorityState.ACTIVE and a.not_after < soon
        ]
        flaws += [
            f"The {a.use.value} authority {a.id} is tainted and still trusted; once nobody holds "
            f"anything of it: troth authority revoke {a.id}"
            for a in tx.authorities.list()
            if a.state is AuthorityState.TAINTED
        ]
        some = tx.identities.page(limit=LOOKED_AT)
        for identity in some:
            weakness = find_weakness(identity.selectors) if identity.selectors else None
            if weakness:
                flaws.append(f"Identity '{identity.name}' {weakness}")
        return flaws + find_unattended(tx, some, self.clock.now())
