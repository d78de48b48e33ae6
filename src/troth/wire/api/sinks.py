"""Sinks on the wire: how far each is, and what its receiver would not take."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from troth.wire.api.route import Route

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Position = Annotated[int, Meta(ge=0, le=2**63 - 1)]
SourceName = Annotated[str, Meta(min_length=1, max_length=64)]


class ListSinks(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell how far the sinks are that this server's configuration has."""


class SinkSource(Struct, frozen=True, kw_only=True):
    """What a sink is fed from: ``journal``, or ``decisions/SERVER``.

    `position` is the last that the receiver has, and `behind` how much there is after it: events of
    the journal, or segments of decisions. `trouble` is why it stands still, "" if it doesn't.
    """

    source: str
    position: int
    behind: int
    trouble: str = ""
    since: datetime | None = None


class SinkView(Struct, frozen=True, kw_only=True):
    """One sink; `where` is its receiver, without any secret."""

    name: str
    driver: str
    where: str
    format: str
    dead_letters: int
    sources: list[SinkSource]


class SinkList(Struct, frozen=True, kw_only=True):
    """All of them, in the order of the configuration."""

    items: list[SinkView]


class ListDeadLetters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """List what a sink didn't deliver, behind a source and a position."""

    sink: Name
    source: Annotated[str, Meta(max_length=64)] = ""
    position: Annotated[int, Meta(ge=-1, le=2**63 - 1)] = -1
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class DeadLetterView(Struct, frozen=True, kw_only=True):
    """One event or decision that wasn't delivered. `id` is the position of an event, or the id of a
    decision; "" if that isn't known any more. `size` counts the bytes that are kept of it."""

    source: str
    position: int
    at: datetime
    reason: str
    type: str
    id: str
    size: int


class DeadLetterPage(Struct, frozen=True, kw_only=True):
    """In the order of source and position; `more` says whether there are others behind them."""

    items: list[DeadLetterView]
    more: bool


class RetryDeadLetters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Send one again, or with `all` as many as `limit` says, behind the place `after`: `next` of an
    earlier answer."""

    sink: Name
    source: SourceName | None = None
    position: Position | None = None
    all: bool = False
    after: Annotated[str, Meta(max_length=84)] = ""
    limit: Annotated[int, Meta(ge=1, le=100)] = 100


class DropDeadLetters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Forget one, or with `all` as many as `limit` says: they won't be delivered."""

    sink: Name
    source: SourceName | None = None
    position: Position | None = None
    all: bool = False
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


class DeadLettersDone(Struct, frozen=True, kw_only=True):
    """How many went (delivered, or forgotten), how many were refused again, and how many are left.
    `trouble` says why it ended before that, and `next` where to go on if there are others."""

    done: int
    refused: int
    left: int
    trouble: str = ""
    next: str = ""


ROUTES: tuple[Route, ...] = (
    Route("sink.ls", "GET", "/v1/sinks", ListSinks, SinkList, "List sinks and how far they are."),
    Route(
        "dead_letter.ls",
        "GET",
        "/v1/sinks/{sink}/dead-letters",
        ListDeadLetters,
        DeadLetterPage,
        "List what a sink didn't deliver.",
    ),
    Route(
        "dead_letter.retry",
        "POST",
        "/v1/sinks/{sink}/dead-letters/retry",
        RetryDeadLetters,
        DeadLettersDone,
        "Send a sink's dead letters again.",
    ),
    Route(
        "dead_letter.drop",
        "POST",
        "/v1/sinks/{sink}/dead-letters/drop",
        DropDeadLetters,
        DeadLettersDone,
        "Forget a sink's dead letters.",
    ),
)
