"""The tracer against a real receiver of OTLP: trees, sampling, outages."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from datetime import timedelta

import httpx
import pytest
from structlog.testing import capture_logs

from tests.fakes.collector import Collector, run_collector
from troth.core.clock import VirtualClock
from troth.core.entropy import SeededEntropy
from troth.core.errors import Denied, Invalid, Unavailable
from troth.core.tracing import (
    NO_TRACER,
    Kind,
    TraceContext,
    Tracer,
    parse_traceparent,
    render_traceparent,
)
from troth.drivers.tracers import Telemetry, check_endpoint, load_tracer
from troth.drivers.tracers.otlp import BATCH, LINKS, QUEUE, OtlpTracer, Shipper

PLACE = TraceContext(0xA1 << 120, 0xB2 << 56, True)


@pytest.fixture
def collector():
    with run_collector() as collector:
        yield collector


def open_tracer(collector: Collector, ratio: float = 1.0, **headers: str) -> Tracer:
    return load_tracer(
        Telemetry(collector.url, headers, ratio),
        service="troth-test",
        version="1",
        clock=VirtualClock(),
        entropy=SeededEntropy(),
    )


def test_spans_hang_on_each_other_across_tasks_and_threads(collector: Collector):
    tracer = open_tracer(collector, authorization="Bearer x")

    async def inner() -> None:
        with tracer.span("in a task"):
            await asyncio.to_thread(sign)

    def sign() -> None:
        with tracer.within("in a thread") as span:
            span.note(keystore_signatures=3)

    async def main() -> None:
        with tracer.span("first", Kind.SERVER) as span:
            span.rename("renamed")
            await asyncio.create_task(inner())

    asyncio.run(main())
    tracer.close()
    (signed,) = collector.named("in a thread")
    assert collector.path(signed) == ["renamed", "in a task", "in a thread"]
    assert signed.attributes == {"keystore.signatures": 3}
    assert collector.headers[0]["authorization"] == "Bearer x"


def test_time_is_the_clock_s_and_parts_may_be_told_afterwards(collector: Collector):
    clock = VirtualClock()
    tracer = load_tracer(
        Telemetry(collector.url), service="t", version="1", clock=clock, entropy=SeededEntropy()
    )
    with tracer.span("whole"):
        began = clock.monotonic()
        clock.advance(timedelta(seconds=2))
        ended = clock.monotonic()
        clock.advance(timedelta(seconds=1))
        tracer.record("part", began, ended)
    tracer.record("nowhere", began, ended)
    tracer.close()
    (whole,), (part,) = collector.named("whole"), collector.named("part")
    assert not collector.named("nowhere")
    assert whole.end - whole.start == 3_000_000_000
    assert (part.start, part.end - part.start) == (whole.start, 2_000_000_000)
    assert part.parent_id == whole.span_id


def test_errors_are_noted_by_their_code_and_only_ours_are_failures(collector: Collector):
    tracer = open_tracer(collector)
    for error in (Denied("alice may not"), Unavailable("away"), ZeroDivisionError("bob")):
        with pytest.raises(type(error)), tracer.span("call"):
            raise error
    tracer.close()
    seen = {s.attributes["error.type"]: s.failed for s in collector.named("call")}
    assert seen == {"permission_denied": False, "unavailable": True, "ZeroDivisionError": True}


@pytest.mark.parametrize(("sampled", "spans"), [(True, 2), (False, 0)])
def test_a_caller_s_decision_holds_for_its_trace(collector: Collector, sampled: bool, spans: int):
    tracer = open_tracer(collector, ratio=0.0 if sampled else 1.0)
    parent = TraceContext(PLACE.trace_id, PLACE.span_id, sampled)
    with tracer.span("server", parent=parent, links=[PLACE]):
        place = tracer.current()
        assert place is not None
        assert (place.trace_id, place.sampled) == (PLACE.trace_id, sampled)
        with tracer.within("inner"):
            pass
    with tracer.span("own"):  # decided by the ratio alone
        assert tracer.current() is not None
    tracer.close()
    assert len([s for s in collector.spans if s.name != "own"]) == spans
    assert len(collector.named("own")) == (0 if sampled else 1)
    for span in collector.named("server"):
        assert span.links == [f"{PLACE.trace_id:032x}"]


def test_half_of_the_traces_are_kept_where_half_is_asked_for(collector: Collector):
    tracer = open_tracer(collector, ratio=0.5)
    kept = 0
    for _ in range(400):
        with tracer.span("own"), tracer.span("below"):
            place = tracer.current()
            assert place is not None
            kept += place.sampled
    tracer.close()
    assert 150 < kept < 250
    assert len(collector.named("own")) == len(collector.named("below")) == kept


def test_a_span_has_no_more_links_than_a_collector_takes(collector: Collector):
    tracer = open_tracer(collector)
    with tracer.span("batch", links=[PLACE] * 1000):
        pass
    tracer.close()
    (batch,) = collector.named("batch")
    assert len(batch.links) == LINKS


def test_a_full_batch_goes_at_once_and_as_one_request(collector: Collector):
    tracer = open_tracer(collector)
    for _ in range(BATCH):
        with tracer.span("full"):
            pass
    assert collector.arrived.wait(10)
    assert len(collector.named("full")) == BATCH
    tracer.close()
    assert len(collector.headers) == 1, "one request for the batch"


def test_what_is_detached_belongs_to_no_span(collector: Collector):
    tracer = open_tracer(collector)
    with tracer.span("request"):
        tracer.detach()
        assert tracer.current() is None
        with tracer.within("store.read"):
            pass
    tracer.close()
    assert [s.name for s in collector.spans] == ["request"]


def test_a_collector_that_is_away_stops_nobody_and_is_told_once(collector: Collector):
    collector.status = 503
    tracer = open_tracer(collector)
    with capture_logs() as logs:
        for _ in range(3 * QUEUE):
            with tracer.span("many"):
                pass
        closing = threading.Thread(target=tracer.close)
        closing.start()
        closing.join(10)
        assert not closing.is_alive(), "closing waits for nobody"
    told = [entry for entry in logs if entry["event"] == "telemetry.not_exported"]
    assert [entry["reason"] for entry in told] == ["it answered 503"]


@pytest.mark.parametrize("status", [200, 429])
def test_an_answer_s_body_is_never_read(status: int):
    read: list[int] = []

    class Endless(httpx.SyncByteStream):
        def __iter__(self):
            while True:
                read.append(1)
                yield b"x" * 65536

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers={"retry-after": "9999"}, stream=Endless())

    shipper = Shipper(Telemetry("http://localhost:4318"), {}, httpx.MockTransport(answer))
    with capture_logs() as logs:
        shipper.export([])
    shipper.close()
    assert not read
    assert [entry["reason"] for entry in logs] == ([] if status == 200 else ["it answered 429"])


def test_the_log_says_when_the_collector_is_back_and_what_was_lost():
    answers: list[httpx.Response | Exception] = [
        httpx.Response(500),
        httpx.ConnectError("away"),
        httpx.Response(200),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    shipper = Shipper(Telemetry("http://localhost:4318"), {}, httpx.MockTransport(answer))
    with capture_logs() as logs:
        for _ in range(3):
            shipper.export([])
    shipper.close()
    events = [entry["event"] for entry in logs]
    assert events == ["telemetry.not_exported", "telemetry.exported_again"]
    assert not answers


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (render_traceparent(PLACE), PLACE),
        ("00-" + "0" * 31 + "1-" + "0" * 15 + "2-00", TraceContext(1, 2, False)),
        ("cc-" + "0" * 31 + "1-" + "0" * 15 + "2-09-what-is-new", TraceContext(1, 2, True)),
        ("00-" + "0" * 31 + "1-" + "0" * 15 + "2-01-more", None),
        ("ff-" + "0" * 31 + "1-" + "0" * 15 + "2-01", None),
        ("00-" + "0" * 32 + "-" + "0" * 15 + "2-01", None),
        ("00-" + "0" * 31 + "1-" + "0" * 16 + "-01", None),
        ("00-" + "A" * 32 + "-" + "0" * 15 + "2-01", None),
        ("", None),
        ("cc-" + "0" * 31 + "1-" + "0" * 15 + "2-09-" + "x" * 1000, None),
    ],
)
def test_traceparent_is_read_as_the_standard_says(text: str, place: TraceContext | None):
    assert parse_traceparent(text) == place


@pytest.mark.parametrize(
    ("endpoint", "headers", "sound"),
    [
        ("http://localhost:4318/", {"authorization": "Bearer x"}, True),
        ("https://otel.example.org/base", {"authorization": "Bearer x"}, True),
        ("http://otel.example.org:4318", {}, True),
        ("http://otel.example.org:4318", {"authorization": "Bearer x"}, False),
        ("http://me:password@localhost:4318", {}, False),
        ("ftp://localhost", {}, False),
        ("localhost:4318", {}, False),
        ("http://localhost:4318", {"a b": "x"}, False),
        ("http://localhost:4318", {"a": "x\r\ny: z"}, False),
        ("http://localhost:4318", {"a": "password "}, False),
    ],
)
def test_endpoints(endpoint: str, headers: dict[str, str], sound: bool):
    if sound:
        assert check_endpoint(endpoint, headers) == endpoint.rstrip("/")
        return
    with pytest.raises(Invalid) as refused:
        check_endpoint(endpoint, headers)
    assert "password" not in refused.value.detail


def test_nothing_is_traced_and_nothing_loaded_unless_asked():
    tracer = load_tracer(
        None, service="t", version="1", clock=VirtualClock(), entropy=SeededEntropy()
    )
    assert tracer is NO_TRACER
    with tracer.span("a") as span, tracer.within("b"):
        span.note(a=1)
        assert tracer.current() is None
    script = (
        "import sys, troth.server.serving, troth.agent.main\n"
        "sys.exit(bool({'troth.drivers.tracers.otlp', 'troth.wire.otlp'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_driver_is_the_listed_one(collector: Collector):
    tracer = open_tracer(collector)
    assert isinstance(tracer, OtlpTracer)
    tracer.close()
    tracer.close()
