"""Where the OAuth endpoints are: operation → path. Their form is the standards', not the API's."""

from __future__ import annotations

from collections.abc import Mapping

from troth.wire.oauth.form import Form
from troth.wire.oauth.metadata import TOKEN_EXCHANGE

TOKEN_PATH = "/oauth/token"  # noqa: S105 - a path
OAUTH_ROUTES: Mapping[str, str] = {
    "token.request": TOKEN_PATH,
    "token.introspect": "/oauth/introspect",
    "token.surrender": "/oauth/revoke",
    "token.exchange": TOKEN_PATH,
}
METADATA_PATHS = (
    "/.well-known/oauth-authorization-server",  # RFC 8414, section 3
    "/.well-known/openid-configuration",  # OpenID Connect Discovery 1.0, section 4
)
JWKS_PATH = "/oauth/jwks"

_BY_GRANT = {TOKEN_EXCHANGE: "token.exchange"}
_FIRST_AT = {path: name for name, path in reversed([*OAUTH_ROUTES.items()])}


def choose_operation(path: str, form: Form) -> str:
    """The operation that a request to `path` is for: at the token endpoint its grant type says."""
    name = _BY_GRANT.get(form.find("grant_type") or "", "")
    return name if OAUTH_ROUTES.get(name) == path else _FIRST_AT[path]
