"""Spans to an OpenTelemetry collector: OTLP over HTTP with protobuf, sent from a thread.

The queue is bounded and forgets its oldest spans; nobody ever waits for the collector. Source:
OTLP Specification 1.x, section "OTLP/HTTP"; W3C Trace Context.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from datetime import UTC, datetime, timedelta
from types import TracebackType

import httpx
import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Tracer as OtelTracer

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import TrothError
from troth.core.tracing import NO_SPAN, Kind, Span, TraceContext, Value
from troth.drivers.tracers import Telemetry

PATH = "/v1/traces"
QUEUE = 4096
"""Spans that wait for the collector; then the oldest are forgotten."""
BATCH = 512
PERIOD_MILLISECONDS = 2000
TIMEOUT_SECONDS = 3.0
OUR_FAULT = ("internal", "unavailable")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_KINDS = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
}

log = structlog.get_logger(__name__)


def open_tracer(
    telemetry: Telemetry, *, service: str, version: str, clock: Clock, entropy: Entropy
) -> OtlpTracer:
    """A tracer that sends to `telemetry.endpoint`; starts a thread."""
    shipper = Shipper(telemetry)
    processor = BatchSpanProcessor(
        shipper,
        max_queue_size=QUEUE,
        schedule_delay_millis=PERIOD_MILLISECONDS,
        max_export_batch_size=BATCH,
        export_timeout_millis=TIMEOUT_SECONDS * 1000,
    )
    resource = {
        "service.name": service,
        "service.version": version,
        "service.instance.id": entropy.token(8).hex(),
    }
    provider = TracerProvider(
        # Whoever calls decides for its own trace, if it may name one at all; see the server's edge.
        sampler=ParentBased(TraceIdRatioBased(telemetry.sample_ratio)),
        resource=Resource(resource),
        shutdown_on_exit=False,
        id_generator=_Ids(entropy),
    )
    provider.add_span_processor(processor)
    return OtlpTracer(provider, clock, shipper)


class _Ids(IdGenerator):
    """Ids from the house's own entropy."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy

    def generate_span_id(self) -> int:
        return int.from_bytes(self._entropy.token(8), "big") or 1

    def generate_trace_id(self) -> int:
        return int.from_bytes(self._entropy.token(16), "big") or 1

    def is_trace_id_random(self) -> bool:
        return True


class Shipper(SpanExporter):
    """Posts batches. What the collector doesn't take is lost: the log says so, once an outage."""

    def __init__(self, telemetry: Telemetry, transport: httpx.BaseTransport | None = None) -> None:
        self._url = telemetry.endpoint + PATH
        secure = self._url.startswith("https:")
        self._http = httpx.Client(
            headers={**telemetry.headers, "content-type": "application/x-protobuf"},
            verify=ssl.create_default_context() if secure else False,
            timeout=TIMEOUT_SECONDS,
            trust_env=False,  # no proxies from the environment
            follow_redirects=False,
            transport=transport,
        )
        self._failing = self._closing = False
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch; called in the processor's thread. Never raises."""
        if self._closing and self._failing:
            return SpanExportResult.FAILURE  # nobody is there; the server wants to stop
        try:
            body = encode_spans(spans).SerializeToString()
            with self._http.stream("POST", self._url, content=body) as answer:
                reason = "" if answer.is_success else f"it answered {answer.status_code}"
        except Exception as error:  # noqa: BLE001 - tracing may never break what it watches
            reason = type(error).__name__
        if reason:
            if not self._failing:
                log.warning("telemetry.not_exported", reason=reason, spans=len(spans))
            self._failing = True
            self._lost += len(spans)
            return SpanExportResult.FAILURE
        if self._failing:
            log.info("telemetry.exported_again", lost=self._lost)
            self._failing, self._lost = False, 0
        return SpanExportResult.SUCCESS

    def stop_waiting(self) -> None:
        """From now on one failure is enough."""
        self._closing = True

    def shutdown(self) -> None:
        """Close the connections."""
        self._http.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is kept here."""
        return True


class OtlpTracer:
    """Implements `Tracer` with the SDK. Time comes from `clock` alone."""

    enabled = True

    def __init__(self, provider: TracerProvider, clock: Clock, shipper: Shipper | None) -> None:
        self._provider = provider
        self._tracer: OtelTracer = provider.get_tracer("troth")
        self._clock = clock
        self._shipper = shipper
        self._present: ContextVar[OtelSpan | None] = ContextVar("troth_span", default=None)

    def span(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        *,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
    ) -> AbstractContextManager[Span]:
        """A span that begins now; see `Tracer.span`."""
        above = self._present.get() if parent is None else NonRecordingSpan(_render(parent))
        made = self._tracer.start_span(
            name,
            _below(above),
            _KINDS[kind],
            links=[Link(_render(link)) for link in links],
            start_time=self._now(),
            record_exception=False,
            set_status_on_exception=False,
        )
        return _Scope(self, made)

    def within(self, name: str, kind: Kind = Kind.INTERNAL) -> AbstractContextManager[Span]:
        """As `span`, where there is one above it."""
        return NO_SPAN if self._present.get() is None else self.span(name, kind)

    def record(self, name: str, began: float, ended: float) -> None:
        """A span that is over."""
        above = self._present.get()
        if above is None or not above.is_recording():
            return
        now, monotonic = self._now(), self._clock.monotonic()
        start = now - round((monotonic - began) * 1e9)
        made = self._tracer.start_span(name, _below(above), start_time=start)
        made.end(now - round((monotonic - ended) * 1e9))

    def current(self) -> TraceContext | None:
        """Where we are."""
        present = self._present.get()
        if present is None:
            return None
        found = present.get_span_context()
        return TraceContext(found.trace_id, found.span_id, found.trace_flags.sampled)

    def detach(self) -> None:
        """Forget the present span in this task."""
        self._present.set(None)

    def close(self) -> None:
        """Send what is left, for as long as the collector answers."""
        if self._shipper is not None:
            self._shipper.stop_waiting()
        self._provider.shutdown()

    def enter(self, made: OtelSpan) -> Token[OtelSpan | None]:
        """Make `made` the present span."""
        return self._present.set(made)

    def leave(self, made: OtelSpan, token: Token[OtelSpan | None]) -> None:
        """End `made` and go back to the span before it."""
        self._present.reset(token)
        made.end(self._now())

    def _now(self) -> int:
        """Nanoseconds since 1970."""
        return (self._clock.now() - _EPOCH) // _MICROSECOND * 1000


class _Scope:
    """A span's context manager, and the span."""

    __slots__ = ("_made", "_token", "_tracer")

    def __init__(self, tracer: OtlpTracer, made: OtelSpan) -> None:
        self._tracer = tracer
        self._made = made
        self._token: Token[OtelSpan | None] | None = None

    def rename(self, name: str) -> None:
        """Call it `name`."""
        self._made.update_name(name)

    def note(self, **attributes: Value) -> None:
        """Add attributes."""
        if self._made.is_recording():
            for name, value in attributes.items():
                self._made.set_attribute(_DOTTED.get(name) or name.replace("_", "."), value)

    def __enter__(self) -> Span:
        self._token = self._tracer.enter(self._made)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            code = error.code if isinstance(error, TrothError) else type(error).__name__
            self.note(error_type=code)
            if not isinstance(error, TrothError) or code in OUR_FAULT:
                self._made.set_status(StatusCode.ERROR)
        assert self._token is not None
        self._tracer.leave(self._made, self._token)


_DOTTED = {
    "troth_request_id": "troth.request_id",
    "http_response_status_code": "http.response.status_code",
}
"""Attributes whose last part has underscores of its own."""


def _below(above: OtelSpan | None) -> Context:
    return Context() if above is None else set_span_in_context(above, Context())


def _render(place: TraceContext) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if place.sampled else TraceFlags.DEFAULT)
    return SpanContext(place.trace_id, place.span_id, is_remote=True, trace_flags=flags)
