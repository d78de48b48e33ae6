"""Signing authorities on the wire, and their rotation by hand."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

AuthorityName = Annotated[str, Meta(pattern=r"^aut_[0-9A-Za-z_-]{1,60}$(?!\n)")]
Reason = Annotated[str, Meta(min_length=1, max_length=500)]


class ListAuthorities(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List all signing authorities."""


class PrepareAuthority(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make the next authority of a use, with the reason that the journal keeps."""

    use: Literal["x509-svid", "jwt-svid", "access-token", "access-eddsa", "access-rs256"]
    reason: Reason


class MoveAuthority(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Move an authority along, with the reason that the journal keeps."""

    id: AuthorityName
    reason: Reason


class ForceAuthority(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same; with `force` even where that makes verifiers refuse somebody."""

    id: AuthorityName
    reason: Reason
    force: bool = False


class SigningAuthority(Struct, frozen=True, kw_only=True):
    """One signing authority, without its key.

    `key_id` is the subject key identifier in hexadecimal (X.509) or the ``kid`` (JWT). `ready_at`
    is when a prepared one may sign. `needed_until` is when the last thing that it signed ends, and
    `holders` counts who holds that and nothing newer; both are left out for an active one.
    """

    id: str
    use: str
    state: str
    key_id: str
    created_at: datetime
    not_before: datetime
    not_after: datetime
    ready_at: datetime | None = None
    needed_until: datetime | None = None
    holders: int | None = None


class AuthorityList(Struct, frozen=True, kw_only=True):
    """All authorities, the oldest first."""

    items: list[SigningAuthority]
