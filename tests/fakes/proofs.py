"""DPoP proofs as a client makes them (RFC 9449, section 4.2)."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jws
from joserfc.jwk import ECKey

from troth.core.jose.jwk import encode_base64url, render_key, thumbprint_jwk


def find_thumbprint(key: ec.EllipticCurvePrivateKey) -> str:
    """The `jkt` of a key."""
    return thumbprint_jwk(render_key(key.public_key()))


def make_proof(
    key: ec.EllipticCurvePrivateKey, method: str, url: str, now: datetime, token: str, **claims: Any
) -> str:
    """A proof for one request with `token`; `claims` replace its own."""
    digest = hashlib.sha256(token.encode()).digest()
    values = {
        "htm": method,
        "htu": url,
        "iat": int(now.timestamp()),
        "jti": "p1",
        "ath": encode_base64url(digest),
        **claims,
    }
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": render_key(key.public_key())}
    registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
    return jws.serialize_compact(
        header, json.dumps(values), ECKey.import_key(key), registry=registry
    )
