"""The server's state on the wire."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct


class GetStatus(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask how the installation is."""


class AuthorityView(Struct, frozen=True, kw_only=True):
    """One signing authority, without its key."""

    id: str
    use: str
    state: str
    not_before: datetime
    not_after: datetime


class StatusView(Struct, frozen=True, kw_only=True):
    """The installation at a glance; `findings` are sentences that say what to mend.

    `origin` is the URL under which the public listener is reached from outside."""

    version: str
    trust_domain: str
    origin: str
    ready: bool
    started_at: datetime
    journal_head: int
    epoch: int
    identities: dict[str, int]
    nodes: int
    authorities: list[AuthorityView]
    crl_next_update: datetime | None
    findings: list[str]
