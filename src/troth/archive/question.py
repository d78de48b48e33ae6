"""What a query means in SQL: conditions with places for values, and those values.

A condition lets everything through that fits, and perhaps more: `troth.audit.query.fits` has the
last word. Names of columns are ours; whatever comes from outside is bound.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from troth.archive.found import FAILURE, SUCCESS
from troth.audit.query import Found, Kind, Query, Spot, fits

IDENTITY = "identity"
"""The type of a decision's subject that is an identity of this trust domain, told by its name."""

_STATUS = {SUCCESS: 1, FAILURE: 2}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)

_SUBJECT, _CALLER = 'actor."user".uid', "api.service.uid"
_DECISION_TEXTS = (
    "metadata.uid",
    "api.operation",
    _CALLER,
    _SUBJECT,
    'resources[1]."name"',
    "metadata.correlation_uid",
    "status_detail",
    "unmapped.point",
    'actor."user"."type"',
    'resources[1]."type"',
    "resources[1].uid",
    "unmapped.facts",
)
_DECISION_WORDS = (
    "point",
    "subject_type",
    "resource_type",
    "resource_id",
    "policies",
    "epoch",
    "facts",
)
"""The names of fields in which a decision's detail is told: a text may stand in one of them."""
_POLICY = "one.policy.uid"
_EVENT_TEXTS = (
    'metadata."sequence"::VARCHAR',
    "metadata.event_code",
    'actor."user".uid',
    "entity.uid",
    "metadata.correlation_uid",
    "unmapped.body",
)


@dataclass(frozen=True, slots=True)
class Condition:
    """A piece of SQL and the values that are bound in it, in their order."""

    sql: str
    values: tuple[Any, ...] = ()


def count_ticks(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - _EPOCH) // _TICK


def join_conditions(conditions: Iterable[Condition]) -> Condition:
    """All of them."""
    given = list(conditions)
    sql = " AND ".join(f"({one.sql})" for one in given)
    return Condition(sql or "true", tuple(value for one in given for value in one.values))


def limit_time(since: datetime, until: datetime) -> Condition:
    """From one moment to before another."""
    return Condition(
        "time_dt >= make_timestamptz(?::BIGINT) AND time_dt < make_timestamptz(?::BIGINT)",
        (count_ticks(since), count_ticks(until)),
    )


def follow_decision(after: Spot) -> Condition:
    """What stands behind a spot."""
    at = count_ticks(after.at)
    if after.kind is Kind.EVENT:
        return Condition("time_dt <= make_timestamptz(?::BIGINT)", (at,))
    server, segment, nth = _split_place(after.place)
    return Condition(
        "time_dt <= make_timestamptz(?::BIGINT) AND (time_dt < make_timestamptz(?::BIGINT) OR "
        'row(metadata.uid, unmapped.server, unmapped.segment, unmapped."index") < '
        "row(?, ?, ?::BIGINT, ?::INTEGER))",
        (at, at, after.id, server, segment, nth),
    )


def follow_event(after: Spot) -> Condition:
    """What stands behind a spot."""
    at = count_ticks(after.at)
    if after.kind is Kind.DECISION or not after.id.isdecimal():
        return Condition("time_dt < make_timestamptz(?::BIGINT)", (at,))
    position = min(int(after.id), (1 << 63) - 1)
    return Condition(
        "time_dt < make_timestamptz(?::BIGINT) OR (time_dt = make_timestamptz(?::BIGINT) AND "
        'metadata."sequence" < ?::BIGINT)',
        (at, at, position),
    )


def _split_place(place: str) -> tuple[str, int, int]:
    server, _, rest = place.partition("/")
    segment, _, nth = rest.partition("/")
    if not (segment.isdecimal() and nth.isdecimal()):
        return server, 0, 0
    return server, min(int(segment), (1 << 63) - 1), min(int(nth), (1 << 31) - 1)


def ask_decisions(query: Query) -> Condition | None:
    """All but the time and whose they are; None if nothing can fit."""
    found = []
    if query.outcome:
        if query.outcome not in _STATUS:
            return None
        found.append(Condition("status_id = ?", (_STATUS[query.outcome],)))
    for column, value in (
        ('resources[1]."name"', query.resource),
        ("api.operation", query.action),
        ("metadata.correlation_uid", query.request_id),
        ("unmapped.task", query.task),
    ):
        if value:
            found.append(Condition(f"{column} = ?", (value,)))
    text = query.text.casefold()
    if text and not any(text in word for word in _DECISION_WORDS):
        found.append(_ask_text(text, _DECISION_TEXTS, _POLICY))
    return join_conditions(found)


def ask_subjects(subjects: Collection[str]) -> Condition:
    """Decisions about one of them."""
    if len(subjects) == 1:
        return Condition(f"{_SUBJECT} = ?", tuple(subjects))
    places = ", ".join("?" * len(subjects))
    return Condition(f"{_SUBJECT} IN ({places})", tuple(subjects))


def ask_subject(identity: str, names: Collection[str]) -> Condition:
    """Decisions of which the identity is the subject, under its SPIFFE ID or one of its names; and
    those of other subjects that are called like it."""
    return ask_subjects([identity, *(name for name in names if name != identity)])


def ask_caller(identity: str, names: Collection[str]) -> Condition:
    """Decisions that the identity asked for, other than those of `ask_subject`."""
    own = ask_subject(identity, names)
    return Condition(f"{_CALLER} = ? AND NOT ({own.sql})", (identity, *own.values))


def leave_out(server: str, segments: Collection[int]) -> Condition:
    """No record of these segments of a server."""
    places = ", ".join("?" * len(segments))
    return Condition(
        f"NOT (unmapped.server = ? AND unmapped.segment IN ({places}))", (server, *segments)
    )


def ask_events(query: Query, before: int | None) -> Condition | None:
    """All but the time; None if nothing can fit. With `before` only lower positions."""
    found = []
    if before is not None:
        found.append(Condition('metadata."sequence" < ?::BIGINT', (before,)))
    if query.outcome:
        if query.outcome not in _STATUS:
            return None
        found.append(Condition("status_id = ?", (_STATUS[query.outcome],)))
    if query.identity:
        pair = (query.identity, query.identity)
        found.append(Condition('actor."user".uid = ? OR entity.uid = ?', pair))
    if query.action.endswith("."):
        found.append(Condition("starts_with(metadata.event_code, ?)", (query.action,)))
    elif query.action:
        found.append(Condition("metadata.event_code = ?", (query.action,)))
    if query.request_id:
        found.append(Condition("metadata.correlation_uid = ?", (query.request_id,)))
    if query.resource:
        found.append(_ask_body(("resource",), query.resource))
    if query.task:
        found.append(_ask_body(("txn", "task", "grant"), query.task))
    if query.text:
        found.append(_ask_text(query.text.casefold(), _EVENT_TEXTS))
    return join_conditions(found)


def _ask_body(names: Iterable[str], value: str) -> Condition:
    given = [f"json_extract_string(unmapped.body, '$.{name}') = ?" for name in names]
    return Condition(" OR ".join(given), (value,) * len(given))


def _ask_text(text: str, columns: Iterable[str], policy: str = "") -> Condition:
    """Where a casefolded text may stand. Casefolding and lower case are the same for ASCII; a text
    with other characters in it may stand wherever there are some, and so may one without them."""
    # In JSON some characters stand escaped.
    inside = msgspec.json.encode(text).decode()[1:-1]
    values: list[Any] = []

    def look(column: str) -> str:
        other = f"strlen({column}) <> length({column})"
        if not text.isascii():
            return other
        values.append(inside if column in ("unmapped.facts", "unmapped.body") else text)
        return f"contains(lower({column}), ?) OR {other}"

    found = [look(column) for column in columns]
    if policy:
        found.append(f"list_bool_or(list_transform(authorizations, lambda one: {look(policy)}))")
    return Condition(" OR ".join(found), tuple(values))


def fits_named(query: Query, names: Collection[str], found: Found) -> bool:
    """Whether a decision is what is asked for, its subject under one of the identity's names."""
    if fits(query, found):
        return True
    if not query.identity or found.subject not in names:
        return False
    if found.detail.get("subject_type") != IDENTITY:
        return False
    return fits(replace(query, identity=""), found)


def list_words(query: Query, names: Collection[str]) -> list[list[bytes]]:
    """What must stand in a decision's bytes as it is: of each group one."""
    exact = (query.resource, query.action, query.request_id, query.task)
    words = [[one.encode()] for one in exact if one]
    if query.identity:
        words.append([one.encode() for one in (query.identity, *names)])
    return words
