"""Anchors of the mutual-TLS listener that identities registered: their self-signed certificates
(RFC 8705, section 2.2), without which TLS would let nobody in who shows one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from troth.core.clock import Clock
from troth.identity.selfsigned import read_validity
from troth.store.engine import Store

Install = Callable[[frozenset[bytes]], Awaitable[None]]


class Anchored:
    """What the listener was told last."""

    certificates: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class RefreshAnchors:
    """Background: tell the listener which certificates are registered, when these have changed.

    Idempotent. What has expired is left out: TLS would refuse it anyway. Whether the identity may
    have a token is for the endpoint to say, which tells the client more than a failed handshake.
    """

    store: Store
    clock: Clock
    install: Install
    _anchored: Anchored = field(default_factory=Anchored)

    async def __call__(self) -> None:
        """Look, and install them if they aren't those of the last time."""
        registered = await self.store.read(lambda tx: tx.identities.list_certificates())
        now = self.clock.now()
        wanted = frozenset(der for der in registered if _is_current(der, now))
        if wanted != self._anchored.certificates:
            await self.install(wanted)
            self._anchored.certificates = wanted


def _is_current(der: bytes, now: datetime) -> bool:
    validity = read_validity(der)
    return validity is not None and now < validity.end
