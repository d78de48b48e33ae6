"""OTLP: spans as an OpenTelemetry collector takes them, in JSON.

Source: OpenTelemetry Protocol Specification 1.x, section "JSON Protobuf Encoding": the names are
those of opentelemetry/proto/trace/v1/trace.proto in lowerCamelCase, ids are hexadecimal, enums are
numbers and 64-bit integers are decimal strings. JSON needs no message classes, which every package
that brings them wants to have in the same place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from troth.core.tracing import Kind, TraceContext, Value

MEDIA_TYPE = "application/json"
PATH = "/v1/traces"

_KINDS = {Kind.INTERNAL: 1, Kind.SERVER: 2, Kind.CLIENT: 3}
_STATUS_ERROR = 2
_SAMPLED = 0x1
_KNOWN_WHETHER_REMOTE = 0x100
_REMOTE = 0x200


class Message(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True, gc=False):
    """What has its default value is left out, as protobuf does."""


class AnyValue(Message, frozen=True):
    """Exactly one of these."""

    string_value: str | None = None
    bool_value: bool | None = None
    int_value: str | None = None
    double_value: float | str | None = None


class KeyValue(Message, frozen=True):
    """An attribute."""

    key: str
    value: AnyValue


class Link(Message, frozen=True):
    """Another span that this one serves too."""

    trace_id: str
    span_id: str
    flags: int


class Status(Message, frozen=True):
    """Nothing, or an error."""

    code: int = 0


class Span(Message, frozen=True):
    """One span that is over. Times are nanoseconds since 1970."""

    trace_id: str
    span_id: str
    flags: int
    name: str
    kind: int
    start_time_unix_nano: str
    end_time_unix_nano: str
    parent_span_id: str = ""
    attributes: tuple[KeyValue, ...] = ()
    links: tuple[Link, ...] = ()
    status: Status = Status()


class Scope(Message, frozen=True):
    """What made the spans."""

    name: str


class ScopeSpans(Message, frozen=True):
    """Spans of one maker."""

    scope: Scope
    spans: Sequence[Span]


class Resource(Message, frozen=True):
    """The process that they come from."""

    attributes: tuple[KeyValue, ...]


class ResourceSpans(Message, frozen=True):
    """Spans of one process."""

    resource: Resource
    scope_spans: tuple[ScopeSpans, ...]


class ExportTraceServiceRequest(Message, frozen=True):
    """What is posted to `PATH`."""

    resource_spans: tuple[ResourceSpans, ...]


def render_span(
    place: TraceContext,
    name: str,
    kind: Kind,
    *,
    start: int,
    end: int,
    parent: TraceContext | None = None,
    parent_is_remote: bool = False,
    attributes: Mapping[str, Value] | None = None,
    links: Sequence[TraceContext] = (),
    failed: bool = False,
) -> Span:
    """The span at `place`, from `start` to `end`, in nanoseconds since 1970."""
    return Span(
        trace_id=f"{place.trace_id:032x}",
        span_id=f"{place.span_id:016x}",
        flags=_render_flags(place, remote=parent_is_remote),
        name=name,
        kind=_KINDS[kind],
        start_time_unix_nano=str(start),
        end_time_unix_nano=str(end),
        parent_span_id="" if parent is None else f"{parent.span_id:016x}",
        attributes=render_attributes(attributes or {}),
        links=tuple(
            Link(f"{link.trace_id:032x}", f"{link.span_id:016x}", _render_flags(link, remote=True))
            for link in links
        ),
        status=Status(_STATUS_ERROR) if failed else Status(),
    )


def render_spans(spans: Sequence[Span], *, scope: str, resource: Mapping[str, Value]) -> bytes:
    """The body of a request that hands `spans` over; `resource` says whose they are."""
    group = ResourceSpans(Resource(render_attributes(resource)), (ScopeSpans(Scope(scope), spans),))
    return msgspec.json.encode(ExportTraceServiceRequest((group,)))


def render_attributes(values: Mapping[str, Value]) -> tuple[KeyValue, ...]:
    """Attributes by their names."""
    return tuple(KeyValue(key, _render_value(value)) for key, value in values.items())


def _render_value(value: Value) -> AnyValue:
    match value:
        case bool():  # before int: a bool is one
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=str(value))
        case float():
            return AnyValue(double_value=value if math.isfinite(value) else _name_float(value))
        case str():
            return AnyValue(string_value=value)


def _name_float(value: float) -> str:
    # Protobuf's JSON mapping: these aren't numbers in JSON.
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _render_flags(place: TraceContext, *, remote: bool) -> int:
    sampled = _SAMPLED if place.sampled else 0
    return sampled | _KNOWN_WHETHER_REMOTE | (_REMOTE if remote else 0)
