"""What a request at a proxy shows of who sent it: the workload's certificate, an access token.

Sources: RFC 6750 section 2.1, RFC 8705 section 3, RFC 9449 section 7.1, RFC 8693 section 4.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from troth.core.clock import Clock
from troth.core.errors import Invalid, TrothError
from troth.core.ids import SpiffeId
from troth.core.jose.claims import list_audiences
from troth.core.jose.dpop import LEEWAY, MAX_AGE, read_proof
from troth.core.jose.jwk import encode_base64url
from troth.core.tier import Tier, lower_tier, read_tier
from troth.issuance.accesstoken import TIER, list_actors
from troth.live.bundle import Bundle
from troth.operations.bearer import Rejected, TokenJudge
from troth.operations.peer import PeerReader
from troth.operations.svidclient import digest_certificate
from troth.policy.narrowing import Access, Detail
from troth.policy.resource import Binding, Resource
from troth.store.engine import Store
from troth.wire.api.enforcement import EnforceDecision
from troth.wire.oauth.details import read_details
from troth.wire.oauth.protected import find_metadata_path

SCHEMES = ("bearer", "dpop")


class Unshown(TrothError):
    """A request doesn't show what it must. `reason` is its id, for everybody to see; the detail is
    for whoever operates the proxy. `blamed` says that it is the token's fault."""

    code = "unauthenticated"

    def __init__(self, reason: str, detail: str, *, blamed: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.blamed = blamed


@dataclass(frozen=True, slots=True)
class Shown:
    """Who a request speaks for, by SPIFFE ID, who acts for them, the current one first, and what
    its token permits: None for one without a token. `bound` says that somebody proved a key, `tier`
    how much all who stand in the token are relied on."""

    subject: str
    bound: bool
    actors: tuple[str, ...] = ()
    access: Access | None = None
    audiences: tuple[str, ...] = ()
    tier: Tier | None = None

    def describe_request(self) -> dict[str, Any]:
        """What is to be known of the request by its credential, as facts."""
        facts: dict[str, Any] = {"bound": self.bound}
        if self.access is not None:
            facts |= {
                "audience": self.audiences,
                "scopes": tuple(sorted(self.access.scopes)),
            }
        return facts

    def describe_delegation(self) -> dict[str, Any]:
        """Who acts for whom, as facts."""
        return {"depth": len(self.actors), "actors": self.actors}


@dataclass(frozen=True, slots=True)
class _Peer:
    spiffe_id: str = ""
    thumbprint: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ShowingReader:
    """Finds out who sent a request, from what a proxy tells of it."""

    store: Store
    clock: Clock
    judge: TokenJudge
    peers: PeerReader

    async def read(self, body: EnforceDecision, resource: Resource, bundle: Bundle) -> Shown:
        """Who sent a request for `resource`; raises `Unshown` if that isn't proved."""
        peer = await self._read_peer(body)
        scheme, _, token = body.authorization.partition(" ")
        if scheme.lower() in SCHEMES:
            return await self._read_token(
                body, scheme.lower(), token.strip(" "), peer, bundle, resource
            )
        if not peer.spiffe_id:
            raise Unshown("no_credential", "The request shows no certificate and no access token.")
        return Shown(peer.spiffe_id, bound=True)

    async def _read_peer(self, body: EnforceDecision) -> _Peer:
        if body.certificate:
            try:
                shown = await self.peers.read(body.certificate)
            except TrothError as error:
                if error.retryable:
                    raise
                raise Unshown("bad_certificate", error.detail) from error
            name, digest = str(shown.spiffe_id), hashlib.sha256(body.certificate).hexdigest()
            if body.peer not in ("", name) or body.fingerprint.lower() not in ("", digest):
                raise Unshown("bad_certificate", "What the proxy says of the peer doesn't agree.")
            return _Peer(name, digest_certificate(body.certificate))
        if not body.peer:
            return _Peer()
        try:
            name = str(SpiffeId.parse(body.peer))
            raw = bytes.fromhex(body.fingerprint)
        except (Invalid, ValueError):
            raise Unshown("bad_certificate", "The proxy names no SPIFFE ID for the peer.") from None
        return _Peer(name, encode_base64url(raw) if len(raw) == 32 else "")

    async def _read_token(
        self,
        body: EnforceDecision,
        scheme: str,
        text: str,
        peer: _Peer,
        bundle: Bundle,
        resource: Resource,
    ) -> Shown:
        if not text or " " in text or not text.isascii():
            raise Unshown("bad_token", "Authorization holds no token after its scheme.")
        found = await self.judge.judge(text, bundle)
        if isinstance(found, Rejected):
            raise Unshown("bad_token", found.reason, blamed=True)
        claims = found.token.claims
        audiences = tuple(list_audiences(claims))
        if set(audiences).isdisjoint(resource.audiences or resource.identifiers):
            raise Unshown("bad_audience", "The token is meant for another resource.", blamed=True)
        confirmation = claims.get("cnf", {})
        _check_binding(confirmation, scheme, peer, resource.token.binding)
        if "jkt" in confirmation:
            await self._check_proof(body, text, confirmation["jkt"])
        details = (
            Detail(tuple(one.actions), one.identifier)
            for one in read_details(claims.get("authorization_details"))
        )
        access = Access(frozenset(str(claims.get("scope", "")).split()), tuple(details))
        actors = list_actors(claims)
        tier = lower_tier(read_tier(claims.get(TIER)), found.tier)
        return Shown(found.token.subject, bool(confirmation), actors, access, audiences, tier)

    async def _check_proof(self, body: EnforceDecision, token: str, key: str) -> None:
        """The DPoP proof must be for this request and this token, by the token's key, and new."""
        scheme = "http" if body.transport == "plain" else "https"
        url = f"{scheme}://{body.host}{body.path.partition('?')[0]}"
        now = self.clock.now()
        try:
            proof = read_proof(body.dpop, body.method, url, now, token)
        except TrothError as error:
            raise Unshown("bad_proof", error.detail) from error
        if proof.thumbprint != key:
            raise Unshown("bad_proof", "The DPoP proof is by another key than the token's.")
        digest = hashlib.sha256(f"proxy\0{key}\0{proof.jti}".encode()).hexdigest()
        used = {digest: proof.issued_at + MAX_AGE + LEEWAY}
        if await self.store.transact(lambda tx: tx.used_proofs.take_all(used)):
            raise Unshown("bad_proof", "The DPoP proof was used before; make a new one each time.")


def _check_binding(
    confirmation: Mapping[str, Any], scheme: str, peer: _Peer, wanted: Binding
) -> None:
    """Raise `Unshown` unless the token is bound as the resource wants, to who shows it."""
    if not set(confirmation) <= {"x5t#S256", "jkt"}:
        raise Unshown("unbound", "The token is bound in a way that isn't understood here.")
    if (scheme == "dpop") != ("jkt" in confirmation):
        raise Unshown(
            "unbound", "A token that is bound to a DPoP key comes as DPoP, and no other does."
        )
    thumbprint = confirmation.get("x5t#S256")
    if thumbprint is not None and thumbprint != peer.thumbprint:
        raise Unshown(
            "unbound",
            "The token is bound to a certificate, and the proxy doesn't tell of that one.",
        )
    needed = {Binding.MTLS: "x5t#S256", Binding.DPOP: "jkt"}.get(wanted)
    if (needed and needed not in confirmation) or (wanted is not Binding.NONE and not confirmation):
        raise Unshown("unbound", "The resource takes bound tokens alone.", blamed=True)


def make_challenge(resource: Resource, error: Unshown) -> str:
    """``WWW-Authenticate`` of a refusal (RFC 6750, section 3; RFC 9728, section 5.1)."""
    scheme = "DPoP" if resource.token.binding is Binding.DPOP else "Bearer"
    parts = ['error="invalid_token"'] if error.blamed else []
    place = urlsplit(resource.audience)
    if place.scheme == "https" and place.netloc:
        path = find_metadata_path(resource.audience)
        parts.append(f'resource_metadata="https://{place.netloc}{path}"')
    return f"{scheme} {', '.join(parts)}".rstrip()
