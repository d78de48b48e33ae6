from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.fakes.collector import read_request
from troth.core.errors import Invalid
from troth.wire.otlp_logs import read_rejections, render_record, render_records

AT = datetime(2026, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)


def test_a_record_is_what_the_protocol_s_definition_says():
    record = render_record(AT, 4, "identity.quarantined", '{"a":"ö"}', "7-ab", {"n": 1})
    body = render_records([record], scope="troth", resource={"service.name": "troth-server"})
    (group,) = read_request(body, "logs").resource_logs
    assert group.resource.attributes[0].value.string_value == "troth-server"
    (scope,) = group.scope_logs
    assert scope.scope.name == "troth"
    (found,) = scope.log_records
    assert found.time_unix_nano == found.observed_time_unix_nano == 1_767_268_800_123_456_000
    assert (found.severity_number, found.severity_text) == (17, "ERROR")
    assert found.body.string_value == '{"a":"ö"}'
    assert found.event_name == "identity.quarantined"
    attributes = {one.key: one.value for one in found.attributes}
    assert attributes["log.record.uid"].string_value == "7-ab"
    assert attributes["n"].int_value == 1


def test_severities_are_those_of_the_data_model():
    found = [render_record(AT, one, "a.bed", "", "1", {}) for one in (1, 2, 3, 4, 5, 9)]
    assert [one.severity_number for one in found] == [9, 10, 13, 17, 21, 9]


@pytest.mark.parametrize(
    ("body", "count", "words"),
    [
        (b"{}", 0, ""),
        (b'{"partialSuccess":{}}', 0, ""),
        (b'{"partialSuccess":null}', 0, ""),
        (b'{"partialSuccess":{"errorMessage":"take care"},"more":1}', 0, "take care"),
        (b'{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"full"}}', 3, "full"),
        (b'{"partialSuccess":{"rejectedLogRecords":2}}', 2, ""),
    ],
)
def test_what_a_collector_refused_is_counted(body, count, words):
    assert read_rejections(body) == (count, words)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"partialSuccess":3}',
        b'{"partialSuccess":{"rejectedLogRecords":"many"}}',
        b"\xff",
        b'{"partialSuccess":{"rejectedLogRecords":' + b"9" * 5000 + b"}}",
    ],
)
def test_another_answer_is_none_of_a_collector(body):
    with pytest.raises(Invalid):
        read_rejections(body)
