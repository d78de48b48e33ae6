"""OCSF: whatever happens is valid by the schema, and by the library of its models."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py_ocsf_models import OCSF_VERSION
from py_ocsf_models.events.findings.detection_finding import DetectionFinding

from tests.fakes.ocsf import list_faults, read_schema
from troth.wire.ocsf.classes import (
    ACTIVITIES,
    CAPTIONS,
    CATEGORIES,
    EVENTS,
    VERSION,
    Class,
    Line,
    Severity,
    classify_decision,
    classify_event,
)
from troth.wire.ocsf.render import Activity, Producer, render_activity, render_as

EVENTS_PAGE = Path(__file__).parents[4] / "docs" / "reference" / "events.md"
PRODUCER = Producer("troth.local", "0.6.0")
AT = datetime(2027, 6, 30, 12, 0, 0, 123456, tzinfo=UTC)

EVENT = Activity(
    kind="event",
    id="42",
    at=AT,
    action="identity.quarantined",
    outcome="success",
    actor="uid:1000",
    subject="spiffe://troth.local/payments-api",
    request_id="018f-req",
    source="uid:1000/pid:77",
    reason="it scanned the network",
    detail={"name": "payments-api", "reason": "it scanned the network"},
)
DECISION = Activity(
    kind="decision",
    id="018f-dec",
    at=AT,
    action="read",
    outcome="failure",
    actor="spiffe://troth.local/ledger",
    subject="spiffe://troth.local/payments-api",
    resource="ledger",
    request_id="018f-req",
    source="192.0.2.7",
    reason="no rule permits it",
    task="018f-txn",
    detail={
        "policies": ["forbid-prod"],
        "resource_type": "account",
        "resource_id": "7",
        "subject_type": "identity",
        "facts": {"request.ip": "192.0.2.7"},
    },
)
DETAILS: dict[str, dict[str, Any]] = {
    "token.issued": {
        "jti": "018f-jti",
        "kid": "k1",
        "scope": "read write",
        "audiences": ["ledger"],
        "expires_at": "2027-06-30T12:05:00+00:00",
    },
    "jwtsvid.issued": {"jti": "018f-jti", "audiences": ["db"], "expires_at": "soon"},
    "token.revoked": {"jti": "018f-jti"},
    "evidence.added": {"id": "018f-ev", "kind": "scan", "weight": -60, "name": "payments-api"},
}


def documented_types() -> set[str]:
    text = EVENTS_PAGE.read_text()
    return set(re.findall(r"^\| `([a-z0-9_]+\.[a-z0-9_]+)` \|", text, re.MULTILINE))


def make_event(type_: str, **fields: Any) -> Activity:
    return replace(EVENT, action=type_, detail=DETAILS.get(type_, {}), **fields)


def test_every_type_of_event_has_its_line() -> None:
    types = documented_types()
    assert len(types) > 50
    assert types - set(EVENTS) == set(), "add a line to EVENTS in troth/wire/ocsf/classes.py"


def test_the_table_says_what_the_schema_says() -> None:
    classes = {one["uid"]: one for one in read_schema()["classes"].values()}
    assert read_schema()["version"] == VERSION == OCSF_VERSION
    for class_ in Class:
        found = classes[class_]
        assert CAPTIONS[class_] == found["caption"]
        assert CATEGORIES[class_ // 1000]
        known = found["attributes"]["activity_id"]["enum"]
        assert {**known, **{str(n): word for n, word in ACTIVITIES[class_].items()}} == known
        for severity in Severity:
            words = found["attributes"]["severity_id"]["enum"][str(int(severity))]
            assert words == severity.name.title()


@pytest.mark.parametrize("type_", sorted(EVENTS))
@pytest.mark.parametrize("source", ["", "192.0.2.7:44", "[2001:db8::1]:44", "uid:0/pid:1"])
def test_an_event_of_every_type_is_valid(type_: str, source: str) -> None:
    shown = render_activity(make_event(type_, source=source), PRODUCER)
    assert list_faults(shown) == []
    assert shown["type_name"] == type_name(shown)
    assert shown["metadata"]["event_code"] == type_
    assert shown["metadata"]["sequence"] == 42
    assert json.loads(json.dumps(shown)) == shown


def type_name(shown: dict[str, Any]) -> str:
    classes = {one["uid"]: one for one in read_schema()["classes"].values()}
    names = classes[shown["class_uid"]]["attributes"]["type_uid"]["enum"]
    name: str = names[str(shown["type_uid"])]
    return name


@pytest.mark.parametrize(
    "action", ["read", "orders.create", "WRITE", "can_read_user", "", "x" * 99]
)
@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_a_decision_is_valid(action: str, outcome: str) -> None:
    shown = render_activity(replace(DECISION, action=action, outcome=outcome), PRODUCER)
    assert list_faults(shown) == []
    assert shown["class_uid"] == Class.API_ACTIVITY
    assert shown["action_id"] == (1 if outcome == "success" else 2)


def test_a_decision_says_who_what_where_and_why() -> None:
    shown = render_activity(DECISION, PRODUCER)
    assert shown["time"] == 1814356800123
    assert shown["time_dt"] == "2027-06-30T12:00:00.123456+00:00"
    assert shown["actor"]["user"]["uid"] == DECISION.subject
    assert shown["api"] == {
        "operation": "read",
        "service": {"uid": "spiffe://troth.local/ledger"},
        "request": {"uid": "018f-req"},
    }
    assert shown["resources"] == [{"name": "ledger", "uid": "7", "type": "account"}]
    assert shown["src_endpoint"] == {"ip": "192.0.2.7"}
    assert shown["authorizations"] == [{"decision": "Deny", "policy": {"uid": "forbid-prod"}}]
    assert (shown["status"], shown["status_detail"]) == ("Failure", "no rule permits it")
    assert shown["metadata"]["correlation_uid"] == "018f-req"
    assert shown["unmapped"]["task"] == "018f-txn"
    assert shown["unmapped"]["detail"] == DECISION.detail


def test_an_incident_is_valid() -> None:
    for activity in (1, 2, 3):
        line = Line(Class.INCIDENT_FINDING, activity, Severity.CRITICAL)
        shown = render_as(line, make_event("log.forked"), PRODUCER)
        assert list_faults(shown) == []
        assert shown["metadata"]["profiles"] == ["incident", "datetime"]


@pytest.mark.parametrize("type_", [one for one in EVENTS if one.startswith("evidence.")])
def test_findings_pass_the_library_of_models(type_: str) -> None:
    shown = render_activity(make_event(type_), PRODUCER)
    read = DetectionFinding.model_validate(shown)
    assert read.type_uid == shown["type_uid"]
    assert read.finding_info.title == shown["finding_info"]["title"]
    assert read.metadata.version == "1.5.0"


@pytest.mark.parametrize(
    ("weight", "severity"),
    [(20, 1), (-5, 2), (-20, 3), (-50, 4), (-100, 4), (None, 1), ("much", 1)],
)
def test_evidence_is_as_severe_as_it_weighs(weight: object, severity: int) -> None:
    one = replace(make_event("evidence.added"), detail={"id": "e", "kind": "k", "weight": weight})
    assert render_activity(one, PRODUCER)["severity_id"] == severity


def test_what_a_later_version_wrote_is_told_too() -> None:
    shown = render_activity(make_event("cable.cut"), PRODUCER)
    assert list_faults(shown) == []
    assert (shown["class_uid"], shown["activity_name"]) == (3004, "cable.cut")
    assert classify_event("cable.cut").type_uid == 300499


def test_actions_are_told_by_their_verb() -> None:
    assert classify_decision("orders.Delete", allowed=True).type_uid == 600304
    assert classify_decision("read", allowed=False).severity is Severity.LOW
    assert classify_decision("approve", allowed=True).type_uid == 600399


def test_who_was_taken_out_stays_out() -> None:
    one = replace(EVENT, actor="", subject="", reason="", source="", detail={}, redacted=True)
    for type_ in EVENTS:
        shown = render_activity(replace(one, action=type_), PRODUCER)
        assert list_faults(shown) == []
        assert shown["metadata"]["labels"] == ["redacted"]
        assert "payments" not in json.dumps(shown)


_words = st.text(max_size=30) | st.sampled_from(
    ["spiffe://a/b", "spiffe://", "uid:0", "[::1]:99999", "1.2.3.4:x", "[", "::1%eth0", "=1+1", "é"]
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=5,
)
_keys = st.sampled_from(
    [
        "name",
        "jti",
        "kid",
        "scope",
        "audiences",
        "expires_at",
        "weight",
        "id",
        "kind",
        "policies",
        "resource_type",
        "resource_id",
        "subject_type",
    ]
)


@given(
    kind=st.sampled_from(["event", "decision"]),
    action=st.sampled_from(sorted(EVENTS)) | _words,
    fields=st.fixed_dictionaries(
        dict.fromkeys(("id", "outcome", "actor", "subject", "resource", "source", "reason"), _words)
    ),
    detail=st.dictionaries(_keys, _values, max_size=6),
    at=st.datetimes(timezones=st.just(UTC)),
)
def test_whatever_is_recorded_is_told_validly(
    kind: str, action: str, fields: dict[str, Any], detail: dict[str, Any], at: datetime
) -> None:
    one = Activity(kind=kind, action=action, at=at, detail=detail, **fields)
    assert list_faults(render_activity(one, PRODUCER)) == []


def test_the_page_has_the_same_table() -> None:
    page = (EVENTS_PAGE.parent / "ocsf.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.+) \| (.+) \| (\d+) \| (\w+) \|$", page, re.MULTILINE)
    shown = {
        name: (kind, activity, int(uid), severity) for name, kind, activity, uid, severity in rows
    }
    assert shown == {
        name: (
            CAPTIONS[line.class_],
            line.attributes["activity_name"],
            line.type_uid,
            line.attributes["severity"],
        )
        for name, line in EVENTS.items()
    }
