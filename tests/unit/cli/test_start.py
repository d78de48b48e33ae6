"""agent and up: what they read and hand over; the processes themselves are tested end to end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.unit.cli.conftest import Run
from troth.agent import main as agent_main
from troth.agent.machine import Machine
from troth.agent.node import AgentSettings
from troth.agent.reload import CommandReload, SignalReload
from troth.cli import agent as agent_module
from troth.cli import up as up_module
from troth.cli.targets import read_targets
from troth.core.errors import Conflict, Denied, Invalid, Refused, Unavailable
from troth.server import main as server_main
from troth.server.config import Config

LINE = ("agent", "--server", "https://troth.example:8443", "--ca", "ca.pem")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[AgentSettings]:
    """The settings of agents that were started instead of running."""
    settings: list[AgentSettings] = []

    def run_agent(given: AgentSettings, ready: Callable[[], None]) -> int:
        settings.append(given)
        ready()
        return 0

    monkeypatch.setattr(agent_main, "run_agent", run_agent)
    monkeypatch.setattr(agent_module, "configure_logs", lambda *_: None)
    return settings


def test_the_agent_s_settings(data: Path, started: list[AgentSettings], run: Run) -> None:
    result = run(*LINE, "--mtls-url", "https://troth.example:9", "--join-token", "-", input="tok\n")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    [settings] = started
    assert settings == AgentSettings(
        server_url="https://troth.example:8443",
        mtls_url="https://troth.example:9",
        ca_file=Path("ca.pem"),
        data_dir=data / "agent",
        socket_path=data / "agent.sock",
        join_token="tok",
    )


def test_an_agent_with_the_machines_certificate_and_no_cache(
    started: list[AgentSettings], run: Run
) -> None:
    result = run(*LINE, "--x509pop", "/etc/device.pem", "/etc/device.key", "--no-cache")
    assert result.exit_code == 0, result.output
    [settings] = started
    assert settings.machine == Machine(Path("/etc/device.pem"), Path("/etc/device.key"))
    assert settings.join_token is None
    assert not settings.keep_cache
    for wrong in (
        ["--x509pop", "/etc/device.pem"],
        ["--x509pop", "a", "b", "--join-token", "@token"],
    ):
        assert run(*LINE, *wrong).exit_code == 2


def test_the_agent_as_json(data: Path, started: list[AgentSettings], run: Run) -> None:
    result = run(*LINE, "--json", "--socket", "/run/x.sock")
    assert json.loads(result.stdout)["workload_api"] == "unix:///run/x.sock"
    assert started[0].join_token is None


def test_a_token_from_a_file(tmp_path: Path, started: list[AgentSettings], run: Run) -> None:
    path = tmp_path / "join-token"
    path.write_text("tok\n")
    path.chmod(0o600)
    result = run(*LINE, "--join-token", f"@{path}")
    assert result.stderr == ""
    path.chmod(0o644)
    assert f"chmod 600 {path}" in run(*LINE, "--join-token", f"@{path}").stderr
    assert [settings.join_token for settings in started] == ["tok", "tok"]


def test_a_token_in_the_command_works_with_a_warning(
    started: list[AgentSettings], run: Run
) -> None:
    result = run(*LINE, "--join-token", "troth-join.x.y")
    assert "process list" in result.stderr
    assert "troth-join.x.y" not in result.output
    assert started[0].join_token == "troth-join.x.y"


@pytest.mark.parametrize("token", ["", " \n", "x" * 5000])
def test_what_is_no_token_starts_nothing(
    token: str, started: list[AgentSettings], run: Run
) -> None:
    result = run(*LINE, "--join-token", "-", input=token)
    assert result.exit_code == 1
    assert "troth token join" in result.stderr
    assert started == []


def test_an_agent_that_cannot_start(
    started: list[AgentSettings], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(settings: AgentSettings, ready: Callable[[], None]) -> int:
        raise Conflict("Another agent uses it; stop it.")

    monkeypatch.setattr(agent_main, "run_agent", refuse)
    result = run(*LINE)
    assert result.exit_code == 1
    assert "Another agent uses it" in result.stderr
    (line,) = run(*LINE, "--json").stdout.splitlines()
    assert json.loads(line)["code"] == "conflict"


def test_an_agent_that_fails_later_ends_its_stream_of_lines(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(settings: AgentSettings, ready: Callable[[], None]) -> int:
        ready()
        raise Denied("The node was evicted.")

    monkeypatch.setattr(agent_main, "run_agent", fail)
    monkeypatch.setattr(agent_module, "configure_logs", lambda *_: None)
    lines = [json.loads(line) for line in run(*LINE, "--json").stdout.splitlines()]
    assert [line["message"] for line in lines] == ["ready", "end"]
    assert lines[1]["code"] == "permission_denied"


TARGETS = """
[[files]]
identity = "payments-api"
directory = "/run/payments"
user = {user}
group = 0
mode = "0640"
reload = {{signal = "HUP", pid_file = "/run/p.pid"}}

[[files]]
identity = "orders"
directory = "/run/orders"
user = {user}
reload = {{command = ["systemctl", "reload", "orders"]}}
"""


def test_file_targets(tmp_path: Path, started: list[AgentSettings], run: Run) -> None:
    path = tmp_path / "files.toml"
    path.write_text(TARGETS.format(user=os.geteuid()))
    path.chmod(0o644)
    assert run(*LINE, "--files", str(path)).exit_code == 0
    first, second = started[0].files
    assert (first.identity, first.uid, first.gid, first.mode) == (
        "payments-api",
        os.geteuid(),
        0,
        0o640,
    )
    assert first.reload == SignalReload(signal.SIGHUP.value, Path("/run/p.pid"))
    assert (second.mode, second.reload) == (
        0o600,
        CommandReload(("systemctl", "reload", "orders")),
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[[files]]", "[[file]]", "unknown field"),
        ("[[files]]", "[files", "not TOML"),
        ('"0640"', '"640"', "0640"),
        ('"0640"', '"0644"', "0640"),
        ("user = 0", 'user = "nobody-has-this-name"', "no user"),
        ("group = 0", 'group = "nobody-has-this-name"', "no group"),
        ('signal = "HUP"', 'signal = "NOPE"', "no signal"),
        (', pid_file = "/run/p.pid"', "", "either 'command'"),
        ('"/run/payments"', '"run/payments"', "absolute"),
        ('"/run/payments"', "7", "files[0].directory"),
        ('"/run/payments"', "9" * 5000, "not TOML"),
    ],
)
def test_file_targets_that_are_wrong(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "files.toml"
    text = TARGETS.format(user=os.geteuid())
    old = old.replace("user = 0", f"user = {os.geteuid()}")
    assert old in text
    path.write_text(text.replace(old, new))
    path.chmod(0o644)
    with pytest.raises(Invalid, match=str(path)) as caught:
        read_targets(path)
    assert words in caught.value.detail


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o1666])
def test_file_targets_that_others_can_write_are_refused(
    mode: int, tmp_path: Path, started: list[AgentSettings], run: Run
) -> None:
    path = tmp_path / "files.toml"
    path.write_text(TARGETS.format(user=os.geteuid()))
    path.chmod(mode)
    result = run(*LINE, "--files", str(path))
    assert result.exit_code == 1
    assert not started
    assert f"run: chmod go-w {path}" in result.stderr


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a file of another uid")
def test_file_targets_of_another_user_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "files.toml"
    path.write_text(TARGETS.format(user=0))
    path.chmod(0o644)
    os.chown(path, 4711, 4711)
    with pytest.raises(Refused, match=f"belongs to uid 4711.*chown 0 {path}"):
        read_targets(path)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, bool]]:
    """The configurations of servers that announced themselves instead of running."""
    configs: list[tuple[Config, bool]] = []

    def run_server(config: Config, *, agent: bool, announce: Callable[[Config], Any]) -> int:
        configs.append((config, agent))
        announce(config)
        return 0

    monkeypatch.setattr(server_main, "run_server", run_server)
    monkeypatch.setattr(up_module, "configure_logs", lambda *_: None)
    return configs


def test_up_tells_where_it_is_and_what_to_export(
    data: Path, served: list[tuple[Config, bool]], run: Run
) -> None:
    result = run("up", "--listen", "localhost:9443", "--trust-domain", "example.org")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[2:5] == [
        "export TROTH_URL=https://localhost:9443",
        f"export TROTH_DATA={data}",
        f"export SPIFFE_ENDPOINT_SOCKET=unix://{data}/agent.sock",
    ]
    [(config, agent)] = served
    assert agent
    assert str(config.trust_domain) == "example.org"
    assert config.data == data


def test_up_as_json_without_an_agent(
    data: Path, served: list[tuple[Config, bool]], run: Run
) -> None:
    value = json.loads(run("up", "--no-agent", "--json").stdout)
    assert value["url"] == "https://localhost:8443"
    assert value["admin_socket"] == f"{data}/admin.sock"
    assert value["workload_api"] is None
    assert served[0][1] is False


def test_up_with_settings_that_are_wrong(served: list[tuple[Config, bool]], run: Run) -> None:
    for words in (
        ["--listen", "nowhere"],
        ["--listen", "localhost:99999"],
        ["--trust-domain", "Not A Domain"],
        ["--database", "nowhere"],
    ):
        assert run("up", *words).exit_code == 2, words
    assert "localhost:8443" in run("up", "--listen", "nowhere").stderr
    assert run("up", env={"TROTH_LISTEN_PUBLIC": "nowhere"}).exit_code == 1
    assert served == []


def test_up_warns_of_a_variable_that_nobody_reads(
    served: list[tuple[Config, bool]], run: Run
) -> None:
    with capture_logs() as lines:
        assert run("up", env={"TROTH_TRSUT": "x", "TROTH_PORT": "tcp://10.0.0.1:1"}).exit_code == 0
    assert [(line["log_level"], line["variable"]) for line in lines] == [("warning", "TROTH_TRSUT")]


def test_a_server_that_cannot_open_its_keys_is_not_advised_to_wait(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise Unavailable("The key-encryption key's command failed.")

    monkeypatch.setattr(server_main, "run_server", fail)
    monkeypatch.setattr(up_module, "configure_logs", lambda *_: None)
    result = run("up")
    assert result.exit_code == 1
    assert result.stderr == "error: The key-encryption key's command failed.\n"
