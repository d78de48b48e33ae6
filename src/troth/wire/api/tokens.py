"""Access tokens on the wire, as the API has them: their end before their time."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

Reason = Annotated[str, Meta(min_length=1, max_length=500)]


class RevokeTokens(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End one token by its `jti`, all that the identity called `identity` is subject, client or
    actor of, or all that the running copy with the id `instance` obtained. One of the three."""

    reason: Reason
    jti: Annotated[str, Meta(pattern=r"^tok_[0-9a-f]{1,60}$(?!\n)")] | None = None
    identity: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    instance: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class TokensRevoked(Struct, frozen=True, kw_only=True):
    """What ended. It is remembered until `expires_at`, when it would be over anyway.

    Of an identity or an instance, tokens ended that were issued up to `issued_until`: a moment that
    lies a second ahead, until which it gets no new ones.
    """

    expires_at: datetime
    jti: str | None = None
    spiffe_id: str | None = None
    instance: str | None = None
    issued_until: datetime | None = None
