"""`troth audit monitor`: each new checkpoint and every new entry, or the alarm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.logs import (
    SIGNED_AT,
    FakeLog,
    make_event,
    make_events,
    make_log,
    make_signer,
    show_log,
)
from tests.fakes.weblog import WebLog, serve_log
from tests.unit.cli.conftest import Run
from troth.audit.pin import read_pin
from troth.cli import audit_monitor

KEY = make_signer().keys[0].render()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "example.org.json"


def watch(run: Run, web: WebLog, state: Path, *more: str) -> tuple[int, list[dict[str, Any]]]:
    """One look: the exit code, and the lines of JSON."""
    options = ["--key", KEY, "--state", str(state), "--once", "--json"]
    result = run("audit", "monitor", web.url, *options, *more)
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def put(web: WebLog, log: FakeLog) -> None:
    web.files.clear()
    web.files.update(log.files)


def test_only_what_is_new_is_read(run: Run, state: Path) -> None:
    log = make_log(1000)
    with serve_log(dict(log.files)) as web:
        code, lines = watch(run, web, state)
        assert (code, lines[0]["alarm"], lines[0]["report"]["entries"]) == (0, "", 1000)
        del web.asked[:]
        code, lines = watch(run, web, state)
        assert (code, lines[0]["report"]["entries"]) == (0, 0)
        assert not [name for name in web.asked if name.startswith("tile/entries")]
        log.grow(make_events(200, 1001))
        put(web, log)
        del web.asked[:]
        code, lines = watch(run, web, state)
        assert (code, lines[0]["report"]["size"]) == (0, 1200)
        read = sorted(name for name in web.asked if name.startswith("tile/entries"))
        assert read == ["tile/entries/003", "tile/entries/004.p/176"]
        assert read_pin(state.read_bytes()).size == 1200


def test_a_fork_is_an_alarm_and_its_evidence_is_kept(run: Run, state: Path) -> None:
    events = make_events(1100)
    events[500] = make_event(501, actor="uid:0")
    other = make_log(events)
    with serve_log(dict(show_log(1000).files)) as web:
        watch(run, web, state)
        before = state.read_bytes()
        put(web, other)
        code, lines = watch(run, web, state)
        assert (code, lines[0]["alarm"]) == (1, "fork")
        kept = Path(lines[0]["evidence"])
        evidence = json.loads(kept.read_bytes())
        assert evidence["seen"] == show_log(1000).checkpoint.decode()
        assert evidence["found"] == other.checkpoint.decode()
        assert state.read_bytes() == before  # and the alarm stays
        assert watch(run, web, state)[0] == 1
        result = run("audit", "monitor", web.url, "--key", KEY, "--state", str(state), "--once")
        assert "FORK example.org/log" in result.stdout
        assert "was forked" in result.stderr
        assert str(kept) in result.stderr


def test_a_rollback_is_an_alarm(run: Run, state: Path) -> None:
    with serve_log(dict(show_log(1000).files)) as web:
        watch(run, web, state)
        put(web, show_log(100))
        code, lines = watch(run, web, state)
        assert (code, lines[0]["alarm"]) == (1, "rollback")
        assert Path(lines[0]["evidence"]).name == "example.org.json.rollback"


@pytest.mark.parametrize("name", ["tile/entries/001", "tile/0/002", "checkpoint"])
def test_damage_is_an_alarm(run: Run, state: Path, name: str) -> None:
    log = show_log(1000).copy()
    log.flip(name, 40)
    with serve_log(log.files) as web:
        code, lines = watch(run, web, state)
        assert (code, lines[0]["alarm"], lines[0]["evidence"]) == (1, "damage", "")
        assert not state.exists()


@pytest.mark.parametrize("signed", [True, False])
def test_a_checkpoint_of_more_than_ever_was_is_an_alarm(
    run: Run, state: Path, signed: bool
) -> None:
    log = show_log(1000).copy()
    note = log.signer.sign(1 << 24, log.root, SIGNED_AT)
    log.files["checkpoint"] = (note if signed else note.replace("— ", "— x")).encode()
    with serve_log(log.files) as web:
        code, lines = watch(run, web, state)
        assert (code, lines[0]["alarm"]) == (1, "damage")
        assert len(web.asked) < 2000


def test_what_was_verified_before_is_not_looked_at_again(run: Run, state: Path) -> None:
    log = make_log(1000)
    with serve_log(dict(log.files)) as web:
        watch(run, web, state)
        log.grow(make_events(10, 1001))
        log.flip("tile/entries/000", 50)
        put(web, log)
        assert watch(run, web, state)[0] == 0


def test_a_log_that_is_away_is_waited_for(
    run: Run, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_log(dict(show_log(3).files)) as web:
        web.statuses["checkpoint"] = 503
        assert watch(run, web, state)[0] == 1
        turns: list[float] = []

        def pause(seconds: float) -> None:
            turns.append(seconds)
            web.statuses.clear()
            if len(turns) > 2:
                raise KeyboardInterrupt

        monkeypatch.setattr(audit_monitor, "pause", pause)
        options = ["--key", KEY, "--state", str(state), "--every", "5", "--json"]
        result = run("audit", "monitor", web.url, *options)
        assert result.exit_code == 0, result.output
        assert turns == [5.0, 5.0, 5.0]
        assert "Looking again in 5 s." in result.stderr
        assert [json.loads(line)["alarm"] for line in result.stdout.splitlines()] == ["", ""]
        url = web.url
    result = run("audit", "monitor", url, "--key", KEY, "--state", str(state), "--once")
    assert result.exit_code == 3


def test_wrong_usage(run: Run, state: Path, tmp_path: Path) -> None:
    where = str(show_log(3).write_to(tmp_path / "log"))
    for arguments in (
        ["--state", str(state)],
        ["--key", KEY],
        ["--key", "x", "--state", str(state)],
        ["--key", KEY, "--state", str(state), "--every", "0"],
        ["--key", f"@{where}/vkey", "--state", str(state)],
    ):
        assert run("audit", "monitor", where, *arguments, "--once").exit_code == 2
