"""Sealed events in the form in which everything that is found is told."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from troth.audit.entry import StoredEvent, find_outcome
from troth.audit.query import Found, Kind

TASKS = ("txn", "task", "grant")
"""The fields of an event's body that say of which task it was part."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_decoder = msgspec.json.Decoder(dict[str, Any])


def present_event(event: StoredEvent) -> Found:
    """A sealed event as a thing found; of one that was redacted only what its leaf says is left."""
    body: Mapping[str, Any] = _decoder.decode(event.body) if event.body else {}
    return Found(
        kind=Kind.EVENT,
        id=str(event.position),
        at=_EPOCH + event.at * _MICROSECOND,
        action=event.type,
        outcome=find_outcome(event.type),
        actor=event.actor,
        subject=event.subject,
        resource=read_text(body, "resource"),
        request_id=event.request_id,
        source=read_text(body, "source"),
        reason=read_text(body, "reason"),
        task=find_task(body),
        detail=body,
        redacted=event.salt is None,
    )


def find_task(body: Mapping[str, Any]) -> str:
    """The transaction, task or grant that a body names; "" if it names none."""
    return next((text for name in TASKS if (text := read_text(body, name))), "")


def read_text(body: Mapping[str, Any], name: str) -> str:
    """A field that is a text; "" if it isn't there or is something else."""
    value = body.get(name)
    return value if isinstance(value, str) else ""
