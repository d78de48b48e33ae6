from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.wire.cef import escape_header, escape_value, render_cef
from troth.wire.ocsf.render import Activity, Producer, render_activity

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
PRODUCER = Producer("example.org", "1.2.3")
KEY = re.compile(r"(?:^| )(\w+)=")


def make(**changes: Any) -> Activity:
    values: dict[str, Any] = {
        "kind": "event",
        "id": "4711",
        "at": AT,
        "action": "identity.quarantined",
        "outcome": "success",
        "actor": "uid:0",
        "subject": "spiffe://example.org/payments",
        "request_id": "req_1",
        "source": "10.0.0.7:443",
        "reason": "it misbehaved",
        "detail": {"name": "payments"},
    }
    return Activity(**values | changes)


def render(**changes: Any) -> str:
    return render_cef(render_activity(make(**changes), PRODUCER), "troth.example.org").decode()


def parse(line: str) -> tuple[list[str], dict[str, str]]:
    """As ArcSight's document says: seven fields, then pairs."""
    *head, extension = re.split(r"(?<!\\)(?:\\\\)*\|", line, maxsplit=7)
    places = list(KEY.finditer(re.sub(r"\\.", "__", extension)))
    ends = [place.start() for place in places[1:]] + [len(extension)]
    pairs = {
        place[1]: extension[place.end() : end] for place, end in zip(places, ends, strict=True)
    }
    return head, pairs


def unescape(value: str) -> str:
    words = {"\\\\": "\\", "\\=": "=", "\\n": "\n", "\\r": "\r"}
    return re.sub(r"\\.", lambda match: words[match[0]], value)


def test_an_event_has_its_place_in_every_field():
    head, pairs = parse(render())
    assert head == [
        "CEF:0",
        "troth",
        "troth",
        "1.2.3",
        "identity.quarantined",
        "Account Change: Lock",
        "8",
    ]
    assert pairs == {
        "rt": "1767268800000",
        "externalId": "example.org:4711",
        "deviceExternalId": "example.org",
        "dvchost": "troth.example.org",
        "cat": "Account Change",
        "act": "identity.quarantined",
        "outcome": "success",
        "reason": "it misbehaved",
        "suid": "uid:0",
        "duid": "spiffe://example.org/payments",
        "duser": "payments",
        "src": "10.0.0.7",
        "spt": "443",
        "cs1": "req_1",
        "cs1Label": "requestId",
        "cs6": '{"name":"payments"}',
        "cs6Label": "detail",
        "msg": "identity.quarantined: spiffe://example.org/payments, by uid:0",
    }


def test_it_is_known_again_by_the_name_that_its_receiver_has_for_it():
    uid = f"{2**63 - 1}-{'f' * 16}"
    assert parse(render(uid=uid))[1]["externalId"] == uid


def test_a_decision_names_its_policies_and_who_asked():
    line = render(
        kind="decision",
        id="dec_1",
        action="orders:read",
        outcome="failure",
        actor="spiffe://example.org/gateway",
        resource="orders",
        source="2001:db8::1",
        task="txn-9",
        detail={"policies": ["a", "b"], "resource_type": "order", "resource_id": "7"},
    )
    head, pairs = parse(line)
    assert head[4:] == ["decision", "API Activity: orders:read", "3"]
    assert pairs["externalId"] == "dec_1"
    assert (pairs["act"], pairs["outcome"]) == ("orders:read", "failure")
    assert (pairs["c6a2"], pairs["c6a2Label"]) == ("2001:db8::1", "Source IPv6 Address")
    assert pairs["cs2"] == "orders"
    assert pairs["cs3"] == "txn-9"
    assert pairs["cs4"] == "spiffe://example.org/gateway"
    assert pairs["cs5"] == "a b"
    assert "src" not in pairs


def test_what_is_redacted_says_so_and_no_more():
    _, pairs = parse(render(actor="", subject="", detail={}, reason="", source="", redacted=True))
    assert (pairs["suid"], pairs["duid"]) == ("redacted", "redacted")
    assert "src" not in pairs


@pytest.mark.parametrize(
    ("text", "header", "value"),
    [
        ("a|b", "a\\|b", "a|b"),
        ("a\\b", "a\\\\b", "a\\\\b"),
        ("a=b", "a=b", "a\\=b"),
        ("a\nb\rc", "a b c", "a\\nb\\rc"),
        ("a\x00\x1b\x7f\u2028b", "a    b", "a    b"),
    ],
)
def test_what_has_a_meaning_is_escaped(text, header, value):
    assert escape_header(text) == header
    assert escape_value(text) == value


def test_what_is_longer_than_the_dictionary_allows_is_cut():
    _, pairs = parse(render(reason="r" * 5000, detail={"x": "y" * 9000}))
    assert len(pairs["reason"]) == 1023
    assert len(pairs["cs6"]) == 4000


# What surrogates and spaces around values become is told elsewhere.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(texts, texts, texts, texts, st.dictionaries(texts, texts, max_size=3))
def test_whatever_is_in_it_it_is_one_line_that_can_be_taken_apart(
    subject, reason, actor, request, detail
):
    line = render(subject=subject, reason=reason, actor=actor, request_id=request, detail=detail)
    assert not re.search(r"[\x00-\x1f\x7f\u2028\u2029]", line)
    head, pairs = parse(line)
    assert len(head) == 7
    allowed = {"rt", "externalId", "deviceExternalId", "dvchost", "cat", "act", "outcome", "msg"}
    allowed |= {"reason", "suid", "suser", "duid", "duser", "src", "spt", "c6a2", "c6a2Label"}
    allowed |= {f"cs{number}{label}" for number in range(1, 7) for label in ("", "Label")}
    assert pairs.keys() <= allowed, "nobody adds a field of their own"
    plain = re.sub(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]", " ", reason)
    if plain.strip() and plain == plain.strip():
        assert unescape(pairs["reason"]) == plain[:1023]
