"""Requests and results about taking persons out of the record."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from troth.wire.api.route import Route


class RedactEvent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take out of an event whom it is about, who did it, where from and why. For good."""

    position: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    reason: Annotated[str, Meta(min_length=1, max_length=1000)]


class EventRedacted(Struct, frozen=True, kw_only=True):
    """What is left of it: its place, and what kind of event it is."""

    position: int
    type: str


ROUTES: tuple[Route, ...] = (
    Route(
        "journal.redact",
        "POST",
        "/v1/journal/{position}/redact",
        RedactEvent,
        EventRedacted,
        "Take persons and reasons out of an event, for good; its proofs stay.",
    ),
)
