"""Refusals of the OAuth endpoints: kinds of our one error type, with the standard's own code.

Sources: RFC 6749 section 5.2, RFC 8707 section 2, RFC 9396 section 5, RFC 9449 sections 5 and 8,
RFC 7009 section 2.2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from troth.core.errors import Denied, Invalid, TrothError, Unauthenticated, Unimplemented


class InvalidClient(Unauthenticated):
    """The client didn't prove who it is."""

    oauth: ClassVar[str] = "invalid_client"


class InvalidGrant(Invalid):
    """What is to be exchanged for a token is not good for it."""

    oauth: ClassVar[str] = "invalid_grant"


class InvalidScope(Denied):
    """Nothing of the scope may be given to this client."""

    oauth: ClassVar[str] = "invalid_scope"


class InvalidTarget(Denied):
    """The resource is unknown, or this client may do nothing with it."""

    oauth: ClassVar[str] = "invalid_target"


class InvalidAuthorizationDetails(Invalid):
    """The authorization details are malformed, of an unknown type, or not permitted."""

    oauth: ClassVar[str] = "invalid_authorization_details"


class UnauthorizedClient(Denied):
    """This client may not use this grant."""

    oauth: ClassVar[str] = "unauthorized_client"


class InvalidDpopProof(Invalid):
    """The DPoP proof is not one for this request (RFC 9449, section 5)."""

    oauth: ClassVar[str] = "invalid_dpop_proof"


class UseDpopNonce(Invalid):
    """The DPoP proof must carry a nonce of the server, `nonce` (RFC 9449, section 8)."""

    oauth: ClassVar[str] = "use_dpop_nonce"

    def __init__(self, detail: str, nonce: str) -> None:
        super().__init__(detail)
        self.nonce = nonce


class UnsupportedGrantType(Unimplemented):
    """The grant type is not offered here."""

    oauth: ClassVar[str] = "unsupported_grant_type"


class UnsupportedTokenType(Invalid):
    """Tokens of this kind can't be revoked here."""

    oauth: ClassVar[str] = "unsupported_token_type"


_OF_KIND: Mapping[str, str] = {
    "invalid_request": "invalid_request",
    "unauthenticated": "invalid_client",
    "permission_denied": "unauthorized_client",
    "too_large": "invalid_request",
    "rate_limited": "temporarily_unavailable",
    "unavailable": "temporarily_unavailable",
    "unimplemented": "unsupported_grant_type",
}


def name_error(error: TrothError) -> str:
    """The OAuth error code of an error; ``server_error`` for what is our own fault."""
    own: str | None = getattr(error, "oauth", None)
    return own or _OF_KIND.get(error.code, "server_error")
