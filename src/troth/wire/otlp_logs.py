"""OTLP: log records as an OpenTelemetry collector takes them, in JSON.

Source: as `troth.wire.otlp`; the names are those of opentelemetry/proto/logs/v1/logs.proto and
opentelemetry/proto/collector/logs/v1/logs_service.proto. Severities: OpenTelemetry, "Logs Data
Model", "Field: SeverityNumber". A record's id is the attribute ``log.record.uid`` (Semantic
Conventions, "General logs attributes"): with the same one, it is the same record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from troth.core.errors import Invalid
from troth.core.tracing import Value
from troth.wire.otlp import AnyValue, KeyValue, Message, Resource, Scope, render_attributes

PATH = "/v1/logs"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SEVERITIES = {
    1: (9, "INFO"),
    2: (10, "INFO2"),
    3: (13, "WARN"),
    4: (17, "ERROR"),
    5: (21, "FATAL"),
}
"""OCSF's ``severity_id`` → number and text."""


class LogRecord(Message, frozen=True):
    """One record. Times are nanoseconds since 1970."""

    time_unix_nano: str
    observed_time_unix_nano: str
    severity_number: int
    severity_text: str
    body: AnyValue
    attributes: tuple[KeyValue, ...]
    event_name: str


class ScopeLogs(Message, frozen=True):
    """Records of one maker."""

    scope: Scope
    log_records: Sequence[LogRecord]


class ResourceLogs(Message, frozen=True):
    """Records of one process."""

    resource: Resource
    scope_logs: tuple[ScopeLogs, ...]


class ExportLogsServiceRequest(Message, frozen=True):
    """What is posted to `PATH`."""

    resource_logs: tuple[ResourceLogs, ...]


class PartialSuccess(msgspec.Struct, rename="camel", frozen=True):
    """How many records weren't taken, and why. 64-bit integers may come as text."""

    rejected_log_records: int | str = 0
    error_message: str = ""


class ExportLogsServiceResponse(msgspec.Struct, rename="camel", frozen=True):
    """What a collector answers."""

    partial_success: PartialSuccess | None = None


def render_record(
    at: datetime, severity: int, name: str, body: str, uid: str, attributes: Mapping[str, Value]
) -> LogRecord:
    """A record of what happened at `at`, as severe as OCSF's `severity` says."""
    moment = str((at - _EPOCH) // _MICROSECOND * 1000)
    number, text = _SEVERITIES.get(severity, _SEVERITIES[1])
    return LogRecord(
        time_unix_nano=moment,
        observed_time_unix_nano=moment,
        severity_number=number,
        severity_text=text,
        body=AnyValue(string_value=body),
        attributes=render_attributes({"log.record.uid": uid, **attributes}),
        event_name=name,
    )


def render_records(
    records: Sequence[LogRecord], *, scope: str, resource: Mapping[str, Value]
) -> bytes:
    """The body of a request that hands `records` over; `resource` says whose they are."""
    group = ResourceLogs(Resource(render_attributes(resource)), (ScopeLogs(Scope(scope), records),))
    return msgspec.json.encode(ExportLogsServiceRequest((group,)))


def read_rejections(body: bytes) -> tuple[int, str]:
    """How many records a collector refused although it answered with success, and its words;
    `Invalid` if that is no answer of a collector."""
    try:
        found = msgspec.json.decode(body, type=ExportLogsServiceResponse).partial_success
        return (0, "") if found is None else (int(found.rejected_log_records), found.error_message)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Invalid("The answer is none of an OTLP receiver.") from error
