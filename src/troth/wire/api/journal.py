"""The journal on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct


class ListJournal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read sealed events after a position; filters by subject and by type prefix."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    subject: str | None = None
    type: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class TailJournal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Follow sealed events after a position; -1 starts at the present end."""

    after: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1


class JournalEntry(Struct, frozen=True, kw_only=True, tag_field="message", tag="entry"):
    """One sealed event."""

    position: int
    type: str
    version: int
    subject: str
    actor: str
    at: datetime
    request_id: str
    body: dict[str, Any]


class JournalPage(Struct, frozen=True, kw_only=True):
    """Events in order; `head` is the last sealed position."""

    items: list[JournalEntry]
    head: int
