"""The how-to on searching the past, command by command, on a real server."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
from pathlib import Path

import duckdb
import pytest

from tests.e2e.processes import TROTH, Server, make_environ, wait_for
from tests.fakes.ocsf import list_faults

pytestmark = pytest.mark.e2e

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "audit-search.md"
MANIFESTS = """\
apiVersion: troth/v1
kind: Resource
metadata: {name: ledger}
spec:
  owner: pay@example.org
  purpose: Entries
  servers: [payments-api]
  actions: {read: See entries, write: Add entries}
---
apiVersion: troth/v1
kind: Role
metadata: {name: reader}
spec:
  owner: pay@example.org
  purpose: Reads
  permissions: [{resource: ledger, actions: [read]}]
---
apiVersion: troth/v1
kind: Identity
metadata: {name: payments-api}
spec:
  kind: service
  owner: pay@example.org
  purpose: Takes payments
  roles: [reader]
  selectors: ["unix:uid:4242"]
"""
REQUEST = "req_5f3c01a2b3c4d5e6f7a8b9c0"
"""Stands in the guide for one that the reader has."""


def list_commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def run(troth: Server, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command as the reader types it, in a folder of the reader's own."""
    return subprocess.run(
        [str(TROTH), *words],
        cwd=folder,
        env=make_environ(TROTH_DATA=str(troth.data)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_guide_s_commands_do_what_it_says(troth: Server, folder: Path) -> None:
    manifests = folder / "manifests.yaml"
    manifests.write_text(MANIFESTS)
    assert run(troth, folder, "apply", str(manifests)).returncode == 0
    for action in ("read", "write"):
        run(troth, folder, "decision", "evaluate", "payments-api", action, "ledger:2027")
    reason = "scans the network: =1+1"
    assert not run(
        *(troth, folder, "identity", "suspend", "payments-api", "--reason", reason)
    ).returncode
    found = json.loads(run(troth, folder, "audit", "search", "--since", "1h", "--json").stdout)
    suspended = next(one for one in found["items"] if one["action"] == "identity.suspended")
    assert {one["kind"] for one in found["items"]} == {"event", "decision"}
    shown: dict[str, str] = {}
    commands = list_commands()
    assert len(commands) > 10
    for command in commands:
        words = shlex.split(command.replace(REQUEST, suspended["request_id"]))[1:]
        if words[1] == "tail":
            continue  # below
        done = run(troth, folder, *words)
        assert done.returncode in (0, 1), (command, done.stderr)
        assert done.returncode == 0 or "--at" in words, (command, done.stderr)
        shown[command] = done.stdout
    newest = shown[commands[0]].splitlines()
    assert "identity.suspended" in newest[1]
    assert "scans the network" in newest[1]
    denials = "troth audit search --resource ledger --outcome failure --since yesterday"
    assert "write" in shown[denials]
    assert shown['troth audit search --text "scans the network" --since 30d --until now']
    assert "identity.suspended" in shown[f"troth audit trace {REQUEST}"]
    assert shown["troth audit who ledger --action read"] == ""  # it is suspended now
    touched = shown["troth audit touched ledger --since 30d"]
    assert [line.split()[:4] for line in touched.splitlines()[1:]] == [
        ["payments-api", "write", "failure", "1"],
        ["payments-api", "read", "success", "1"],
    ]
    check_exports(folder, shown)


def check_exports(folder: Path, shown: dict[str, str]) -> None:
    with (folder / "events.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    reasons = {row["reason"] for row in rows}
    assert any("scans the network" in one for one in reasons)
    lines = (folder / "ocsf.jsonl").read_text().splitlines()
    assert [list_faults(json.loads(line)) for line in lines] == [[]] * len(lines)
    with duckdb.connect() as engine:
        count = engine.read_parquet(str(folder / "events.parquet")).shape[0]
    assert len(rows) <= count <= len(lines)
    (own_command,) = (command for command in shown if command.endswith("-o -"))
    own = [json.loads(line) for line in shown[own_command].splitlines()]
    assert own
    assert all("payments-api" in json.dumps(one) for one in own)


def test_a_tail_tells_what_comes(troth: Server, folder: Path) -> None:
    command = [str(TROTH), "audit", "tail", "--text", "watched", "--json"]
    environ = make_environ(TROTH_DATA=str(troth.data))
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, env=environ, stdout=out)
    try:
        count = 0

        def act() -> bool:
            nonlocal count
            count += 1
            troth.register(f"watched-{count}", "unix:uid:4343")
            return (folder / "out").read_bytes().endswith(b"}\n")

        wait_for(act, "a line of the tail")
        lines = [json.loads(line) for line in (folder / "out").read_bytes().splitlines()]
        assert lines[0]["action"] == "identity.registered"
    finally:
        process.terminate()
        process.wait(10)
