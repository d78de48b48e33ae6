"""What the OAuth endpoints answer (RFC 6749, sections 5.1 and 5.2; RFC 7662; RFC 8693)."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

ErrorCode = Literal[
    "invalid_request",  # RFC 6749, section 5.2
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",  # RFC 8707, section 2
    "invalid_authorization_details",  # RFC 9396, section 5
    "invalid_dpop_proof",  # RFC 9449, section 5
    "use_dpop_nonce",  # RFC 9449, section 8
    "unsupported_token_type",  # RFC 7009, section 2.2.1
    "invalid_token",  # RFC 6750, section 3.1
    "insufficient_scope",
    "temporarily_unavailable",  # RFC 6749, section 4.1.2.1: here for what will pass
    "server_error",
]


class Refusal(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error answer (RFC 6749, section 5.2); the description is ASCII without quotes."""

    error: str
    error_description: str = ""


class TokenAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token (RFC 6749, section 5.1; for an exchange RFC 8693, section 2.2.1)."""

    access_token: str
    token_type: str
    expires_in: int
    scope: str = ""
    issued_token_type: str = ""
    authorization_details: list[dict[str, Any]] = []


def plain_text(text: str) -> str:
    """`text` with what an ``error_description`` may hold (RFC 6749, section 5.2)."""
    kept = text.replace('"', "'").replace("\\", "/")
    return "".join(c if " " <= c <= "~" else "?" for c in kept)[:500]
