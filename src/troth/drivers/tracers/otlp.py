"""Spans to an OpenTelemetry collector: OTLP over HTTP in JSON, sent from a thread.

The queue is bounded and forgets its oldest spans; nobody ever waits for the collector. Source:
OTLP Specification 1.x, section "OTLP/HTTP"; W3C Trace Context.
"""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from datetime import UTC, datetime, timedelta
from types import TracebackType

import httpx
import structlog

from troth.core.clock import Clock
from troth.core.entropy import Entropy
from troth.core.errors import TrothError
from troth.core.tracing import NO_SPAN, Kind, Span, TraceContext, Value
from troth.drivers.tracers import Telemetry
from troth.wire import otlp

QUEUE = 4096
"""Spans that wait for the collector; then the oldest are forgotten."""
BATCH = 512
PERIOD_SECONDS = 2.0
TIMEOUT_SECONDS = 3.0
LINKS = 128
"""Links that a span has at most; a collector may refuse more."""
OUR_FAULT = ("internal", "unavailable")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CHANCES = 1 << 64

log = structlog.get_logger(__name__)


def open_tracer(
    telemetry: Telemetry, *, service: str, version: str, clock: Clock, entropy: Entropy
) -> OtlpTracer:
    """A tracer that sends to `telemetry.endpoint`; starts a thread."""
    resource = {
        "service.name": service,
        "service.version": version,
        "service.instance.id": entropy.token(8).hex(),
    }
    outbox = Outbox(Shipper(telemetry, resource))
    return OtlpTracer(outbox, clock, entropy, telemetry.sample_ratio)


class Shipper:
    """Posts batches. What the collector doesn't take is lost: the log says so, once an outage."""

    def __init__(
        self,
        telemetry: Telemetry,
        resource: Mapping[str, Value],
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = telemetry.endpoint + otlp.PATH
        self._resource = resource
        secure = self._url.startswith("https:")
        self._http = httpx.Client(
            headers={**telemetry.headers, "content-type": otlp.MEDIA_TYPE},
            verify=ssl.create_default_context() if secure else False,
            timeout=TIMEOUT_SECONDS,
            trust_env=False,  # no proxies from the environment
            follow_redirects=False,
            transport=transport,
        )
        self._failing = self._closing = False
        self._lost = 0

    def export(self, spans: Sequence[otlp.Span]) -> None:
        """Send one batch; called in the outbox's thread. Never raises."""
        if self._closing and self._failing:
            return  # nobody is there, and troth wants to stop
        try:
            body = otlp.render_spans(spans, scope="troth", resource=self._resource)
            # The answer's body is never read, however long it is.
            with self._http.stream("POST", self._url, content=body) as answer:
                reason = "" if answer.is_success else f"it answered {answer.status_code}"
        except Exception as error:  # noqa: BLE001 - tracing may never break what it watches
            reason = type(error).__name__
        if reason:
            if not self._failing:
                log.warning("telemetry.not_exported", reason=reason, spans=len(spans))
            self._failing = True
            self._lost += len(spans)
        elif self._failing:
            log.info("telemetry.exported_again", lost=self._lost)
            self._failing, self._lost = False, 0

    def stop_waiting(self) -> None:
        """From now on one failure is enough."""
        self._closing = True

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class Outbox:
    """Spans that wait, and the thread that hands them over in batches."""

    def __init__(self, shipper: Shipper) -> None:
        self._shipper = shipper
        self._waiting: deque[otlp.Span] = deque(maxlen=QUEUE)
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def put(self, span: otlp.Span) -> None:
        """Have it sent within seconds, or forgotten."""
        with self._changed:
            self._waiting.append(span)
            if len(self._waiting) == BATCH:
                self._changed.notify()

    def close(self) -> None:
        """Send what is left, for as long as the collector answers, and no longer than it may
        take for one batch. Again is no error."""
        self._shipper.stop_waiting()
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(TIMEOUT_SECONDS)

    def _run(self) -> None:
        while batch := self._take():
            self._shipper.export(batch)
        self._shipper.close()

    def _take(self) -> list[otlp.Span]:
        """The next batch, when it is full or its time has come; empty only at the end."""
        with self._changed:
            while not self._closing and len(self._waiting) < BATCH:
                if not self._changed.wait(PERIOD_SECONDS) and self._waiting:
                    break
            return [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]


class OtlpTracer:
    """Implements `Tracer`. Time comes from `clock` alone, ids from `entropy`."""

    enabled = True

    def __init__(self, outbox: Outbox, clock: Clock, entropy: Entropy, ratio: float) -> None:
        self._outbox = outbox
        self._clock = clock
        self._entropy = entropy
        self._chances = round(ratio * _CHANCES)
        self._present: ContextVar[_Span | None] = ContextVar("troth_span", default=None)

    def span(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        *,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
    ) -> AbstractContextManager[Span]:
        """A span that begins now; see `Tracer.span`."""
        above = self.current() if parent is None else parent
        made = _Span(self, self._place(above), name, kind, above, self._now())
        made.parent_is_remote = parent is not None
        made.links = links[:LINKS]
        return made

    def within(self, name: str, kind: Kind = Kind.INTERNAL) -> AbstractContextManager[Span]:
        """As `span`, where there is one above it."""
        return NO_SPAN if self._present.get() is None else self.span(name, kind)

    def record(self, name: str, began: float, ended: float) -> None:
        """A span that is over."""
        above = self.current()
        if above is None or not above.sampled:
            return
        now, monotonic = self._now(), self._clock.monotonic()
        start = now - round((monotonic - began) * 1e9)
        made = _Span(self, self._place(above), name, Kind.INTERNAL, above, start)
        self._outbox.put(made.render(now - round((monotonic - ended) * 1e9)))

    def current(self) -> TraceContext | None:
        """Where we are."""
        present = self._present.get()
        return None if present is None else present.place

    def detach(self) -> None:
        """Forget the present span in this task."""
        self._present.set(None)

    def close(self) -> None:
        """Send what is left, for as long as the collector answers."""
        self._outbox.close()

    def enter(self, made: _Span) -> Token[_Span | None]:
        """Make `made` the present span."""
        return self._present.set(made)

    def leave(self, made: _Span, token: Token[_Span | None]) -> None:
        """End `made` and go back to the span before it."""
        self._present.reset(token)
        if made.place.sampled:
            self._outbox.put(made.render(self._now()))

    def _place(self, above: TraceContext | None) -> TraceContext:
        """A new place below `above`, or in a trace of its own.

        Whoever calls decides for its own trace, if it may name one at all; see the server's edge.
        """
        span_id = int.from_bytes(self._entropy.token(8), "big") or 1
        if above is not None:
            return TraceContext(above.trace_id, span_id, above.sampled)
        trace_id = int.from_bytes(self._entropy.token(16), "big") or 1
        # By the id's last half, as OpenTelemetry's TraceIdRatioBased does.
        return TraceContext(trace_id, span_id, trace_id % _CHANCES < self._chances)

    def _now(self) -> int:
        """Nanoseconds since 1970."""
        return (self._clock.now() - _EPOCH) // _MICROSECOND * 1000


class _Span:
    """A span, and its own context manager."""

    __slots__ = (
        "_above",
        "_attributes",
        "_failed",
        "_kind",
        "_name",
        "_start",
        "_token",
        "_tracer",
        "links",
        "parent_is_remote",
        "place",
    )

    def __init__(
        self,
        tracer: OtlpTracer,
        place: TraceContext,
        name: str,
        kind: Kind,
        above: TraceContext | None,
        start: int,
    ) -> None:
        self._tracer = tracer
        self.place = place
        self._name = name
        self._kind = kind
        self._above = above
        self._start = start
        self.parent_is_remote = False
        self.links: Sequence[TraceContext] = ()
        self._attributes: dict[str, Value] = {}
        self._failed = False
        self._token: Token[_Span | None] | None = None

    def rename(self, name: str) -> None:
        """Call it `name`."""
        self._name = name

    def note(self, **attributes: Value) -> None:
        """Add attributes."""
        for name, value in attributes.items():
            self._attributes[_DOTTED.get(name) or name.replace("_", ".")] = value

    def render(self, end: int) -> otlp.Span:
        """What the collector gets."""
        return otlp.render_span(
            self.place,
            self._name,
            self._kind,
            start=self._start,
            end=end,
            parent=self._above,
            parent_is_remote=self.parent_is_remote,
            attributes=self._attributes,
            links=self.links,
            failed=self._failed,
        )

    def __enter__(self) -> Span:
        self._token = self._tracer.enter(self)
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
            self._failed = not isinstance(error, TrothError) or code in OUR_FAULT
        assert self._token is not None
        self._tracer.leave(self, self._token)


_DOTTED = {
    "troth_request_id": "troth.request_id",
    "http_response_status_code": "http.response.status_code",
}
"""Attributes whose last part has underscores of its own."""
