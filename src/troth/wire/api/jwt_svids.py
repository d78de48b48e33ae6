"""JWT-SVIDs on the wire: batches of wishes in, tokens or reasons out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from troth.wire.api.certificates import MAX_BATCH, Failure, InstanceClaim

MAX_AUDIENCES = 16


class JwtSvidRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One token for one identity's instance, meant for these audiences."""

    identity_id: str
    instance: InstanceClaim
    audiences: Annotated[list[str], Meta(min_length=1, max_length=MAX_AUDIENCES)]


class IssueJwtSvids(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch of token requests of one node."""

    requests: Annotated[list[JwtSvidRequest], Meta(min_length=1, max_length=MAX_BATCH)]


class IssuedJwtSvid(Struct, frozen=True, kw_only=True):
    """One answer of a batch: either the token, shown to the workload alone, or an error."""

    identity_id: str
    spiffe_id: str = ""
    token: str = ""
    expires_at: datetime | None = None
    error: Failure | None = None


class IssuedJwtSvids(Struct, frozen=True, kw_only=True):
    """The answers, in the order of the requests."""

    results: list[IssuedJwtSvid]
