"""Keys of outside issuers: kept for as long as they may be, fetched anew when one is unknown."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta

import structlog

from troth.core.clock import Clock
from troth.core.errors import TrothError, Unavailable
from troth.drivers.issuers import KeySet, KeySource, Whereabouts
from troth.identity.issuer import Issuer
from troth.wire.oauth.jwks import OutsideKey, choose_key

KEPT_BY_DEFAULT = timedelta(hours=1)
KEPT_AT_LEAST = timedelta(minutes=5)
KEPT_AT_MOST = timedelta(hours=12)
"""Keys are fetched anew after this, whatever the issuer says: it may have withdrawn one."""
USABLE = timedelta(hours=24)
"""How long keys may be used since they were fetched while the issuer is away."""
PAUSE = timedelta(seconds=30)
"""Between two fetches of one issuer's keys, so that nobody can make this server ask on and on."""
KNOWN = 1_000

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Kept:
    """What is known of one issuer, in monotonic seconds."""

    keys: tuple[OutsideKey, ...] = ()
    fetched_at: float = 0.0
    fresh_until: float = 0.0
    asked_at: float | None = None
    fetch: asyncio.Task[None] | None = None


class IssuerKeys:
    """Finds the key that verifies a token. Belongs to one event loop."""

    def __init__(self, source: KeySource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._kept: OrderedDict[Whereabouts, _Kept] = OrderedDict()

    async def find(self, issuer: Issuer, kid: str | None, algorithm: str) -> OutsideKey | None:
        """The key of that `kid` for `algorithm`; None if the issuer has none.

        `Unavailable` if its keys can't be had.
        """
        where = Whereabouts(issuer.url, issuer.jwks_uri, issuer.ca, issuer.private_network)
        kept = self._remember(where)
        if not self._is_fresh(kept):
            await self._refresh(where, kept)
        keys = self._list_usable(kept)
        found = choose_key(keys, kid, algorithm)
        if found is None and await self._refresh(where, kept):
            found = choose_key(self._list_usable(kept), kid, algorithm)
        return found

    def _remember(self, where: Whereabouts) -> _Kept:
        kept = self._kept.get(where)
        if kept is None:
            kept = self._kept[where] = _Kept()
            if len(self._kept) > KNOWN:
                self._kept.popitem(last=False)
        self._kept.move_to_end(where)
        return kept

    def _is_fresh(self, kept: _Kept) -> bool:
        return bool(kept.keys) and self._clock.monotonic() < kept.fresh_until

    def _list_usable(self, kept: _Kept) -> tuple[OutsideKey, ...]:
        age = self._clock.monotonic() - kept.fetched_at
        if not kept.keys or age > USABLE.total_seconds():
            raise Unavailable(
                "The keys that would verify this client_assertion can't be had now; try again.",
                PAUSE.total_seconds(),
            )
        return kept.keys

    async def _refresh(self, where: Whereabouts, kept: _Kept) -> bool:
        """Fetch the keys, with whoever else wants them; whether they were asked for at all."""
        if kept.fetch is None:
            now = self._clock.monotonic()
            if kept.asked_at is not None and now - kept.asked_at < PAUSE.total_seconds():
                return False
            kept.asked_at = now
            kept.fetch = asyncio.create_task(self._fetch(where, kept), name="issuer keys")
        # Whoever asked may go; the others still wait for the same fetch.
        await asyncio.shield(kept.fetch)
        return True

    async def _fetch(self, where: Whereabouts, kept: _Kept) -> None:
        try:
            self._keep(kept, await self._source.fetch(where))
        except TrothError as error:
            log.warning("issuer.unreachable", issuer=where.url, reason=error.detail)
        finally:
            kept.fetch = None

    def _keep(self, kept: _Kept, found: KeySet) -> None:
        said = KEPT_BY_DEFAULT if found.max_age is None else found.max_age
        kept.keys = found.keys
        kept.fetched_at = self._clock.monotonic()
        fresh = min(max(said, KEPT_AT_LEAST), KEPT_AT_MOST)
        kept.fresh_until = kept.fetched_at + fresh.total_seconds()
