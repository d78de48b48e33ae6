"""A server that is killed while it delivers loses nothing: whatever the journal has, sinks get."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Server, run_troth, wait_for
from tests.fakes.httpreceivers import TOKEN, HttpReceiver, Reply
from tests.fakes.messages import drop_repeats
from troth.wire.api.sinks import ListDeadLetters, ListSinks, SinkView

pytestmark = pytest.mark.e2e

SETTINGS = """
[[sinks]]
name = "copy"
driver = "file"
url = "file://{folder}/events.jsonl"

[[sinks]]
name = "siem"
driver = "splunk"
url = "{url}"
secret = "file:{folder}/token"
decisions = "denied"
"""


class Collector(HttpReceiver):
    """An event collector. Where it is to `stall`, it takes a batch, and answers too late."""

    path = r"/services/collector/event"
    authorization = f"Splunk {TOKEN}"

    def __init__(self) -> None:
        super().__init__()
        self.stall = False
        self.stalled = threading.Event()
        self.decisions: list[str] = []

    def take(self, body: bytes) -> Reply:
        for line in body.splitlines():
            event = json.loads(line)
            metadata = event["event"]["metadata"]
            assert event["host"] == "localhost"
            if metadata["log_name"] == "decisions":
                self.decisions.append(metadata["uid"])
            else:
                self.numbers.append(metadata["sequence"])
        if self.stall:
            self.stalled.set()
            self.released.wait(20)
        return 200, {"text": "Success", "code": 0}


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    made.start()
    yield made
    made.stop()


def prepare(troth: Server, collector: Collector, folder: Path) -> None:
    token = folder / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    troth.write_settings(SETTINGS.format(folder=folder, url=collector.url))


def list_sinks(troth: Server) -> list[SinkView]:
    items: list[SinkView] = troth.call("sink.ls", ListSinks()).items
    return items


def await_all(troth: Server) -> int:
    """Until every sink has everything; the last position then."""

    def look() -> int | None:
        sinks = list_sinks(troth)
        journals = [sink.sources[0] for sink in sinks]
        done = all(source.behind == 0 and not source.trouble for source in journals)
        return journals[0].position if done else None

    return wait_for(look, "all sinks have everything", 30)


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_delivers_loses_nothing(
    lone_troth: Server, collector: Collector, tmp_path: Path
):
    troth = lone_troth
    prepare(troth, collector, tmp_path)
    troth.start()
    await_all(troth)
    for turn in range(3):
        collector.stalled.clear()
        collector.released.clear()
        collector.stall = True
        for number in range(200):
            if collector.stalled.is_set():
                break
            troth.register(f"job-{turn}-{number}", "unix:uid:4711")
        assert collector.stalled.wait(20), "nothing is delivered"
        for more in range(5):
            troth.register(f"late-{turn}-{more}", "unix:uid:4711")
        troth.daemon.kill()
        collector.stall = False
        collector.released.set()
        troth.start()
    head = await_all(troth)
    wanted = list(range(1, head + 1))
    assert drop_repeats(collector.numbers) == wanted
    assert len(collector.numbers) > len(wanted), "what was under way was sent again"
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert drop_repeats(json.loads(line)["metadata"]["sequence"] for line in lines) == wanted
    journal = [entry.position for entry in troth.read_journal()]
    assert set(wanted) <= set(journal)


def test_denied_decisions_arrive_and_nothing_tells_the_secret(
    lone_troth: Server, collector: Collector, tmp_path: Path
):
    troth = lone_troth
    prepare(troth, collector, tmp_path)
    troth.start()
    data = ("--data", str(troth.data))
    asked = run_troth("decision", "evaluate", "nobody", "read", "ledger:1", *data, "--json")
    (decision,) = (
        json.loads(asked.stdout)["evaluations"]
        if "evaluations" in asked.stdout
        else [json.loads(asked.stdout)]
    )
    wait_for(lambda: decision["context"]["id"] in collector.decisions, "the decision arrives")
    shown = run_troth("audit", "sinks", *data)
    assert shown.returncode == 0, shown.stderr
    assert "siem" in shown.stdout
    with troth.connect() as client:
        status = client.call("sink.ls", ListSinks())
        letters = client.call("dead_letter.ls", ListDeadLetters(sink="siem"))
    for text in (
        troth.daemon.log,
        shown.stdout,
        repr(status),
        Path(f"/proc/{troth.daemon.pid}/cmdline").read_text(),
    ):
        assert TOKEN not in text
    assert letters.items == []


def test_a_receiver_that_refuses_is_seen_and_mended_at_the_terminal(
    lone_troth: Server, collector: Collector, tmp_path: Path
):
    troth = lone_troth
    prepare(troth, collector, tmp_path)
    troth.start()
    await_all(troth)
    data = ("--data", str(troth.data))
    real = collector.take

    def refuse(body: bytes) -> Reply:
        if b"job-odd" in body:
            return 400, {"text": "Invalid data format", "code": 6}
        return real(body)

    collector.take = refuse  # type: ignore[method-assign]
    troth.register("job-odd", "unix:uid:4711")
    troth.register("job-even", "unix:uid:4711")
    await_all(troth)

    def run(*words: str) -> Any:
        return run_troth("audit", "dead-letters", *words, *data, "--json")

    (letter,) = json.loads(run("ls", "siem").stdout)["items"]
    assert letter["type"] == "identity.registered"
    assert "Invalid data format" in letter["reason"]
    name = f"{letter['source']}/{letter['position']}"
    assert run("retry", "siem", name).returncode == 1
    collector.take = real  # type: ignore[method-assign]
    done = run("retry", "siem", "--all")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "done": 1,
        "refused": 0,
        "left": 0,
        "trouble": "",
        "next": "",
    }
    head = await_all(troth)
    assert sorted(set(collector.numbers)) == list(range(1, head + 1))
    assert run("drop", "siem", name).returncode == 1
    assert run("drop", "siem").returncode == 2
