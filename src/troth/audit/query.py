"""What is asked of the past, and what is found: events and decisions in one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """Where something is recorded: in the journal, or in the decision log."""

    EVENT = "event"
    DECISION = "decision"


@dataclass(frozen=True, slots=True)
class Query:
    """From `since` to before `until`; what is "" or None doesn't matter.

    `identity` is a SPIFFE ID, or the principal of a person (``uid:1000``): it did something, or
    something was done to it. `action` is an event's type or its beginning (``token.``), or the
    action of a decision. `outcome` is ``success`` or ``failure`` (a denied decision is a failure).
    `task` is the id of a transaction token's transaction or of a grant. `text` stands somewhere,
    whatever its case.
    """

    since: datetime
    until: datetime
    identity: str = ""
    resource: str = ""
    action: str = ""
    outcome: str = ""
    request_id: str = ""
    task: str = ""
    text: str = ""
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that happened.

    `id` is the decision's id, or the event's position in decimal. `action` is the event's type, or
    the decision's action. `actor` did it (of a decision: who asked), `subject` it was done to (of a
    decision: who wanted to). `resource` is "" where none is meant. `detail` is the whole event's
    body, or the decision's remaining fields and facts. `redacted`: persons and reasons were taken
    out. `place` is where a decision lies, ``server/segment/index``; "" for an event.
    """

    kind: Kind
    id: str
    at: datetime
    action: str
    outcome: str
    actor: str
    subject: str
    resource: str
    request_id: str
    source: str
    reason: str
    task: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    redacted: bool = False
    place: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Spot:
    """Where something stands in the order of time; what is newer is greater. No two things have the
    same. A page goes on behind the spot of the last thing on the page before it."""

    at: datetime
    kind: Kind
    id: str
    place: str


def find_spot(found: Found) -> Spot:
    """The thing's spot. Events of one moment stand in the order of their positions."""
    id_ = found.id.zfill(20) if found.kind is Kind.EVENT else found.id
    return Spot(found.at, found.kind, id_, found.place)


def fits(query: Query, found: Found) -> bool:
    """Whether this is what is asked for: what every engine that searches must agree with."""
    return (
        query.since <= found.at < query.until
        and (query.kind is None or query.kind is found.kind)
        and (not query.identity or query.identity in (found.actor, found.subject))
        and (not query.resource or query.resource == found.resource)
        and (not query.action or _fits_action(query.action, found))
        and (not query.outcome or query.outcome == found.outcome)
        and (not query.request_id or query.request_id == found.request_id)
        and (not query.task or query.task == found.task)
        and (not query.text or _contains(found, query.text.casefold()))
    )


def _fits_action(wanted: str, found: Found) -> bool:
    if found.kind is Kind.EVENT and wanted.endswith("."):
        return found.action.startswith(wanted)
    return found.action == wanted


def _contains(found: Found, text: str) -> bool:
    plain = (
        found.id,
        found.action,
        found.actor,
        found.subject,
        found.resource,
        found.request_id,
        found.source,
        found.reason,
        found.task,
    )
    return any(text in one.casefold() for one in plain) or _stands_in(found.detail, text)


def _stands_in(value: Any, text: str) -> bool:
    if isinstance(value, Mapping):
        return any(_stands_in(one, text) for pair in value.items() for one in pair)
    if isinstance(value, list | tuple):
        return any(_stands_in(one, text) for one in value)
    return isinstance(value, str) and text in value.casefold()
