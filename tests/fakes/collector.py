"""An OpenTelemetry collector: takes OTLP over HTTP and keeps what it decodes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Seen:
    """One span as it came."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start: int
    end: int
    attributes: dict[str, Any]
    links: list[str]
    failed: bool


@dataclass
class Collector:
    """The spans received, with the headers of the requests that brought them."""

    url: str = ""
    spans: list[Seen] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200

    def named(self, name: str) -> list[Seen]:
        """All spans of that name."""
        return [span for span in self.spans if span.name == name]

    def path(self, span: Seen) -> list[str]:
        """The names from the root of the trace to `span`."""
        known = {(other.trace_id, other.span_id): other for other in self.spans}
        names = [span.name]
        while (above := known.get((span.trace_id, span.parent_id))) is not None:
            names.insert(0, above.name)
            span = above
        assert not span.parent_id, f"{names[0]} hangs on a span that never came"
        return names

    def take(self, body: bytes) -> None:
        """Decode one request."""
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            words = {a.key: a.value.string_value for a in group.resource.attributes}
            for scope in group.scope_spans:
                self.spans += [_read(span, words["service.name"]) for span in scope.spans]


def _read(span: Any, service: str) -> Seen:
    values = {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}
    return Seen(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=values,
        links=[link.trace_id.hex() for link in span.links],
        failed=span.status.code == 2,  # STATUS_CODE_ERROR
    )


@contextmanager
def run_collector() -> Iterator[Collector]:
    """A collector on a port of its own."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            assert self.headers["content-type"] == "application/x-protobuf"
            collector.headers.append({k.lower(): v for k, v in self.headers.items()})
            if collector.status == 200:
                collector.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
