"""Spans in OTLP's JSON, against the protobuf definition and against what the standard shows."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.collector import read_request
from troth.core.tracing import Kind, TraceContext, Value
from troth.wire.otlp import render_span, render_spans

PLACE = TraceContext(0x5B8EFFF798038103D269B633813FC60C, 0xEEE19B7EC3C1B174, True)
ABOVE = TraceContext(PLACE.trace_id, 0xEEE19B7EC3C1B173, True)
OTHER = TraceContext(0xA1, 0xB2, False)


def render(**more: Any) -> bytes:
    span = render_span(PLACE, "issue", Kind.SERVER, start=1544712660000000000, end=2**63, **more)
    return render_spans([span], scope="troth", resource={"service.name": "troth-server"})


def test_a_whole_span_as_the_standard_writes_it():
    body = render(parent=ABOVE, parent_is_remote=True, links=[OTHER], failed=True)
    assert json.loads(body) == {
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [
                        {"key": "service.name", "value": {"stringValue": "troth-server"}}
                    ]
                },
                "scopeSpans": [
                    {
                        "scope": {"name": "troth"},
                        "spans": [
                            {
                                "traceId": "5b8efff798038103d269b633813fc60c",
                                "spanId": "eee19b7ec3c1b174",
                                "parentSpanId": "eee19b7ec3c1b173",
                                "flags": 0x301,  # sampled, and its parent is known to be remote
                                "name": "issue",
                                "kind": 2,
                                "startTimeUnixNano": "1544712660000000000",
                                "endTimeUnixNano": "9223372036854775808",
                                "links": [
                                    {
                                        "traceId": "0" * 30 + "a1",
                                        "spanId": "0" * 14 + "b2",
                                        "flags": 0x300,
                                    }
                                ],
                                "status": {"code": 2},
                            }
                        ],
                    }
                ],
            }
        ]
    }
    read_request(body)


values = st.text() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats()


@given(
    name=st.text(),
    kind=st.sampled_from(Kind),
    attributes=st.dictionaries(st.text(), values, max_size=5),
    ids=st.tuples(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans()),
    times=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    failed=st.booleans(),
)
def test_the_definition_reads_what_was_meant(
    name: str,
    kind: Kind,
    attributes: dict[str, Value],
    ids: tuple[int, int, bool],
    times: tuple[int, int],
    failed: bool,
):
    place = TraceContext(*ids)
    made = render_span(
        place,
        name,
        kind,
        start=times[0],
        end=times[1],
        parent=place,
        attributes=attributes,
        links=[place],
        failed=failed,
    )
    request = read_request(render_spans([made], scope="troth", resource=attributes))
    (group,) = request.resource_spans
    (scope,) = group.scope_spans
    (span,) = scope.spans
    (link,) = span.links
    trace_id, span_id = ids[0].to_bytes(16, "big"), ids[1].to_bytes(8, "big")
    assert (span.trace_id, span.span_id, span.parent_span_id) == (trace_id, span_id, span_id)
    assert (link.trace_id, link.span_id, link.flags & 1) == (trace_id, span_id, int(ids[2]))
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == times
    assert (span.name, span.flags & 1, scope.scope.name) == (name, int(ids[2]), "troth")
    names = {Kind.INTERNAL: 1, Kind.SERVER: 2, Kind.CLIENT: 3}
    assert (span.kind, span.status.code) == (names[kind], 2 if failed else 0)
    for found in (span.attributes, group.resource.attributes):
        read = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in found}
        assert read.keys() == attributes.keys()
        for key, value in attributes.items():
            assert type(read[key]) is type(value)
            nan = isinstance(value, float) and math.isnan(value)
            assert math.isnan(read[key]) if nan else read[key] == value


@pytest.mark.parametrize(
    ("ours", "wrong"),
    [
        ("resourceSpans", "resource_spans"),
        ("spanId", "spanIdentifier"),
        ('"kind":2', '"kind":"SPAN_KIND_SERVER"'),
        ('"1544712660000000000"', "1544712660000000000"),
        ("eee19b7ec3c1b174", "7uGbfsPBsXQ="),
    ],
)
def test_the_collector_of_the_tests_takes_nothing_else(ours: str, wrong: str):
    body = render().decode()
    assert ours in body
    with pytest.raises((AssertionError, ValueError, json_format.Error)):
        read_request(body.replace(ours, wrong).encode())
