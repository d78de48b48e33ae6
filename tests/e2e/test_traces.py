"""One trace from a workload's fetch by agent and server to the transaction and the signature."""

from __future__ import annotations

import os
import re
from pathlib import Path

import httpx
import pytest

from tests.e2e.processes import Server, open_folder, run_troth, wait_for
from tests.fakes.collector import Collector, run_collector

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
TOKEN = "Bearer very-secret-token"


@pytest.fixture(scope="module")
def collector():
    with run_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def troth(collector):
    with open_folder() as folder:
        server = Server(folder)
        server.environ = {
            "TROTH_TELEMETRY_OTLP_ENDPOINT": collector.url,
            "TROTH_TELEMETRY_OTLP_HEADERS": f'{{"authorization": "{TOKEN}"}}',
            "TROTH_LOG_LEVEL": "debug",
        }
        try:
            yield server.start()
        finally:
            server.stop()


def test_a_fetch_is_one_trace_down_to_the_signature(troth: Server, collector: Collector):
    uid = f"unix:uid:{os.getuid()}"
    troth.register("traced", uid)
    environ = {"SPIFFE_ENDPOINT_SOCKET": troth.endpoint}
    done = wait_for(
        lambda: (
            found
            if (found := run_troth("svid", "fetch", "--json", **environ)).returncode == 0
            else None
        ),
        "the identity reaches the agent",
    )
    assert "traced" in done.stdout

    def look():
        fetched = {s.trace_id for s in collector.named("workload.FetchX509SVID")}
        signed = [s for s in collector.named("keystore.sign") if s.trace_id in fetched]
        stored = {
            s.trace_id
            for s in collector.named("store.commit")
            if s.trace_id in fetched and s.service == "troth-server"
        }
        arrived = {s.trace_id for s in collector.named("POST /v1/certificates/issue")}
        return next((s for s in signed if s.trace_id in stored & arrived), None)

    signature = wait_for(look, "the spans arrive")
    route = "POST /v1/certificates/issue"
    way = ["workload.FetchX509SVID", "svid.obtain", "batch.send", "certificate.issue", route]
    wait_for(lambda: collector.path(signature)[:1] == way[:1], "the agent's spans arrive")
    assert collector.path(signature) == [*way, "certificate.issue", "keystore.sign"]
    assert signature.attributes["keystore.signatures"] == 1

    mine = [span for span in collector.spans if span.trace_id == signature.trace_id]
    assert {span.service for span in mine} == {"troth-agent", "troth-server"}
    commits = [span for span in mine if span.name == "store.commit"]
    assert len(commits) == 2, "intent and result"
    for commit in commits:
        inside = ["certificate.issue", "store.transact", "store.commit"]
        assert collector.path(commit) == [*way, *inside]
        assert commit.start <= commit.end
    intent, result = sorted(commits, key=lambda span: span.start)
    assert intent.end <= signature.start <= signature.end <= result.start

    # The trace, the log and the journal name the same request.
    (request,) = [span for span in mine if span.name == route]
    issued = troth.wait_for_journal("certificate.issued", subject="spiffe://troth.local/traced")
    assert request.attributes["troth.request_id"] == issued.request_id
    assert request.attributes["http.response.status_code"] == 200
    lines = [
        e for e in troth.daemon.events("call.finished") if e["request_id"] == issued.request_id
    ]
    assert [(e["operation"], e["outcome"], e["trace_id"]) for e in lines] == [
        ("certificate.issue", "ok", signature.trace_id)
    ]


def test_a_real_scrape_has_every_series_that_dashboard_and_alerts_ask_for(troth: Server):
    def scrape() -> str | None:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(troth.data / "admin.sock"))) as c:
            text = c.get("http://localhost/metrics").text
        found = re.search(r"^troth_journal_head [1-9]", text, re.MULTILINE)
        return text if found and "troth_identities{" in text and "troth_crl_age" in text else None

    text = wait_for(scrape, "the gauges are set")
    shown = set(re.findall(r"^(\w+)(?:\{.*\})? ", text, re.MULTILINE))
    shown |= {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown}
    asked = set()
    for name in ("deploy/grafana/troth.json", "deploy/prometheus/troth.rules.yml"):
        asked |= set(re.findall(r"\b(?:troth|process)_\w+", (ROOT / name).read_text()))
    rare = {"troth_background_failures_total", "troth_store_retries_total"}  # nothing went wrong
    elsewhere = ("troth_agent_", "troth_sink_")  # no sink is configured here
    server = {name for name in asked if not name.startswith(elsewhere)} - rare
    assert len(server) > 25
    assert server <= shown
    epoch, head = (
        float(re.search(rf"^{name} (\S+)", text, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("troth_snapshot_epoch", "troth_journal_head")
    )
    assert epoch >= head > 0
    assert not re.search(r"spiffe:|uid:|/traced", text)


def test_spans_and_logs_hold_nothing_that_names_or_opens_anything(
    troth: Server, collector: Collector
):
    wait_for(lambda: collector.headers, "the first spans arrive")
    assert {headers["authorization"] for headers in collector.headers} == {TOKEN}
    values = [value for span in collector.spans for value in span.attributes.values()]
    assert not [value for value in values if "spiffe" in str(value) or "traced" in str(value)]
    assert "very-secret" not in troth.daemon.log
    for pid in (troth.daemon.pid, troth.agent_pid):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            assert b"very-secret" not in file.read()
