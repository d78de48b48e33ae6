"""An OpenTelemetry collector: takes OTLP over HTTP in JSON and keeps what it decodes.

What comes is read by the protobuf definition itself, and strictly: a name that it doesn't have, a
number that doesn't fit or anything that a receiver may take otherwise fails the request.
"""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

DEFINITIONS = Path(__file__).resolve().parents[1] / "vectors" / "otlp"
REQUESTS = {
    "trace": "opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest",
    "logs": "opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest",
}
IDS = {"traceId": 32, "spanId": 16, "parentSpanId": 16}
"""Bytes that OTLP writes in hexadecimal and protobuf in base64, with their digits."""
LONG = (
    "startTimeUnixNano",
    "endTimeUnixNano",
    "timeUnixNano",
    "observedTimeUnixNano",
    "intValue",
)
ENUMS = ("kind", "code", "severityNumber")


@cache
def _read_definition(name: str) -> type[Message]:
    # A pool of its own: xds-protos registers an older definition under the same names.
    pool = descriptor_pool.DescriptorPool()
    text = (DEFINITIONS / f"{name}.json").read_text(encoding="utf-8")
    for file in json_format.Parse(text, descriptor_pb2.FileDescriptorSet()).file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(REQUESTS[name]))


def read_request(body: bytes, name: str = "trace") -> Any:
    """The request of `REQUESTS` in `body`; fails where OTLP's JSON differs from it."""
    return json_format.ParseDict(_translate(json.loads(body)), _read_definition(name)())


def _translate(value: Any) -> Any:
    """`value` in protobuf's own JSON; holds that it is in OTLP's."""
    if isinstance(value, list):
        return [_translate(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {}
    for name, item in value.items():
        assert "_" not in name, f"{name} isn't in lowerCamelCase"
        if name in IDS:
            assert len(item) == IDS[name], f"{name}: {item}"
            made[name] = b64encode(bytes.fromhex(item)).decode()
            continue
        assert name not in ENUMS or type(item) is int, f"{name} is a number: {item!r}"
        assert name not in LONG or type(item) is str, f"{name} is a decimal string: {item!r}"
        made[name] = _translate(item)
    return made


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
    """The spans received, with the headers of the requests that brought them.

    `problems` are requests that no collector would take; a test that uses one fails with them.
    """

    url: str = ""
    spans: list[Seen] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    problems: list[str] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)

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
        for group in read_request(body).resource_spans:
            words = {a.key: a.value.string_value for a in group.resource.attributes}
            for scope in group.scope_spans:
                assert scope.scope.name == "troth"
                self.spans += [_read(span, words["service.name"]) for span in scope.spans]
        self.arrived.set()


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
            collector.headers.append({k.lower(): v for k, v in self.headers.items()})
            try:
                assert self.path == "/v1/traces"
                assert self.headers["content-type"] == "application/json"
                if collector.status == 200:
                    collector.take(body)
            except (AssertionError, ValueError, json_format.Error) as error:
                collector.problems.append(repr(error))
                self._answer(400)
                return
            self._answer(collector.status)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

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
    assert not collector.problems
