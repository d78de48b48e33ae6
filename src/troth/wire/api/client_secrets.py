"""Secrets of OAuth clients on the wire: made once, shown once, listed without what is secret."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

DAY = 86_400
DEFAULT_TTL = 30 * DAY
TTL_CEILING = 90 * DAY

SecretName = Annotated[str, Meta(pattern=r"^csec_[0-9a-f]{1,60}$(?!\n)")]


class CreateClientSecret(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a secret for the identity called `identity`; `ttl` in seconds."""

    identity: Annotated[str, Meta(min_length=1, max_length=128)]
    ttl: Annotated[int, Meta(ge=60, le=TTL_CEILING)] = DEFAULT_TTL


class ClientSecretCreated(Struct, frozen=True, kw_only=True):
    """The secret, shown this once; the server keeps only its hash. `id` is no secret."""

    id: str
    client_id: str
    secret: str
    expires_at: datetime


class ListClientSecrets(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List what is good now, of the identity called `identity` or of all, after an id."""

    identity: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    after: SecretName | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


class ClientSecretView(Struct, frozen=True, kw_only=True):
    """One secret: whose it is, and `instead`, how that client could prove itself better."""

    id: str
    identity: str
    client_id: str
    owner: str
    created_by: str
    created_at: datetime
    expires_at: datetime
    instead: str
    revoked_at: datetime | None = None


class ClientSecretPage(Struct, frozen=True, kw_only=True):
    """Secrets by id; `next` is what to pass as `after` for those that follow."""

    items: list[ClientSecretView]
    next: str | None = None


class RevokeClientSecret(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End one secret by its id."""

    id: SecretName
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
