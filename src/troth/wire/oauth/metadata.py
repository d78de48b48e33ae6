"""Discovery: what a client needs to know of the authorization server.

Sources: RFC 8414 section 2, OpenID Connect Discovery 1.0 section 3, RFC 8705 section 5
(`mtls_endpoint_aliases`), RFC 9396 section 10, RFC 9449 section 5.1, RFC 9701 section 7, RFC 9068,
RFC 9728.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from troth.core.jose.dpop import ALGORITHMS as DPOP_ALGORITHMS
from troth.wire.oauth.details import ACTION_TYPE

ASSERTION_ALGORITHMS = ("ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256")
"""What a client may sign its assertions with; RS256 alone of PKCS #1 v1.5, as RFC 7523 has it."""

INTROSPECTION_ALGORITHMS = ("ES256",)
"""With what answers about tokens are signed (RFC 9701, section 7)."""
TOKEN_ALGORITHMS = ("ES256", "EdDSA", "RS256")
"""What access tokens may be signed with, as their resource wants; RFC 9068, section 2.1, demands
that RS256 is among them."""

CLIENT_CREDENTIALS = "client_credentials"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a name
GRANT_TYPES = (CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE)


AUTHORIZATION_PATH = "/oauth/authorize"


def render_metadata(
    origin: str, mutual_origin: str, methods: Iterable[str], scopes: Iterable[str]
) -> dict[str, Any]:
    """The metadata document, for RFC 8414 and for OpenID discovery alike."""
    methods = list(methods)
    return {
        "issuer": origin,
        # REQUIRED (OpenID Connect Discovery 1.0, section 3), and clients look for it even where
        # they never go there; who does learns that there is no front channel.
        "authorization_endpoint": f"{origin}{AUTHORIZATION_PATH}",
        "token_endpoint": f"{origin}/oauth/token",
        "jwks_uri": f"{origin}/oauth/jwks",
        "grant_types_supported": list(GRANT_TYPES),
        "response_types_supported": [],  # REQUIRED (RFC 8414, 2), and there is no front channel
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": list(ASSERTION_ALGORITHMS),
        "scopes_supported": sorted(scopes),
        "authorization_details_types_supported": [ACTION_TYPE],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": list(TOKEN_ALGORITHMS),
        "dpop_signing_alg_values_supported": list(DPOP_ALGORITHMS),
        "tls_client_certificate_bound_access_tokens": True,  # RFC 8705, section 3.3
        "introspection_endpoint": f"{origin}/oauth/introspect",
        "introspection_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_signing_alg_values_supported": list(ASSERTION_ALGORITHMS),
        "introspection_signing_alg_values_supported": list(INTROSPECTION_ALGORITHMS),
        "revocation_endpoint": f"{origin}/oauth/revoke",
        "revocation_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_signing_alg_values_supported": list(ASSERTION_ALGORITHMS),
        "mtls_endpoint_aliases": {
            "token_endpoint": f"{mutual_origin}/oauth/token",
            "introspection_endpoint": f"{mutual_origin}/oauth/introspect",
            "revocation_endpoint": f"{mutual_origin}/oauth/revoke",
        },
    }
