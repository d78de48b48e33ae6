"""The page for the auditor, command by command: with copies of files, and nothing else of ours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import TROTH, Server, make_environ, wait_for
from troth.audit.checkpoint import parse_checkpoint
from troth.audit.note import parse_note

pytestmark = pytest.mark.e2e

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "audit-offline.md"
ADDRESS = "https://troth.example.org:8443"
MANIFESTS = """\
apiVersion: troth/v1
kind: Resource
metadata: {name: ledger}
spec:
  owner: pay@example.org
  purpose: Entries
  servers: [payments-api]
  actions: {read: See entries}
---
apiVersion: troth/v1
kind: Identity
metadata: {name: payments-api}
spec:
  kind: service
  owner: pay@example.org
  purpose: Takes payments
  selectors: ["unix:uid:4242"]
"""


def list_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def list_commands() -> list[str]:
    lines = (line for block in list_blocks("console") for line in block.splitlines())
    return [line[2:] for line in lines if line.startswith("$ ")]


def run(folder: Path, command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A line of shell, as the auditor types it."""
    path = f"{TROTH.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=make_environ(PATH=path, **environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def call(troth: Server, folder: Path, command: str) -> dict[str, Any]:
    """What the server's administrator does, as JSON."""
    done = run(folder, f"troth {command} --json", TROTH_DATA=str(troth.data))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def count_entries(folder: Path) -> int:
    """How many the checkpoint says that there are in the log of a folder."""
    note = parse_note((folder / "log" / "checkpoint").read_bytes())
    return parse_checkpoint(note.text).size


def hand_over(troth: Server, folder: Path) -> Path:
    """What the operator does before the auditor begins: copies, the key, and two proofs."""
    (folder / "manifests.yaml").write_text(MANIFESTS, encoding="utf-8")
    call(troth, folder, "apply manifests.yaml")
    for _ in range(3):
        call(troth, folder, "identity suspend payments-api --reason 'it looks odd'")
        call(troth, folder, "identity resume payments-api --reason 'it is not'")
    verdict = call(troth, folder, "decision evaluate payments-api read ledger:2027")
    wait_for(lambda: count_entries(troth.data) > 20, "twenty entries in the log")
    desk = folder / "desk"
    desk.mkdir()
    decision = verdict["context"]["id"]
    for entry, name in (("12", "event.json"), (decision, "decision.json")):
        done = run(desk, f"troth audit prove {entry} -o {name}", TROTH_DATA=str(troth.data))
        assert done.returncode == 0, done.stderr
    checkpoint = (troth.data / "log" / "checkpoint").read_bytes()  # before the rest: it grows
    shutil.copytree(troth.data / "log", desk / "log")
    (desk / "log" / "checkpoint").write_bytes(checkpoint)
    shutil.copytree(troth.data / "decisions", desk / "decisions")
    shutil.copytree(troth.data / "archive", desk / "archive")
    shutil.copy(troth.data / "log" / "vkey", desk / "example.org.vkey")
    shutil.copy(troth.data / "ca.pem", desk / "ca.pem")
    return desk


def test_the_auditor_s_page_is_true_word_by_word(troth: Server, folder: Path) -> None:
    desk = hand_over(troth, folder)
    shown: dict[str, str] = {}
    commands = list_commands()
    assert len(commands) > 18
    for command in commands:
        done = run(desk, command.replace(ADDRESS, troth.url))
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        shown[command] = done.stdout
    assert "shown  The log" in shown["troth audit verify log --key @example.org.vkey"]
    assert "6. shown" in shown["troth audit verify decision.json --key @example.org.vkey"]
    (segments,) = [out for line, out in shown.items() if "--decisions decisions" in line]
    assert re.search(r"[1-9]\d* decisions in [1-9]\d* segments (of the archive )?lead", segments)
    assert "seen before" in shown["troth audit verify log --pin example.org.pin"]
    check_by_hand(desk, shown)
    (program,) = list_blocks("python")
    (desk / "all.py").write_text(program, encoding="utf-8")
    done = run(desk, "python all.py")
    assert f"size={count_entries(desk)}" in done.stdout, done.stderr
    check_tampering(desk)


def check_by_hand(desk: Path, shown: dict[str, str]) -> None:
    """What sha256sum prints is what the page says that it is."""
    commitment = next(out for line, out in shown.items() if "xxd -r -p | sha256sum" in line)
    claimed = next(out for line, out in shown.items() if "fromjson" in line)
    assert commitment.split()[0] == claimed.strip()
    leaf = next(out for line, out in shown.items() if line.startswith("(printf"))
    included = next(out for line, out in shown.items() if "verify-inclusion" in line)
    assert leaf.split()[0] == json.loads(included)["leaf_hash"]
    detail = json.loads(next(out for line, out in shown.items() if "tail -c +17" in line))
    assert set(detail) == {"actor", "body", "subject"}
    assert json.loads((desk / "entry-11.json").read_bytes())["position"] == 12


def check_tampering(desk: Path) -> None:
    """A copy in which one word was changed is seen, by us and by others."""
    name = f"tile/entries/000.p/{count_entries(desk)}"
    bundle = desk / "log" / name
    bundle.write_bytes(bundle.read_bytes().replace(b"success", b"failure", 1))
    done = run(desk, "troth audit verify log --key @example.org.vkey")
    assert done.returncode == 1
    assert f"altered  {name}" in done.stdout
    assert run(desk, "python all.py").returncode == 1
    event = desk / "event.json"
    text = event.read_text(encoding="utf-8")
    event.write_text(
        text.replace('"outcome\\":\\"success', '"outcome\\":\\"failure'), encoding="utf-8"
    )
    assert event.read_text(encoding="utf-8") != text
    done = run(desk, "troth audit verify event.json --key @example.org.vkey")
    assert done.returncode == 1
    assert "2. wrong" in done.stdout
