"""`troth audit prove`: evidence from files and from a server, that `troth audit verify` takes."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tests.fakes.api import FakeApi
from tests.fakes.decisions import make_record
from tests.fakes.logs import make_signer, show_log
from tests.unit.cli.conftest import Run
from tests.unit.cli.test_audit_decisions import close_segments, make_told
from troth.audit.bundle import render_bundle
from troth.audit.proving import prove_entry
from troth.cli import audit_prove
from troth.core.errors import NotFound, Unavailable
from troth.wire.api import auditproofs as wire

KEY = make_signer().keys[0].render()


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(show_log(1000).write_to(tmp_path / "log"))


def test_an_event_from_files(run: Run, tmp_path: Path, log: str) -> None:
    out = tmp_path / "event.json"
    result = run("audit", "prove", "300", "--log", log, "-o", str(out))
    assert result.exit_code == 0, result.output
    assert (result.stdout, f"troth audit verify {out}" in result.stderr) == ("", True)
    assert run("audit", "verify", str(out), "--key", KEY).exit_code == 0
    printed = run("audit", "prove", "300", "--log", log)
    assert printed.stdout == out.read_text(encoding="utf-8")


def test_a_tlog_proof(run: Run, tmp_path: Path, log: str) -> None:
    out = tmp_path / "event.tlog-proof"
    options = ["--log", log, "--format", "tlog-proof", "-o", str(out)]
    assert run("audit", "prove", "300", *options).exit_code == 0
    assert out.read_text(encoding="utf-8").startswith("c2sp.org/tlog-proof@v1\nextra ")
    assert "payments" not in out.read_text(encoding="utf-8")
    assert run("audit", "verify", str(out), "--key", KEY).exit_code == 0


def test_a_decision_from_files(run: Run, tmp_path: Path) -> None:
    decisions, out = tmp_path / "decisions", tmp_path / "decision.json"
    closed = close_segments(decisions, 7, 5)
    where = str(make_told(closed).write_to(tmp_path / "log"))
    id_ = make_record(9).id
    options = ["--log", where, "--decisions", str(decisions)]
    result = run("audit", "prove", id_, *options, "-o", str(out))
    assert result.exit_code == 0, result.output
    result = run("audit", "verify", str(out), "--key", KEY, "--json")
    found = json.loads(result.stdout)
    assert [step["outcome"] for step in found["steps"]] == ["shown"] * 6
    assert found["decision"]["id"] == id_
    assert "6. shown" in run("audit", "verify", str(out), "--key", KEY).stdout
    assert run("audit", "prove", id_, "--log", where).exit_code == 2
    assert run("audit", "prove", id_, "--decisions", str(decisions)).exit_code == 2
    assert run("audit", "prove", id_, *options, "--format", "tlog-proof").exit_code == 2
    assert run("audit", "prove", "dec_ffffff", *options).exit_code == 1
    show_log(20).write_to(tmp_path / "log")
    result = run("audit", "prove", id_, *options)
    assert result.exit_code == 1
    assert "doesn't tell yet of segment 2" in result.stderr


def test_what_isnt_there_or_is_damaged_is_not_proved(run: Run, tmp_path: Path, log: str) -> None:
    assert "no event 1001" in run("audit", "prove", "1001", "--log", log).stderr
    assert run("audit", "prove", "x", "--log", log).exit_code == 2
    assert run("audit", "prove", "300", "--log", str(tmp_path)).exit_code == 2
    spoilt = show_log(1000).copy()
    spoilt.flip("tile/0/001", 43 * 32 + 700)
    spoilt.write_to(tmp_path / "log")
    codes = {
        run("audit", "prove", str(position), "--log", log).exit_code for position in (322, 400, 470)
    }
    assert codes == {1}


def test_a_server_is_asked(run: Run, api: FakeApi, tmp_path: Path) -> None:
    log = show_log(1000)
    document = render_bundle(prove_entry(log.read, log.checkpoint, 300))
    api.answers["audit.prove"] = msgspec.json.decode(document, type=wire.Evidence)
    result = run("audit", "prove", "300")
    assert result.exit_code == 0, result.output
    assert result.stdout.encode() == document
    assert [request.entry for request in api.named("audit.prove")] == ["300"]
    assert run("audit", "prove", "dec_0aF").exit_code == 2
    assert run("audit", "prove", "0").exit_code == 2
    api.answers["audit.prove"] = NotFound("No decision 'dec_00' is in this server's log.")
    result = run("audit", "prove", "dec_00")
    assert result.exit_code == 1
    assert "No decision" in result.stderr


def test_a_server_that_has_it_in_a_moment_is_asked_again(
    run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = show_log(1000)
    document = render_bundle(prove_entry(log.read, log.checkpoint, 300))
    api.answers["audit.prove"] = Unavailable("The log takes the decision in just now.")
    turns: list[float] = []

    def pause(seconds: float) -> None:
        turns.append(seconds)
        if len(turns) == 3:
            api.answers["audit.prove"] = msgspec.json.decode(document, type=wire.Evidence)

    monkeypatch.setattr(audit_prove, "pause", pause)
    result = run("audit", "prove", "dec_00")
    assert result.exit_code == 0, result.output
    assert (result.stdout.encode(), len(turns)) == (document, 3)
    api.answers["audit.prove"] = Unavailable("The log takes the decision in just now.")
    result = run("audit", "prove", "dec_00")
    assert result.exit_code == 1
    assert len(turns) == 3 + audit_prove.TRIES
