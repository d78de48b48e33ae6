"""What a point that enforces needs to know of the decision point, signed and as it is.

Source: AuthZEN 1.0, "Policy Decision Point Metadata", and its certification scenario, section
"Discovery Certification".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from troth.core.jose.jwk import encode_base64url
from troth.wire.authzen.routes import EVALUATION_PATH, EVALUATIONS_PATH, SEARCH_PATHS

TYP = "authzen-configuration+jwt"
"""What tells signed metadata from every other JWT (RFC 8725, section 3.11)."""


def describe_point(base: str) -> dict[str, str]:
    """The metadata of the decision point at the URL `base`, but for its signature."""
    return {
        "policy_decision_point": base,
        "access_evaluation_endpoint": base + EVALUATION_PATH,
        "access_evaluations_endpoint": base + EVALUATIONS_PATH,
        **{f"search_{kind}_endpoint": base + path for kind, path in SEARCH_PATHS.items()},
    }


def render_signed(*, kid: str, issuer: str, claims: Mapping[str, Any], now: int, end: int) -> bytes:
    """The bytes to sign with ES256: header and claims in base64url. `issuer` is whose key it is."""
    header = {"alg": "ES256", "kid": kid, "typ": TYP}
    payload = {"iss": issuer, "iat": now, "exp": end, **claims}
    return b".".join(
        encode_base64url(msgspec.json.encode(part)).encode("ascii") for part in (header, payload)
    )
