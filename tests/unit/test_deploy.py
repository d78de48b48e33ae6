"""What is under deploy/ fits the program: settings, options, ports and users."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.fakes.deployment import CHART, DEPLOY, PORTS, ROOT, parse_command, read
from troth.server.config import load_config
from troth.server.setting_words import describe_settings, name_environment

UNITS = DEPLOY / "systemd"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
BALANCER = DEPLOY / "three-nodes" / "haproxy.cfg"
DOCKERFILE = ROOT / "Dockerfile"
SERVICES = ("troth.service", "troth-agent.service")
WORST = {"troth.service": 1.5, "troth-agent.service": 2.3, "troth-enroll.service": 1.3}
"""Every unit, and how exposed it may be at most, as systemd reckons."""
VARIABLES = {name_environment(setting.name): setting for setting in describe_settings()}


def find_options(path: Path) -> dict[str, list[str]]:
    """The options of a unit, each with its lines."""
    found: dict[str, list[str]] = {}
    for line in read(path).splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


# Everywhere


def test_every_variable_is_a_setting_or_the_commands_own():
    files = [path for path in DEPLOY.rglob("*") if path.is_file()] + [DOCKERFILE]
    assert len(files) > 12
    for path in files:
        if path.name == "_names.tpl":  # makes the names of others, see test_settings_of_the_chart
            continue
        named = set(re.findall(r"\bTROTH_[A-Z][A-Z0-9_]*", read(path)))
        assert named <= {*VARIABLES, "TROTH_URL"}, path


def test_ports_are_those_that_the_server_listens_on():
    public = load_config(data=Path("/nowhere"), environ={}).public.port
    assert (public, public + 1) == PORTS
    assert re.search(rf"^EXPOSE {PORTS[0]} {PORTS[1]}$", read(DOCKERFILE), re.MULTILINE)
    assert tuple(yaml.safe_load(read(CHART / "values.yaml"))["server"]["ports"].values()) == PORTS
    server = yaml.safe_load(read(COMPOSE))["services"]["server"]
    assert server["ports"] == [f"{port}:{port}" for port in PORTS]


# systemd


def test_every_unit_is_looked_at():
    assert {path.name for path in UNITS.glob("*.service")} == set(WORST)


@pytest.mark.parametrize("name", WORST)
def test_unit_is_understood_by_systemd(name, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze here")
    # The program isn't installed where the unit has it.
    unit = tmp_path / name
    unit.write_text(
        re.sub(r"^ExecStart=/\S+", "ExecStart=/bin/true", read(UNITS / name), flags=re.M)
    )
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    said = [line for line in done.stderr.splitlines() if name in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize(("name", "worst"), WORST.items())
def test_unit_is_as_closed_as_it_was(name, worst):
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze here")
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze can't look at a file")
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stderr
    assert float(exposure[1]) <= worst


@pytest.mark.parametrize("name", [*SERVICES, "troth-agent-files.conf"])
def test_command_of_a_unit_is_understood(name):
    (line,) = [line for line in find_options(UNITS / name)["ExecStart"] if line]
    words = line.split()
    assert words[0] == "/opt/troth/bin/troth"
    given = parse_command(words[1:])
    if name == "troth.service":
        assert given["agent"] is False
        return
    options = find_options(UNITS / "troth-agent.service")
    assert "--data /var/lib/" + options["StateDirectory"][0] in line
    assert str(given["socket"]).startswith(f"/run/{options['RuntimeDirectory'][0]}/")


def test_units_have_users_of_their_own_and_the_capabilities_they_explain():
    users = re.findall(r"^u (\S+)", read(UNITS / "sysusers.conf"), re.MULTILINE)
    assert users == [find_options(UNITS / name)["User"][0] for name in SERVICES]
    server, agent = (find_options(UNITS / name) for name in SERVICES)
    assert server["CapabilityBoundingSet"] == server["AmbientCapabilities"] == [""]
    assert agent["CapabilityBoundingSet"] == agent["AmbientCapabilities"]
    for name in ("troth-agent.service", "troth-agent-files.conf"):
        allowed = set(find_options(UNITS / name)["CapabilityBoundingSet"][-1].split())
        explained = set(re.findall(r"^#   (CAP_\w+)  ", read(UNITS / name), re.MULTILINE))
        assert explained <= allowed
        assert allowed - explained <= {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}


# The image


def test_image_runs_as_nobody_in_particular_and_installs_by_hash():
    text = read(DOCKERFILE)
    base = re.findall(r"^(?:ARG PYTHON=|FROM )(.+)$", text, re.MULTILINE)
    assert base == ["python:3.11-slim", "${PYTHON} AS build", "${PYTHON}"]
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["10001:10001"]
    joined = text.replace("\\\n", " ")
    for line in re.findall(r"install .*?(?=&&|$)", joined, re.MULTILINE):
        if line.startswith("install -d"):
            continue
        assert "--require-hashes" in line or "--no-index" in line, line
    for path in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in path.split()), path
    shown = [line[1:] for line in read(ROOT / ".dockerignore").splitlines() if line[:1] == "!"]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    assert {name.split("/")[0] for names in copied for name in names.split()} == set(shown)
    command = re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert command is not None
    given = parse_command(json.loads(command[1]))
    assert (given["agent"], given["listen"]) == (False, f"0.0.0.0:{PORTS[0]}")


def test_health_check_is_a_program():
    found = re.search(r"CMD (\[\"python\".*\])$", read(DOCKERFILE), re.MULTILINE)
    assert found is not None
    python, option, code = json.loads(found[1])
    assert (python, option) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert r"GET /readyz HTTP/1.1\r\n" in code


def test_what_builds_the_wheel_is_locked_with_hashes():
    text = read(ROOT / "requirements" / "build.txt")
    pins = re.findall(r"^([\w.-]+)==\S+ \\\n    --hash=sha256:", text, re.MULTILINE)
    assert "hatchling" in pins
    assert len(pins) == len(re.findall(r"^\w", text, re.MULTILINE))


# Compose


def test_compose_is_closed_and_its_commands_are_understood():
    services = yaml.safe_load(read(COMPOSE))["services"]
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
    assert "cap_add" not in services["server"]
    assert services["agent"]["cap_add"] == ["SYS_PTRACE", "DAC_READ_SEARCH"]
    for name in services["server"]["environment"]:
        assert name in VARIABLES
    words = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in services["agent"]["command"]]
    given = parse_command(words)
    assert given["server"] == f"https://localhost:{PORTS[0]}"
    assert str(given["socket"]) in json.dumps(services["agent"]["healthcheck"])


# The load balancer


def test_the_balancer_passes_both_ports_through_and_haproxy_agrees():
    text = read(BALANCER)
    assert "mode tcp" in text
    assert "GET /readyz" in text
    for port in PORTS:
        assert len(re.findall(rf'server \w "\$\{{NODE_[ABC]\}}:{port}"', text)) == 3
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("Debian's package haproxy isn't installed")
    nodes = {f"NODE_{letter}": f"192.0.2.{number}" for number, letter in enumerate("ABC", 1)}
    checked = subprocess.run(
        [program, "-c", "-f", str(BALANCER)], capture_output=True, text=True, env=nodes
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr
