"""OAuth clients that prove themselves with an SVID: nothing is registered but who they are.

Sources: draft-ietf-oauth-spiffe-client-auth-02 (``spiffe_jwt``, ``spiffe_x509``; a work in
progress), RFC 8705 sections 2.1 (``tls_client_auth`` with the URI SAN) and 3.1 (`x5t#S256`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from troth.core.errors import TrothError, Unauthenticated
from troth.core.ids import TrustDomain
from troth.core.jose.claims import list_audiences
from troth.core.jose.jwk import derive_key_id, encode_base64url, render_jwk
from troth.core.jose.jws import parse_token
from troth.issuance.authorities import Use
from troth.issuance.instance import find_instance
from troth.issuance.jwtsvid import validate_jwt_svid
from troth.live.bundle import Bundle
from troth.operations.peer import PeerReader
from troth.wire.oauth.errors import InvalidClient

JWT_SPIFFE_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"


@dataclass(frozen=True, slots=True)
class CertifiedClient:
    """Whom a certificate names, its thumbprint for `cnf`, its end, and its serial."""

    spiffe_id: str
    thumbprint: str
    not_after: datetime
    serial: str


@dataclass(frozen=True, slots=True)
class ShownJwtSvid:
    """Whom a JWT-SVID names; the running copy that it was issued to ("": it doesn't say); `iat`."""

    spiffe_id: str
    instance: str
    issued_at: int


async def read_certificate(der: bytes, peers: PeerReader) -> CertifiedClient:
    """The client with this certificate; `InvalidClient` if it is none of ours, or was revoked."""
    try:
        shown = await peers.read(der)
    except Unauthenticated as error:
        raise InvalidClient(error.detail) from error
    return CertifiedClient(
        str(shown.spiffe_id), digest_certificate(der), shown.not_after, shown.serial
    )


def digest_certificate(der: bytes) -> str:
    """The thumbprint of a certificate (RFC 8705, section 3.1)."""
    return encode_base64url(hashlib.sha256(der).digest())


def read_jwt_svid(
    text: str, bundle: Bundle, trust_domain: TrustDomain, audiences: Collection[str], now: datetime
) -> ShownJwtSvid:
    """What a JWT-SVID says that is meant for this server alone; else `InvalidClient`.

    It may be shown again until it ends: agents hand the same one out while it is good. So it must
    name nobody else as audience, who could show it here. What a tainted authority signed proves
    nothing: somebody else may hold its key.
    """
    keys = [
        render_jwk(derive_key_id(authority.public_key), authority.public_key, "jwt-svid")
        for authority in bundle.authorities
        if authority.use is Use.JWT and not authority.distrusted
    ]
    known = {trust_domain.name: keys}
    try:
        meant = list_audiences(parse_token(text).claims)
        # Its own audience first: what else is wrong is told by the validation.
        audience = next((one for one in meant if one in audiences), min(audiences))
        claims = validate_jwt_svid(text, audience, known, now)
        instance = find_instance(claims)
    except TrothError as error:
        raise InvalidClient(error.detail.replace("The token", "The JWT-SVID")) from error
    if not set(meant) <= set(audiences):
        raise InvalidClient("The JWT-SVID must be meant for this server alone.")
    issued_at = claims.get("iat")
    if not isinstance(issued_at, int):
        raise InvalidClient("The JWT-SVID has no iat.")
    return ShownJwtSvid(str(claims["sub"]), instance, issued_at)
