"""What goes wrong with tokens, in the standards' own codes: at the issuer, and at a resource.

Sources: RFC 6749 section 5.2 (codes of the token endpoint), RFC 6750 section 3.1 and RFC 9449
section 7.1 (codes of a protected resource).
"""

from __future__ import annotations

from collections.abc import Collection

from troth.core.errors import Denied, Invalid, Unauthenticated, Unavailable
from troth.wire.oauth.answers import plain_text


class OAuthError(Denied):
    """The authorization server refused: `error` is the standard's code, `description` its words.

    Asking again changes nothing until somebody changes what is registered or asked for.
    """

    def __init__(self, error: str, description: str = "", status: int = 400) -> None:
        self.error = plain_text(error)[:80]
        self.description = plain_text(description)
        self.status = status
        super().__init__(f"{self.error}: {self.description}" if description else self.error)


class OAuthUnavailable(Unavailable):
    """The authorization server can't answer now; `retry_after` is when it said to come back."""

    def __init__(self, detail: str, retry_after: float | None = None, error: str = "") -> None:
        super().__init__(detail, retry_after)
        self.error = error


class InvalidToken(Unauthenticated):
    """The access token is not good here, or no longer (RFC 6750, section 3.1)."""

    error = "invalid_token"


class MissingToken(Unauthenticated):
    """The request brings no access token: the answer names no code (RFC 6750, section 3.1)."""

    error = ""


class InvalidProof(Unauthenticated):
    """The DPoP proof is not one for this request (RFC 9449, section 7.1)."""

    error = "invalid_dpop_proof"


class InvalidRequest(Invalid):
    """The request carries its token in a way that nobody could rely on."""

    error = "invalid_request"


class InsufficientScope(Denied):
    """The token is good, and permits less than this needs; `needed` are the actions that it needs.

    Source: RFC 6750, section 3.1.
    """

    error = "insufficient_scope"

    def __init__(self, detail: str, needed: Collection[str] = ()) -> None:
        super().__init__(detail)
        self.needed = tuple(sorted(needed))
