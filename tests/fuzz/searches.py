"""Questions to the past: queries and cursors of whoever asks, times of whoever types, and bodies of
events that somebody else wrote."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import typer
from hypothesis import strategies as st

from tests.fakes.identities import make_identity
from tests.fakes.ocsf import list_faults
from tests.fuzz.harness import answer, fuzz
from tests.fuzz.mutations import JSON, mutated, mutated_text
from troth.audit.entry import StoredEvent
from troth.audit.found import present_event
from troth.audit.query import Found, Kind, fits
from troth.audit.trace import find_tie, list_causes, list_consequences
from troth.cli.audit_export import FORMULAS, defuse_cell
from troth.cli.audit_filters import read_when
from troth.operations.auditsearch import (
    Person,
    find_period,
    make_query,
    parse_spot,
    render_spot,
    view_found,
)
from troth.operations.auditwho import find_end, find_state
from troth.operations.portrayal import describe_found
from troth.server.http.bodies import parse_query
from troth.store.event_search import _narrow
from troth.wire.api.auditsearch import SearchAudit, TailAudit, render_cursor
from troth.wire.api.routes import find_route, parse_request
from troth.wire.ocsf.classes import EVENTS
from troth.wire.ocsf.render import Producer, render_activity

LEDGER: dict[str, str] = {
    "audit-query": """
        operations.auditsearch.parse_spot
        wire.api.auditsearch.parse_cursor
    """,
    "audit-time": """
        cli.audit_filters.read_when
        cli.words.parse_past
    """,
    "audit-event": """
        audit.found.present_event
        audit.found.read_text
        audit.trace._find_end
        audit.trace._read
        operations.auditwho._read_moment
        operations.auditwho._read_state
    """,
}

_NOW = datetime(2027, 6, 30, 12, tzinfo=UTC)
_CURSOR = render_cursor(1_800_000_000_000_000, "decision", "dec_1", "server/1/2")
_IDENTITY = make_identity()
_PRODUCER = Producer("example.org", "0.6.0")
_FOUND = Found(
    Kind.EVENT, "7", _NOW, "token.issued", "success", "a", "b", "c", "req_1", "d", "e", "f"
)


@fuzz(
    mutated(
        b"identity=spiffe%3A%2F%2Fexample.org%2Fa&since=2027-06-30T00:00:00Z&limit=7",
        b"text=%27%20OR%201%3D1&outcome=failure&kind=event&action=token.&until=2027-07-01T00:00Z",
        f"after={_CURSOR}&resource=%25_%5C&task=t&request_id=r&position=3".encode(),
    ),
    examples=300,
)
def fuzz_audit_query(raw: bytes) -> None:
    """A query is refused in words, or can be asked of the database and of every engine."""
    fields = answer(parse_query, raw)
    if fields is None:
        return
    for name in ("audit.search", "audit.tail", "audit.who", "audit.trace", "audit.touched"):
        route = find_route(name)
        path = dict.fromkeys(route.path_fields, "req_1")
        request = answer(parse_request, route, path, fields, b"")
        if not isinstance(request, SearchAudit | TailAudit):
            continue
        period: tuple[datetime, datetime] | None = (_NOW, _NOW + timedelta(days=1))
        if isinstance(request, SearchAudit):
            period = answer(find_period, request.since, request.until, _NOW)
            spot = answer(parse_spot, request.after)
            assert spot is None or parse_spot(render_spot(spot)) == spot
        if period is not None:
            assert period[0] < period[1]
            query = make_query(request, Person(request.identity), *period)
            fits(query, _FOUND)
            for condition in _narrow(query):
                str(condition)


@fuzz(mutated_text("2h", "yesterday", "2027-06-30T12:00:00+01:00", "99999d", "now"), examples=200)
def fuzz_audit_time(text: str) -> None:
    """What somebody types is a time, or wrong usage."""
    try:
        found = read_when(text, _NOW, "--since")
    except typer.BadParameter:
        return
    assert found is not None
    assert found.tzinfo is not None
    assert not defuse_cell(text).startswith(FORMULAS)


_KEYS = st.sampled_from(
    [
        *("jti", "from_jti", "serial", "change", "id", "token", "txn", "task", "grant", "state"),
        *(
            "resource",
            "source",
            "reason",
            "expires_at",
            "expires_before",
            "not_after",
            "scope",
            "audiences",
            "kid",
        ),
        *("name", "kind", "weight", "words"),
    ]
)
_TEXTS = mutated_text("tok_1", "2027-06-30T12:05:00+00:00", "[::1]:7", "uid:0/pid:1", "active")
_BODIES = st.dictionaries(_KEYS, _TEXTS | JSON, max_size=6)


@fuzz(
    st.tuples(st.sampled_from(sorted(EVENTS)), _BODIES, _TEXTS, st.sampled_from([None, b"s" * 16])),
    examples=200,
)
def fuzz_audit_event(given: tuple[str, dict[str, Any], str, bytes | None]) -> None:
    """Whatever a body holds: it is shown, its leads are followed, and as OCSF it is valid."""
    type_, body, who, salt = given
    try:
        text = msgspec.json.encode(body).decode()
        who.encode()
    except (UnicodeEncodeError, ValueError, OverflowError, RecursionError):
        return  # nothing like that can be recorded
    event = StoredEvent(5, type_, 1, who, who, 1_800_000_000_000_000, "req_1", text, salt, b"")
    found = answer(present_event, event)
    if found is None:
        return
    view_found(found)
    for lead in (*list_consequences(found), *list_causes(found)):
        assert lead.since < lead.until
        find_tie(lead, found)
    assert list_faults(render_activity(describe_found(found), _PRODUCER)) == []
    find_state(_IDENTITY, [replace(found, action="identity.released")])
    end = find_end(_IDENTITY, [replace(found, action="identity.extended")])
    assert end is None or end.tzinfo is not None
