"""Decisions as rows of Parquet, with OCSF's names; and back to the very bytes of a segment's entry.

Source: OCSF 1.5.0, class API Activity (https://schema.ocsf.io/1.5.0/classes/api_activity) with the
profiles "Security Control" and "Date/Time". Each row holds what `troth.wire.ocsf` renders of a
decision, but for what follows from other columns. What OCSF has no place for is ``unmapped``.

An entry that the columns can't give back byte for byte keeps its bytes in ``unmapped.raw``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec

from troth.archive.engine import Row
from troth.archive.found import SOURCE, TASK
from troth.archive.record import (
    DecisionRecord,
    count_microseconds,
    decode_record,
    encode_record,
    place_microseconds,
)
from troth.audit.found import read_text
from troth.core.errors import Invalid, TrothError
from troth.wire.ocsf.classes import OTHER, VERSION, Class, Severity, classify_decision

LARGEST_NUMBER = (1 << 63) - 1

STAGED = (
    "columns = {i: 'INTEGER', t: 'BIGINT', id: 'VARCHAR', rq: 'VARCHAR', ca: 'VARCHAR', "
    "po: 'VARCHAR', st: 'VARCHAR', su: 'VARCHAR', ac: 'VARCHAR', re: 'VARCHAR', rt: 'VARCHAR', "
    "ri: 'VARCHAR', al: 'BOOLEAN', pl: 'VARCHAR[]', rs: 'VARCHAR', ep: 'BIGINT', fa: 'VARCHAR', "
    "ta: 'VARCHAR', ip: 'VARCHAR', ai: 'INTEGER', si: 'INTEGER', raw: 'VARCHAR'}, "
    "format = 'newline_delimited'"
)
"""How the engine reads the lines that `Staged` is written as."""

COLUMNS = f"""
    t // 1000 AS "time",
    make_timestamptz(t) AS time_dt,
    {Class.API_ACTIVITY:d}::INTEGER AS class_uid,
    {Class.API_ACTIVITY // 1000:d}::INTEGER AS category_uid,
    ai AS activity_id,
    ({Class.API_ACTIVITY * 100:d} + ai)::INTEGER AS type_uid,
    si AS severity_id,
    CASE WHEN al THEN 1 ELSE 2 END::INTEGER AS status_id,
    rs AS status_detail,
    CASE WHEN al THEN 1 ELSE 2 END::INTEGER AS action_id,
    CASE WHEN al THEN 1 ELSE 2 END::INTEGER AS disposition_id,
    {{
        version: '{VERSION}', uid: id, correlation_uid: rq, event_code: 'decision',
        log_name: 'decisions', product: {{name: 'troth', vendor_name: 'troth'}},
        profiles: ['security_control', 'datetime']
    }} AS metadata,
    {{"user": {{uid: su, "type": st}}}} AS actor,
    {{operation: ac, service: {{uid: ca}}}} AS api,
    [{{"name": re, "type": rt, uid: ri}}] AS resources,
    {{ip: ip}} AS src_endpoint,
    list_transform(
        CASE WHEN len(pl) = 0 THEN [NULL] ELSE pl END,
        lambda one: {{decision: CASE WHEN al THEN 'Allow' ELSE 'Deny' END, policy: {{uid: one}}}}
    ) AS authorizations,
    {{
        server: server, segment: segment, "index": i, point: po, epoch: ep, task: ta,
        facts: fa, raw: from_hex(raw)
    }} AS unmapped
"""
"""What is made of a staged line; `server` and `segment` stand beside it."""

KEPT = """
    unmapped.server, unmapped.segment, unmapped."index",
    metadata.uid, epoch_us(time_dt), metadata.correlation_uid, api.service.uid, unmapped.point,
    actor."user"."type", actor."user".uid, api.operation,
    resources[1]."name", resources[1]."type", resources[1].uid,
    status_id = 1, authorizations,
    status_detail, unmapped.epoch, unmapped.facts, unmapped.raw
"""
"""What `read_row` needs of a row, in its order."""

ORDER = 'actor."user".uid, time_dt, unmapped.segment, unmapped."index"'
"""How rows lie in a file: one subject's together, so that its day is few row groups."""

IDS = """
    SELECT DISTINCT md5_number_lower(id) >> 40 AS key, actor."user".uid AS subject
    FROM (
        SELECT unnest([metadata.uid, metadata.correlation_uid, unmapped.task]) AS id, actor
        FROM read_parquet(?, hive_partitioning = false)
    )
    WHERE id <> ''
    ORDER BY ALL
"""
"""Whose rows an id is in: of a decision, a request or a task. The key is the last three bytes of
the id's MD5, the last byte first: a hint, which may be another's too."""

TOUCHED = """
    SELECT
        resources[1]."name" AS resource, actor."user".uid AS subject,
        actor."user"."type" AS subject_type, api.operation AS action, status_id,
        count(*)::BIGINT AS count, min(time_dt) AS first, max(time_dt) AS last
    FROM read_parquet(?, hive_partitioning = false)
    GROUP BY ALL
    ORDER BY ALL
"""
"""Who touched what: a row for each resource, subject, action and outcome."""


TOUCHED_BY_MONTH = """
    SELECT
        resource, subject, subject_type, action, status_id, sum(count)::BIGINT AS count,
        min("first") AS first, max("last") AS last
    FROM read_parquet(?, hive_partitioning = false)
    GROUP BY ALL
    ORDER BY ALL
"""
"""The same of several files of `TOUCHED`, together."""


class Staged(msgspec.Struct, frozen=True, gc=False):
    """A decision on its way into Parquet: a line of JSON. Times are microseconds since 1970, facts
    JSON text, `raw` hexadecimal."""

    i: int
    t: int
    id: str
    rq: str
    ca: str
    po: str
    st: str
    su: str
    ac: str
    re: str
    rt: str
    ri: str
    al: bool
    pl: tuple[str, ...]
    rs: str
    ep: int
    fa: str
    ta: str | None
    ip: str | None
    ai: int
    si: int
    raw: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a segment. `record` is None if this version can't read it."""

    server: str
    segment: int
    index: int
    data: bytes
    record: DecisionRecord | None


_json = msgspec.json.Encoder()
_facts = msgspec.json.Decoder(dict[str, Any])


def stage_entry(index: int, entry: bytes, otherwise: int) -> Staged:
    """What is written of entry `index`; `otherwise` is the time of one that can't be read."""
    try:
        record = decode_record(entry)
    except Invalid:
        return _stage_bytes(index, entry, otherwise)
    r, facts = record, _render_facts(record)
    epoch = r.epoch if -LARGEST_NUMBER <= r.epoch <= LARGEST_NUMBER else 0
    line = classify_decision(r.action, allowed=r.allowed)
    return Staged(
        i=index,
        t=count_microseconds(r.at),
        id=r.id,
        rq=r.request_id,
        ca=r.caller,
        po=r.point,
        st=r.subject_type,
        su=r.subject,
        ac=r.action,
        re=r.resource,
        rt=r.resource_type,
        ri=r.resource_id,
        al=r.allowed,
        pl=r.policies,
        rs=r.reason,
        ep=epoch,
        fa=facts,
        ta=read_text(r.facts, TASK) or None,
        ip=read_text(r.facts, SOURCE) or None,
        ai=line.activity,
        si=int(line.severity),
        raw=None if _gives_back(record, facts, entry, epoch) else entry.hex(),
    )


def read_row(row: Row) -> Entry:
    """The entry that a row of `KEPT` columns is; `Invalid` if it can't be one."""
    server, segment, index, raw = row[0], row[1], row[2], row[19]
    try:
        record = read_record(row)
        if raw is not None or record is None:
            return Entry(server, segment, index, raw, record)
        return Entry(server, segment, index, encode_record(record)[1], record)
    except (TypeError, ValueError, TrothError) as error:
        raise Invalid(f"Entry {index} of segment {segment} can't be made again.") from error


def read_record(row: Row) -> DecisionRecord | None:
    """The decision in a row of `KEPT` columns; None if this version can't read it."""
    if row[19] is not None:
        return _try_decode(row[19])
    policies = tuple([one["policy"]["uid"] for one in row[15]])
    return DecisionRecord(
        id=row[3],
        at=place_microseconds(row[4]),
        request_id=row[5],
        caller=row[6],
        point=row[7],
        subject_type=row[8],
        subject=row[9],
        action=row[10],
        resource=row[11],
        resource_type=row[12],
        resource_id=row[13],
        allowed=row[14],
        policies=() if policies == (None,) else policies,
        reason=row[16],
        epoch=row[17],
        facts=_facts.decode(row[18]),
    )


def _try_decode(entry: bytes) -> DecisionRecord | None:
    try:
        return decode_record(entry)
    except Invalid:
        return None


def _render_facts(record: DecisionRecord) -> str:
    """The facts as JSON text, in their order."""
    try:
        return _json.encode(record.facts).decode()
    except (TypeError, ValueError, RecursionError):
        return "{}"  # what a later version keeps there: the bytes have it


def _gives_back(record: DecisionRecord, facts: str, entry: bytes, epoch: int) -> bool:
    """Whether the columns hold all that is in the entry."""
    try:
        again = replace(record, facts=_facts.decode(facts), epoch=epoch)
        return encode_record(again)[1] == entry
    except (ValueError, RecursionError, TrothError):
        return False


def _stage_bytes(index: int, entry: bytes, at: int) -> Staged:
    """What a later version wrote: its bytes alone."""
    return Staged(
        i=index,
        t=at,
        id="",
        rq="",
        ca="",
        po="",
        st="",
        su="",
        ac="",
        re="",
        rt="",
        ri="",
        al=False,
        pl=(),
        rs="",
        ep=0,
        fa="{}",
        ta=None,
        ip=None,
        ai=OTHER,
        si=int(Severity.INFORMATIONAL),
        raw=entry.hex(),
    )
