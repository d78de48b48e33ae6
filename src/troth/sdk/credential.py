"""How a workload proves to an authorization server who it is: with what the Workload API gave it.

Sources: RFC 8705 section 2.1 (`tls_client_auth`), draft-ietf-oauth-spiffe-client-auth-02 (JWT-SVIDs
as client assertions; a work in progress), RFC 7521 section 4.2.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cryptography import x509

from troth.core.errors import Denied, Invalid, Unavailable
from troth.core.ids import SpiffeId
from troth.core.jose.jwk import encode_base64url
from troth.core.x509 import UNREADABLE
from troth.sdk.following import SERVER_PATH
from troth.sdk.tls import Pair, make_api_context
from troth.sdk.workload import WorkloadApi

JWT_SPIFFE_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"


@dataclass(frozen=True, slots=True)
class Shown:
    """What goes with one request: form fields, and for mutual TLS a context.

    What is given for it is bound to `tag` ("" for nothing) and ends with `ends` at the latest.
    """

    fields: Sequence[tuple[str, str]] = field(repr=False)
    context: ssl.SSLContext | None = None
    tag: str = ""
    ends: datetime | None = None


class Credential(Protocol):
    """Proves who this process is."""

    @property
    def tag(self) -> str:
        """What a token asked for now would be bound to; "" for nothing. Answers at once."""
        ...

    def show(self, audience: str) -> Shown:
        """What to send to the authorization server `audience`."""
        ...


class Holder(Protocol):
    """Holds this process's X.509-SVID: a `PeerGuard`, or an `SvidFollower`."""

    @property
    def spiffe_id(self) -> str:
        """Whose it is; "" before there is one."""
        ...

    @property
    def pair(self) -> Pair | None:
        """Certificate, key and roots as they are now."""
        ...


class X509Credential:
    """The X.509-SVID on the mutual-TLS listener: tokens are bound to the certificate."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._known: tuple[Pair, Shown] | None = None

    @property
    def tag(self) -> str:
        """The thumbprint of the certificate (RFC 8705, section 3.1)."""
        pair = self._holder.pair
        return "" if pair is None else thumbprint(pair.chain[0])

    def show(self, audience: str) -> Shown:
        """The certificate, and the client's name (RFC 8705, section 2)."""
        pair, known = require_pair(self._holder), self._known
        if known is not None and known[0] is pair:
            return known[1]
        spiffe_id = self._holder.spiffe_id
        try:
            end = x509.load_der_x509_certificate(pair.chain[0]).not_valid_after_utc
        except UNREADABLE as error:
            raise Invalid("The certificate that the agent gave can't be read.") from error
        shown = Shown(
            [("client_id", spiffe_id)],
            make_context(pair, spiffe_id),
            thumbprint(pair.chain[0]),
            end,
        )
        self._known = (pair, shown)
        return shown


class JwtCredential:
    """A JWT-SVID as client assertion, on the public listener: tokens are bound to nothing."""

    tag = ""

    def __init__(self, api: WorkloadApi, spiffe_id: str = "") -> None:
        self._api = api
        self._spiffe_id = spiffe_id

    def show(self, audience: str) -> Shown:
        """A JWT-SVID that is meant for `audience` alone."""
        svids = self._api.fetch_jwt((audience,), self._spiffe_id)
        if not svids:
            raise Denied("The agent gives this process no JWT-SVID.")
        fields = [
            ("client_assertion_type", JWT_SPIFFE_ASSERTION),
            ("client_assertion", svids[0].token),
        ]
        return Shown(fields)


def trust_roots(holder: Holder) -> ssl.SSLContext:
    """A context for a troth server: its certificate leads to the roots of this trust domain."""
    return make_context(require_pair(holder), holder.spiffe_id)


def make_context(pair: Pair, spiffe_id: str) -> ssl.SSLContext:
    """A context with `pair` that accepts nobody but a troth server of the same trust domain."""
    domain = SpiffeId.parse(spiffe_id).trust_domain
    return make_api_context(pair, str(SpiffeId.of(domain, SERVER_PATH)))


def require_pair(holder: Holder) -> Pair:
    """The pair; raises `Unavailable` before there is one."""
    pair = holder.pair
    if pair is None:
        raise Unavailable("The agent gave this process no certificate yet; wait until it did.")
    return pair


def thumbprint(der: bytes) -> str:
    """`x5t#S256` of a certificate (RFC 8705, section 3.1)."""
    return encode_base64url(hashlib.sha256(der).digest())
