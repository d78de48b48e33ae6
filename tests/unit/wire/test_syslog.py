from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from troth.wire.syslog import (
    LARGEST_HEAD,
    SyslogMessage,
    frame_message,
    render_data,
    render_message,
)

# RFC 5424, section 6: the grammar, for the fields that we fill.
NAME = rb"[!#-<>-\\^-~]{1,32}"
VALUE = rb'(?:[^"\\\]]|\\["\\\]])*'
GRAMMAR = re.compile(
    rb"<(\d{1,3})>1 "
    rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z "
    rb"[!-~]{1,255} [!-~]{1,48} - [!-~]{1,32} "
    rb"(-|(?:\[" + NAME + rb"(?: " + NAME + rb'="' + VALUE + rb'")*\])+) '
    rb"(\xef\xbb\xbf)?(.*)",
    re.DOTALL,
)


def make(**changes: Any) -> SyslogMessage:
    values: dict[str, Any] = {
        "at": datetime(2026, 1, 1, 12, 0, 0, 7, tzinfo=UTC),
        "severity": 1,
        "host": "troth.example.org",
        "app": "troth",
        "kind": "identity.registered",
        "content": b"{}",
    }
    return SyslogMessage(**values | changes)


def test_a_message_has_all_fields_in_their_order():
    message = make(data={"origin": {"software": "troth", "swVersion": "1.2"}})
    assert render_message(message) == (
        b"<110>1 2026-01-01T12:00:00.000007Z troth.example.org troth - identity.registered "
        b'[origin software="troth" swVersion="1.2"] {}'
    )


def test_severities_become_those_of_syslog():
    heads = [render_message(make(severity=one))[:5] for one in (1, 2, 3, 4, 5, 77)]
    assert heads == [b"<110>", b"<109>", b"<108>", b"<107>", b"<106>", b"<109>"]


def test_times_are_utc():
    east = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert b" 2025-12-31T19:30:00.000000Z " in b" " + render_message(make(at=east))[6:]


def test_text_that_isn_t_ascii_begins_with_the_byte_order_mark():
    assert render_message(make(content="ö".encode())).endswith(b" - \xef\xbb\xbf\xc3\xb6")
    assert b"\xef\xbb\xbf" not in render_message(make(content=b"o"))


def test_values_of_structured_data_are_escaped():
    data = {"origin": {"software": 'a"b\\c]d', "x y=": "ö"}, "": {}}
    assert render_data(data) == '[origin software="a\\"b\\\\c\\]d" x?y?="ö"][?]'
    assert render_data({}) == "-"


def test_a_frame_counts_octets():
    assert frame_message("ö".encode()) == b"2 \xc3\xb6"
    assert frame_message(b"") == b"0 "


@given(
    host=st.text(),
    app=st.text(),
    kind=st.text(),
    severity=st.integers(),
    content=st.binary(max_size=50),
    data=st.dictionaries(st.text(), st.dictionaries(st.text(), st.text()), max_size=3),
)
def test_whatever_is_in_it_it_is_one_message_of_the_grammar(
    host, app, kind, severity, content, data
):
    message = make(host=host, app=app, kind=kind, severity=severity, content=content, data=data)
    match = GRAMMAR.fullmatch(render_message(message))
    assert match
    assert 104 <= int(match[1]) <= 111
    assert match[4] == content


def test_what_stands_before_the_content_has_its_room():
    message = make(
        host="h" * 999,
        app="a" * 99,
        kind="k" * 99,
        content="ö".encode(),
        data={"origin": {"software": "troth", "swVersion": "1" * 32}},
    )
    assert len(render_message(message)) - 2 <= LARGEST_HEAD
