"""Outside issuers: where the keys come from that verify other people's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from troth.wire.oauth.jwks import OutsideKey

BUILT_IN: dict[str, str] = {
    "https": "troth.drivers.issuers.https:open_source",
}
"""Name → ``module:factory``; loaded only when configured."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where an issuer's keys are: at `jwks_uri`, or where the discovery document of `url` says.

    `ca` (PEM) is who certifies it, if not one whom the system trusts. With `private` it may have
    an address that isn't on the internet.
    """

    url: str
    jwks_uri: str = ""
    ca: str = ""
    private: bool = False


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of an issuer, and for how long it says that they may be kept, if it says so."""

    keys: tuple[OutsideKey, ...]
    max_age: timedelta | None = None


class KeySource(Protocol):
    """Fetches keys; what it fetched is for its caller to keep."""

    async def fetch(self, where: Whereabouts) -> KeySet:
        """The keys now, within seconds.

        `Unavailable` if the issuer can't be reached, isn't who it should be, or answers with what
        is no key set; the sentence says which, for the log.
        """
        ...
