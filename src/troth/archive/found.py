"""Decisions in the form in which everything that is found is told."""

from __future__ import annotations

from troth.archive.record import DecisionRecord
from troth.audit.found import read_text
from troth.audit.query import Found, Kind

SUCCESS, FAILURE = "success", "failure"
SOURCE, TASK = "request.ip", "task.id"
"""The facts that say where a request came from, and of which task it was part."""


def name_place(server: str, segment: int, index: int) -> str:
    """Where a decision lies: in the order of these names is in the order of writing."""
    return f"{server}/{segment:010d}/{index:08d}"


def present_decision(record: DecisionRecord, place: str) -> Found:
    """A decision as a thing found; `place` comes from `name_place`."""
    return Found(
        kind=Kind.DECISION,
        id=record.id,
        at=record.at,
        action=record.action,
        outcome=SUCCESS if record.allowed else FAILURE,
        actor=record.caller,
        subject=record.subject,
        resource=record.resource,
        request_id=record.request_id,
        source=read_text(record.facts, SOURCE),
        reason=record.reason,
        task=read_text(record.facts, TASK),
        detail={
            "point": record.point,
            "subject_type": record.subject_type,
            "resource_type": record.resource_type,
            "resource_id": record.resource_id,
            "policies": list(record.policies),
            "epoch": record.epoch,
            "facts": record.facts,
        },
        place=place,
    )
