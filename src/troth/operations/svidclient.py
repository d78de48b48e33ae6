"""OAuth clients that prove themselves with an SVID: nothing is registered but who they are.

Sources: draft-ietf-oauth-spiffe-client-auth-02 (``spiffe_jwt``, ``spiffe_x509``; a work in
progress), RFC 8705 sections 2.1 (``tls_client_auth`` with the URI SAN) and 3.1 (`x5t#S256`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from troth.core.errors import TrothError
from troth.core.ids import TrustDomain
from troth.core.jose.claims import list_audiences
from troth.core.jose.jwk import derive_key_id, encode_base64url, render_jwk
from troth.core.jose.jws import parse_token
from troth.issuance.authorities import Use
from troth.issuance.jwtsvid import validate_jwt_svid
from troth.issuance.presented import READ, read_presented
from troth.live.bundle import Bundle
from troth.live.snapshot import Snapshot
from troth.wire.oauth.errors import InvalidClient

JWT_SPIFFE_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"


@dataclass(frozen=True, slots=True)
class CertifiedClient:
    """Whom a certificate names, its thumbprint for `cnf`, and its end."""

    spiffe_id: str
    thumbprint: str
    not_after: datetime


def read_certificate(
    der: bytes, snapshot: Snapshot, trust_domain: TrustDomain, now: datetime
) -> CertifiedClient:
    """The client with this certificate, whose chain TLS has verified; `InvalidClient` if it was
    revoked or is none of ours."""
    try:
        shown = read_presented(der, trust_domain, now)
    except TrothError as error:
        raise InvalidClient(error.detail) from error
    if snapshot.is_revoked(shown.serial) or snapshot.is_distrusted(shown.signer):
        raise InvalidClient("The client certificate was revoked; get a new one.")
    return CertifiedClient(str(shown.spiffe_id), _thumbprint(der), shown.not_after)


@lru_cache(maxsize=READ)
def _thumbprint(der: bytes) -> str:
    return encode_base64url(hashlib.sha256(der).digest())


def read_jwt_svid(
    text: str, bundle: Bundle, trust_domain: TrustDomain, audiences: Collection[str], now: datetime
) -> str:
    """The SPIFFE ID of a JWT-SVID that is meant for this server alone; else `InvalidClient`.

    It may be shown again until it ends: agents hand the same one out while it is good. So it must
    name nobody else as audience, who could show it here.
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
    except TrothError as error:
        raise InvalidClient(error.detail.replace("The token", "The JWT-SVID")) from error
    if not set(meant) <= set(audiences):
        raise InvalidClient("The JWT-SVID must be meant for this server alone.")
    return str(claims["sub"])
