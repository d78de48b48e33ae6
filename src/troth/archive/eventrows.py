"""Events of the journal as rows of Parquet, with OCSF's names; and back to events.

Source: OCSF 1.5.0, https://schema.ocsf.io/1.5.0: the attributes that all classes have, and the
actor and entity of those that ours are. `troth.wire.ocsf` renders each event in its class whole;
here all have the same columns, since a table has. What OCSF has no place for is ``unmapped``.
"""

from __future__ import annotations

import msgspec

from troth.archive.engine import Row
from troth.audit.entry import StoredEvent, commit_detail, find_outcome, render_detail
from troth.core.errors import Invalid
from troth.wire.ocsf.classes import VERSION, classify_event

STAGED = (
    "columns = {p: 'BIGINT', t: 'BIGINT', ty: 'VARCHAR', v: 'INTEGER', su: 'VARCHAR', "
    "ac: 'VARCHAR', rq: 'VARCHAR', bo: 'VARCHAR', ok: 'BOOLEAN', gone: 'BOOLEAN', di: 'VARCHAR', "
    "cl: 'INTEGER', ai: 'INTEGER', si: 'INTEGER'}, format = 'newline_delimited'"
)
"""How the engine reads the lines that `Staged` is written as."""

COLUMNS = f"""
    t // 1000 AS "time",
    make_timestamptz(t) AS time_dt,
    cl AS class_uid,
    (cl // 1000)::INTEGER AS category_uid,
    ai AS activity_id,
    (cl * 100 + ai)::INTEGER AS type_uid,
    si AS severity_id,
    CASE WHEN ok THEN 1 ELSE 2 END::INTEGER AS status_id,
    {{
        version: '{VERSION}', "sequence": p, correlation_uid: rq, event_code: ty,
        log_name: 'journal', product: {{name: 'troth', vendor_name: 'troth'}},
        profiles: ['datetime']
    }} AS metadata,
    {{"user": {{uid: ac}}}} AS actor,
    {{uid: su}} AS entity,
    {{
        event_version: v, body: bo, commitment: from_hex(di), redacted: gone
    }} AS unmapped
"""
"""What is made of a staged line."""

KEPT = """
    metadata."sequence", metadata.event_code, unmapped.event_version, entity.uid, actor."user".uid,
    epoch_us(time_dt), metadata.correlation_uid, unmapped.body, unmapped.commitment,
    unmapped.redacted
"""
"""What `read_row` needs of a row, in its order."""

ORDER = 'entity.uid, time_dt, metadata."sequence"'
"""How rows lie in a file: what concerns one subject together."""

REDACTED = """
    SELECT * EXCLUDE (hit) REPLACE (
        CASE WHEN hit THEN {"user": {uid: ''}} ELSE actor END AS actor,
        CASE WHEN hit THEN {uid: ''} ELSE entity END AS entity,
        CASE WHEN hit THEN {
            event_version: unmapped.event_version, body: '{}',
            commitment: unmapped.commitment, redacted: true
        } ELSE unmapped END AS unmapped
    )
    FROM (
        SELECT *, list_contains(?::BIGINT[], metadata."sequence") AS hit
        FROM read_parquet(?, hive_partitioning = false)
    )
"""
"""A file's rows, some of them without whom they are about, who did it, where from and why."""

PRESENT = b"-"
"""Stands for the salt of an event that wasn't redacted: the archive keeps none."""


class Staged(msgspec.Struct, frozen=True, gc=False):
    """An event on its way into Parquet: a line of JSON. `di` is the commitment in hexadecimal."""

    p: int
    t: int
    ty: str
    v: int
    su: str
    ac: str
    rq: str
    bo: str
    ok: bool
    gone: bool
    di: str
    cl: int
    ai: int
    si: int


def strip_event(event: StoredEvent) -> StoredEvent:
    """The event as the archive has it: without its salt, with its commitment."""
    if event.salt is not None:
        digest = commit_detail(event.salt, render_detail(event))
        return event._replace(salt=PRESENT, digest=digest)
    if event.digest is None:
        raise Invalid(f"The event at position {event.position} has neither salt nor digest.")
    return event


def stage_event(event: StoredEvent) -> Staged:
    """What is written of an event that was stripped."""
    line = classify_event(event.type)
    return Staged(
        p=event.position,
        t=event.at,
        ty=event.type,
        v=event.version,
        su=event.subject,
        ac=event.actor,
        rq=event.request_id,
        bo=event.body,
        ok=find_outcome(event.type) == "success",
        gone=event.salt is None,
        di=(event.digest or b"").hex(),
        cl=int(line.class_),
        ai=line.activity,
        si=int(line.severity),
    )


def read_row(row: Row) -> StoredEvent:
    """The event in a row of `KEPT` columns. Its salt is `PRESENT`, or None if it was redacted."""
    position, type_, version, subject, actor, at, request_id, body, commitment, redacted = row
    return StoredEvent(
        position=position,
        type=type_,
        version=version,
        subject=subject,
        actor=actor,
        at=at,
        request_id=request_id,
        body=body,
        salt=None if redacted else PRESENT,
        digest=commitment,
    )
