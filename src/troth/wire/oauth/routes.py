"""Where the OAuth endpoints are: operation → path. Their form is the standards', not the API's."""

from __future__ import annotations

from collections.abc import Mapping

OAUTH_ROUTES: Mapping[str, str] = {
    "token.request": "/oauth/token",
    "token.introspect": "/oauth/introspect",
    "token.surrender": "/oauth/revoke",
}
METADATA_PATHS = (
    "/.well-known/oauth-authorization-server",  # RFC 8414, section 3
    "/.well-known/openid-configuration",  # OpenID Connect Discovery 1.0, section 4
)
JWKS_PATH = "/oauth/jwks"
