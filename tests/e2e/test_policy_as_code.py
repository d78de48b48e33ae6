"""Policy as code on real processes: tested, compared, replayed, applied, taken back, held."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.processes import NOBODY, Server, make_environ, run_troth, wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.root,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root to be two people"),
]

UNABLE = 77
AS_USER = Path(__file__).parent / "programs" / "as_user.py"
RULES = """\
apiVersion: troth/v1
kind: Resource
metadata: {name: gateway}
spec:
  owner: pay@example.org
  purpose: Takes payments
  servers: [till-17]
  actions: {charge: Charge a card, refund: Give it back}
---
apiVersion: troth/v1
kind: Role
metadata: {name: till}
spec:
  owner: pay@example.org
  purpose: A till
  permissions: [{resource: gateway, actions: [ACTIONS]}]
---
apiVersion: troth/v1
kind: Identity
metadata: {name: till-17}
spec:
  kind: service
  owner: pay@example.org
  purpose: The first till
  roles: [till]
  selectors: ["unix:uid:4242"]
"""
CASES = """\
cases:
  - {identity: till-17, action: charge, resource: gateway, expect: permit, by: [role/till]}
  - {identity: till-17, action: refund, resource: gateway, expect: EXPECTED}
"""
VAULT = """\
apiVersion: troth/v1
kind: Resource
metadata: {name: vault}
spec:
  owner: pay@example.org
  purpose: Holds card data
  servers: []
  sensitivity: critical
  actions: {open: Open it}
"""


@pytest.fixture(scope="module")
def settings() -> str:
    return f'[roles.uids]\n{NOBODY} = "admin"\n'


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    write_rules(folder, "charge, refund", "permit")
    return folder


@pytest.fixture(scope="module")
def point(troth: Server) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(troth.data / "admin.sock"))
    with httpx.Client(transport=transport, base_url="http://admin", timeout=20) as client:
        yield client


def write_rules(folder: Path, actions: str, expected: str) -> None:
    (folder / "tills.yaml").write_text(RULES.replace("ACTIONS", actions))
    (folder / "tills.test.yaml").write_text(CASES.replace("EXPECTED", expected))


def ask(point: httpx.Client, action: str) -> bool:
    body = {
        "subject": {"type": "identity", "id": "till-17"},
        "action": {"name": action},
        "resource": {"type": "gateway", "id": "g-1"},
    }
    answer = point.post("/access/v1/evaluation", json=body)
    assert answer.status_code == 200, answer.text
    decision: bool = answer.json()["decision"]
    return decision


def test_the_whole_story(troth: Server, rules: Path, point: httpx.Client) -> None:
    def run(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = run_troth("--data", troth.data, *words)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    assert "2 cases, 0 failed" in run("policy", "test", rules).stderr
    gained = "access: till-17 gains charge, refund on gateway"
    assert gained in run("plan", rules).stdout
    assert gained in run("apply", rules).stdout
    assert wait_for(lambda: ask(point, "refund") or None, "the rules to hold")
    for _ in range(13):
        assert ask(point, "refund")
    assert ask(point, "charge")

    # The change: refunds go. Its test says so, and the replay says whom it would hit.
    write_rules(rules, "charge", "permit")
    assert "got deny" in run("policy", "test", rules, code=1).stdout
    write_rules(rules, "charge", "deny")
    run("policy", "test", rules)
    replayed = run("policy", "replay", rules, "--days", "1", code=1)
    assert "would be denied: till-17 refund on gateway" in replayed.stdout
    found = json.loads(run("--json", "policy", "replay", rules, code=1).stdout)
    assert (found["denied"], found["unknown"], found["permitted"]) == (14, 0, 0)
    assert found["complete"]
    suggested = run("policy", "suggest", "till-17", "--days", "1")
    assert "Nothing that it used breaks" in suggested.stderr
    (rules / "least.yaml").write_text(suggested.stdout)
    run("check", rules / "least.yaml")
    (rules / "least.yaml").unlink()

    applied = run("apply", rules)
    assert "access: till-17 loses refund on gateway" in applied.stdout
    assert wait_for(lambda: not ask(point, "refund") or None, "the change to hold")
    assert ask(point, "charge")

    # Taken back: a new version that declares what the first one did.
    diff = run("policy", "diff", "1", "2").stdout
    assert "permissions: gateway: charge, refund → charge" in diff
    assert "access: till-17 gains refund on gateway" in run("policy", "rollback", "1").stdout
    assert wait_for(lambda: ask(point, "refund") or None, "the first rules to hold again")
    versions: list[dict[str, Any]] = json.loads(run("--json", "policy", "history").stdout)["items"]
    assert [(one["number"], one["fault"]) for one in versions] == [(3, ""), (2, ""), (1, "")]
    assert versions[0]["digest"] == versions[2]["digest"]


def run_as(uid: int, troth: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(AS_USER), str(uid), *arguments, "--data", str(troth.data)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd="/",
        env=make_environ(),
    )
    if done.returncode == UNABLE:
        pytest.skip("Python lies where other users can't read it")
    return done


def test_what_is_critical_takes_two(troth: Server, tmp_path: Path) -> None:
    path = tmp_path / "vault.yaml"
    path.write_text(VAULT)
    held = run_troth("--data", troth.data, "--json", "apply", path)
    assert held.returncode == 1, held.stderr
    number = str(json.loads(held.stdout)["held"])
    assert "Resource vault is critical." in held.stderr
    mine = run_troth("--data", troth.data, "policy", "approve", number)
    assert mine.returncode == 1
    assert "somebody else must approve it" in mine.stderr
    assert "Resource vault is critical." in run_as(NOBODY, troth, "policy", "pending").stdout
    review = run_as(NOBODY, troth, "policy", "review", number)
    assert review.returncode == 0, review.stderr
    assert "+ Resource vault" in review.stdout
    theirs = run_as(NOBODY, troth, "policy", "approve", number)
    assert theirs.returncode == 0, theirs.stderr
    history = json.loads(run_troth("--data", troth.data, "--json", "policy", "history").stdout)
    newest = history["items"][0]
    assert (newest["author"], newest["approver"]) == ("uid:0", f"uid:{NOBODY}")
    assert newest["fault"] == ""


def test_whoever_changes_the_past_is_found_out(troth: Server, rules: Path) -> None:
    run_troth("--data", troth.data, "apply", rules)
    with sqlite3.connect(troth.data / "troth.db", timeout=20) as database:
        database.execute("UPDATE policy_sets SET author = 'uid:7' WHERE number = 1")
    database.close()
    done = run_troth("--data", troth.data, "policy", "history")
    assert done.returncode == 1
    assert "Its signature is wrong" in done.stdout
    assert "can't be trusted" in run_troth("--data", troth.data, "policy", "rollback", "1").stderr
