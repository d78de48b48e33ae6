"""What one caller may see, and where the agent's socket gets it from.

The socket knows how to speak; what to say comes from a `Source`, which the agent's core
implements. A `View` is always a complete value, so nobody has to add up differences.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from troth.core.errors import Unavailable
from troth.drivers.attestors import Peer


@dataclass(frozen=True, slots=True)
class Svid:
    """One X.509-SVID with its private key.

    `chain` is DER, leaf first; `private_key` is unencrypted PKCS#8 DER, as the Workload API hands
    it over; `hint` tells the workload which identity is for what and may be empty.
    """

    spiffe_id: str
    hint: str
    chain: tuple[bytes, ...]
    private_key: bytes = field(repr=False)
    not_after: datetime


@dataclass(frozen=True, slots=True)
class JwtSvid:
    """One JWT-SVID: the token is a bearer credential and stays out of logs."""

    spiffe_id: str
    token: str = field(repr=False)
    hint: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """What verifies the SVIDs of one trust domain.

    `trust_domain` is its SPIFFE ID (``spiffe://example.org``); certificates and revocation lists
    are DER; `jwks` is a JWK set (RFC 7517) in which every key has a ``kid``. Where there are
    revocation lists, every authority needs one: Envoy refuses a chain with a gap.
    """

    trust_domain: str
    x509_authorities: tuple[bytes, ...]
    crls: tuple[bytes, ...]
    jwks: bytes


@dataclass(frozen=True, slots=True)
class View:
    """Everything one caller may see now.

    The most demanding identity comes first in `svids`, the caller's own trust domain first in
    `bundles`. `default` is the SPIFFE ID that Envoy's secret of that name stands for, also while
    nothing can be served for it; None means the first of `svids` while nothing is withdrawn.
    `withdrawn` are SPIFFE IDs that the caller held or would hold and that are cut off: Envoy gets
    a tombstone for each. `reasons` says why in a word or two, as far as that is known
    (``quarantined``, ``suspended``, ``locked``); `names` are the names they are registered under.
    """

    svids: tuple[Svid, ...]
    bundles: tuple[Bundle, ...]
    withdrawn: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """An attested process; `key` is the source's own and means nothing here."""

    peer: Peer
    selectors: tuple[str, ...]
    key: str


class Stale(Unavailable):
    """The process is no longer the one that connected or was attested: it must connect again."""


class Source(Protocol):
    """Where views and tokens come from. Every method raises a kind of `TrothError` to refuse."""

    async def wait_until_ready(self) -> None:
        """Return once callers can be served; `Unavailable` if that takes too long."""
        ...

    async def attest(self, peer: Peer) -> Caller:
        """Who `peer` is; `Denied` if nothing can be proved, `Unavailable` while starting, `Stale`
        if the process runs under another user than the one that connected.

        It is never cancelled halfway, and ``peer.pidfd`` stays open until it returns or raises.
        """
        ...

    def watch(self, caller: Caller) -> AsyncIterator[View]:
        """The view now, at once, then one after each change; changes in quick succession merge.

        Ends by raising: `Denied` when the caller is nobody any more, `Unavailable` when the source
        goes away, `Stale` when the process has ended or become another.
        """
        ...

    async def fetch_jwt_svids(
        self, caller: Caller, audiences: tuple[str, ...], spiffe_id: str | None
    ) -> tuple[JwtSvid, ...]:
        """Tokens for `audiences`: for all the caller's identities, or for `spiffe_id` alone."""
        ...

    async def validate_jwt_svid(
        self, caller: Caller, audience: str, token: str
    ) -> tuple[str, Mapping[str, Any]]:
        """The SPIFFE ID and the claims of `token`; `Invalid` if it doesn't hold."""
        ...
