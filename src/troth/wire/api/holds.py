"""Legal holds on the wire: spans of time of which nothing is removed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from troth.wire.api.route import Route

HoldName = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)")]
Reason = Annotated[str, Meta(min_length=1, max_length=1000)]


class PlaceHold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keep what happened from `since` to before `until`; without `until` whatever comes, too."""

    name: HoldName
    since: datetime
    until: datetime | None = None
    reason: Reason


class ListHolds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List the holds that there are."""


class ReleaseHold(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let what only this hold keeps be removed when its time has come."""

    name: HoldName
    reason: Reason


class HoldView(Struct, frozen=True, kw_only=True):
    """One hold; `until` is null where it has no end."""

    name: str
    since: datetime
    until: datetime | None
    reason: str
    placed_by: str
    placed_at: datetime


class HoldList(Struct, frozen=True, kw_only=True):
    """All of them, by name."""

    items: list[HoldView]


ROUTES: tuple[Route, ...] = (
    Route("hold.place", "POST", "/v1/holds", PlaceHold, HoldView, "Place a legal hold."),
    Route("hold.ls", "GET", "/v1/holds", ListHolds, HoldList, "List legal holds."),
    Route(
        "hold.release",
        "POST",
        "/v1/holds/{name}/release",
        ReleaseHold,
        HoldView,
        "Release a legal hold.",
    ),
)
