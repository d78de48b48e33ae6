"""How events and decisions look to the receivers of sinks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import msgspec

from troth.archive.found import present_decision
from troth.archive.record import DecisionRecord
from troth.audit.entry import StoredEvent, commit_detail, render_detail
from troth.audit.found import present_event
from troth.audit.query import Found
from troth.drivers.sinks import Format, Message
from troth.wire.cef import render_cef
from troth.wire.ocsf.render import Activity, Producer, render_activity

JOURNAL = "journal"
DECISION = "decision"
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Portrayer:
    """Makes messages in one format. `host` is this installation's name for receivers."""

    format: Format
    producer: Producer
    host: str

    def portray_event(self, event: StoredEvent) -> Message:
        """A sealed event. Its id holds a part of what the log's leaf commits to: should the
        database be set back, another event at the same position has another one."""
        salt = event.salt
        digest = commit_detail(salt, render_detail(event)) if salt else event.digest
        if not digest:  # from before there was a log
            digest = sha256(render_detail(event)).digest()
        found = present_event(event)
        return self._make(found, f"{event.position}-{digest[:8].hex()}", JOURNAL, event.type)

    def portray_decision(self, record: DecisionRecord, source: str) -> Message:
        """A decision; its id is its own."""
        return self._make(present_decision(record, ""), record.id, source, DECISION)

    def _make(self, found: Found, id_: str, source: str, type_: str) -> Message:
        document = render_activity(replace(describe_found(found), uid=id_), self.producer)
        return Message(
            id=id_,
            source=source,
            at=found.at,
            type=type_,
            severity=document["severity_id"],
            content=self._write(document),
        )

    def _write(self, document: Mapping[str, Any]) -> bytes:
        if self.format is Format.CEF:
            return render_cef(document, self.host)
        return _encoder.encode(document)


def describe_found(found: Found) -> Activity:
    """A thing found in the words that OCSF is rendered from."""
    return Activity(
        kind=found.kind.value,
        id=found.id,
        at=found.at,
        action=found.action,
        outcome=found.outcome,
        actor=found.actor,
        subject=found.subject,
        resource=found.resource,
        request_id=found.request_id,
        source=found.source,
        reason=found.reason,
        task=found.task,
        detail=found.detail,
        redacted=found.redacted,
    )
