"""What an introspection says, signed: who asked can show it to others.

Source: RFC 9701 (sections in brackets). It is no access token and can't pass for one: its typ is
its own, and what it says of the token is one claim, so that it has neither `sub` nor `exp` [5].
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from troth.core.jose.jwk import encode_base64url

TYP = "token-introspection+jwt"
"""What tells it from every other JWT [5]."""

MEDIA_TYPE = f"application/{TYP}"
"""By which it is asked for [4] and answered [5]."""


def render_introspection(
    *, kid: str, issuer_url: str, asker: str, answer: Mapping[str, Any], now: datetime
) -> bytes:
    """The bytes to sign: header and claims in base64url; `asker` is the client_id of who asked."""
    header = {"alg": "ES256", "kid": kid, "typ": TYP}
    claims = {
        "iss": issuer_url,
        "aud": asker,
        "iat": int(now.timestamp()),
        "token_introspection": answer,
    }
    return b".".join(
        encode_base64url(msgspec.json.encode(part)).encode("ascii") for part in (header, claims)
    )
