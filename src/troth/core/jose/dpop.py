"""DPoP proofs: that whoever sends a request holds a key (RFC 9449; sections in brackets).

Read alike by the authorization server, resource servers and the SDK. What only the one who asks can
know stays outside: whether a `jti` was seen before, and whether a nonce is one of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from troth.core.errors import Invalid
from troth.core.jose.claims import MAX_TIME
from troth.core.jose.jwk import PublicKey, encode_base64url, load_jwk, thumbprint_jwk
from troth.core.jose.jws import parse_token, read_header, verify_token

TYP = "dpop+jwt"
ALGORITHMS = ("ES256", "ES384", "ES512", "EdDSA", "Ed25519", "PS256", "RS256")
"""What a proof may be signed with: asymmetric ones alone [4.2]."""
MAX_AGE = timedelta(seconds=300)
"""How old a proof may be without a nonce of ours; for so long its `jti` is remembered [11.1]."""
LEEWAY = timedelta(seconds=30)
MAX_JTI = 256
_HOLDERS = 1024
"""How many keys of holders are remembered."""
MAX_PROOF = 4096
"""Characters: a header, four claims, and an RSA key at most."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A sound proof: the thumbprint of its key (`jkt`), its `jti`, when it was made, its nonce."""

    thumbprint: str
    jti: str
    issued_at: datetime
    nonce: str | None


def read_proof(
    text: str, method: str, url: str, now: datetime, access_token: str | None = None
) -> Proof:
    """The proof, if it is one for this request [4.3]; else `Invalid` with the reason.

    `url` is that of the request without query and fragment. With `access_token`, the proof must be
    for that very token.
    """
    if len(text) > MAX_PROOF:
        raise Invalid(f"The DPoP proof is longer than {MAX_PROOF} characters.")
    token = parse_token(text)
    header, claims = token.header, token.claims
    if header.get("typ") != TYP:
        raise Invalid(f"The DPoP proof's typ must be {TYP}.")
    key, thumbprint = _load_holder(text.partition(".")[0])
    verify_token(token, key, ALGORITHMS)
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 1 <= len(jti) <= MAX_JTI:
        raise Invalid(f"The DPoP proof needs a jti of 1 to {MAX_JTI} characters, a new one each.")
    if claims.get("htm") != method:
        raise Invalid("The DPoP proof's htm is not the method of this request.")
    if normalise_url(claims.get("htu")) != normalise_url(url):
        raise Invalid("The DPoP proof's htu is not the URL of this request.")
    if access_token is not None and claims.get("ath") != _hash(access_token):
        raise Invalid("The DPoP proof's ath is not the hash of the access token.")
    nonce = claims.get("nonce")
    if nonce is not None and not isinstance(nonce, str):
        raise Invalid("The DPoP proof's nonce must be a text.")
    return Proof(thumbprint, jti, _read_time(claims, now), nonce)


@lru_cache(maxsize=_HOLDERS)
def _load_holder(header: str) -> tuple[PublicKey, str]:
    """The key in a header (base64url), and its thumbprint. To load a key takes half as long as to
    verify with it, and a holder sends the same one each time."""
    jwk = read_header(header).get("jwk")
    if not isinstance(jwk, Mapping):
        raise Invalid("The DPoP proof's header has no jwk.")
    return load_jwk(jwk), thumbprint_jwk(dict(jwk))


def _read_time(claims: Mapping[str, Any], now: datetime) -> datetime:
    made = claims.get("iat")
    if isinstance(made, bool) or not isinstance(made, int | float):
        raise Invalid("The DPoP proof has no iat.")
    # JSON may hold integers that no float can.
    age = now.timestamp() - max(-MAX_TIME, min(made, MAX_TIME))
    if not -LEEWAY.total_seconds() <= age <= MAX_AGE.total_seconds():
        raise Invalid("The DPoP proof's iat is too far from now; make a new one for each request.")
    return now - timedelta(seconds=age)


def _hash(access_token: str) -> str:
    """`ath` [4.2]."""
    return encode_base64url(hashlib.sha256(access_token.encode("ascii", "replace")).digest())


def normalise_url(url: object) -> str:
    """Scheme and host in lower case, no default port, a path, no query or fragment [4.3]."""
    if not isinstance(url, str):
        return ""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    default = {"https": 443, "http": 80}.get(parts.scheme)
    host = (parts.hostname or "") + ("" if port in (None, default) else f":{port}")
    return f"{parts.scheme}://{host}{parts.path or '/'}"
